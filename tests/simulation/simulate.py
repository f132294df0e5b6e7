"""One seed, from the first request until everything is over and nothing is left."""

import gc
import logging
from collections import Counter
from functools import partial

import trio
import trio.testing

from backends.fake import Place

from . import agent
from .answers import Answers
from .belongings import Belongings
from .clients import Client
from .daemon import Daemon, configuration
from .disk import Platter
from .ending import census, until_idle, until_over
from .faults import Faults
from .machine import Machine
from .operators import Operator
from .oracle import Oracle
from .tab import World
from .universe import Universe, Violation, seeded_scheduler

WORK_S = 200.0  # how long users and faults are busy


class _Tracebacks(logging.Handler):
    """jobd logs its own bugs with a traceback, and goes on; here they are violations."""

    def __init__(self, universe: Universe) -> None:
        super().__init__(logging.ERROR)
        self._universe = universe

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            error = record.exc_info[1]
            if self._universe.trace_to is not None:
                self._universe.trace(logging.Formatter().formatException(record.exc_info))
            self._universe.violate(f"jobd logged a bug: {record.getMessage()}: {error!r}")
        elif self._universe.trace_to is not None:
            self._universe.trace(record.getMessage())


def simulate(seed: int, trace_to: list[str] | None = None, *, work_s: float = WORK_S, faults: bool = True) -> Universe:
    """Run one seed; raises Violation."""
    universe = Universe(seed, trace_to)
    handler = _Tracebacks(universe)
    logger = logging.getLogger("jobd")
    level, logger.propagate = logger.level, False
    logger.setLevel(logging.ERROR if trace_to is None else logging.INFO)
    logger.addHandler(handler)
    handler.setLevel(logger.level)
    gc.disable()  # so that no collection falls where it did not fall the last time
    try:
        with seeded_scheduler(seed):
            clock = trio.testing.MockClock(autojump_threshold=0)
            trio.run(_universe, universe, work_s, faults, clock=clock)
    finally:
        gc.enable()
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = True
    if universe.violation:
        raise Violation(universe.violation)
    return universe


async def _universe(universe: Universe, work_s: float, faults: bool) -> None:
    oracle = Oracle(universe, configuration(universe))
    platter = Platter(universe, oracle)
    with universe.root:
        async with trio.open_nursery() as nursery:
            machine = Machine(universe, oracle, nursery)
            machine.place = Place(nursery, partial(agent.live, machine))
            daemon = Daemon(universe, oracle.config, platter, machine)
            nursery.start_soon(daemon.run)
            world = World(universe, oracle, Answers(universe, oracle), Belongings(universe), daemon)
            await trio.testing.wait_all_tasks_blocked()
            tasks = census()
            await _work(world, Faults(universe, machine, daemon, platter) if faults else None, work_s)
            universe.calm = True
            platter.fails_until = 0.0
            await _end(world, tasks)
            universe.counts["virtual seconds"] = int(trio.current_time())
            nursery.cancel_scope.cancel()


async def _end(world: World, tasks: Counter[str]) -> None:
    """What ails a sick user's agents ends only when all others are served."""
    if world.universe.sick:
        await until_over(world)
        world.universe.count("healed")
        world.universe.heal()
    await until_over(world)
    world.oracle.check_end()
    world.answers.check_end()
    await until_idle(world, tasks)


async def _work(world: World, faults: Faults | None, work_s: float) -> None:
    chance = world.universe.chance
    async with trio.open_nursery() as nursery:
        for number in range(chance.choice([1, 2, 3, 4, 6])):
            jobs = tuple(f"job{each}" for each in range(chance.randint(1, 4)))
            nursery.start_soon(Client(world, f"user{number}", jobs).live, work_s)
        if faults is None:
            world.universe.calm = True
            world.universe.sick.clear()
        else:
            nursery.start_soon(faults.run, work_s)
            nursery.start_soon(world.daemon.machine.fall_ill)
            if chance.random() < 0.4:
                nursery.start_soon(Operator(world).live, work_s)
