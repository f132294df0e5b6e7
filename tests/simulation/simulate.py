"""One seed, from the first request until everything is over and nothing is left."""

import gc
import logging
from functools import partial

import trio
import trio.testing

from backends.fake import Place
from jobd import plans
from jobd.core import Core
from jobd.dispatch import Plan
from jobd.errors import JobdError
from schemas.api import SessionRequest
from schemas.views import SessionView

from . import agent
from .answers import Answers
from .belongings import Belongings
from .clients import Client
from .daemon import Daemon, Unanswered, configuration
from .disk import Platter
from .faults import Faults
from .machine import Machine
from .operators import Operator
from .oracle import Oracle
from .tab import DEADLINE_S, World
from .universe import Universe, Violation, seeded_scheduler

WORK_S = 200.0  # how long users and faults are busy
CALM_S_MAX = 1500.0  # in which everything must have ended after that
IDLE_S = 400.0  # in which everything must be gone after that


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
            await _work(world, Faults(universe, machine, daemon, platter) if faults else None, work_s)
            universe.calm = True
            platter.fails_until = 0.0
            await _until_over(universe, daemon, oracle)
            oracle.check_end()
            world.answers.check_end()
            await _until_idle(world)
            universe.counts["virtual seconds"] = int(trio.current_time())
            nursery.cancel_scope.cancel()


async def _work(world: World, faults: Faults | None, work_s: float) -> None:
    chance = world.universe.chance
    async with trio.open_nursery() as nursery:
        for number in range(chance.randint(1, 4)):
            jobs = tuple(f"job{each}" for each in range(chance.randint(1, 4)))
            nursery.start_soon(Client(world, f"user{number}", jobs).live, work_s)
        if faults is None:
            world.universe.calm = True
        else:
            nursery.start_soon(faults.run, work_s)
            if chance.random() < 0.4:
                nursery.start_soon(Operator(world).live, work_s)


async def _until_over(universe: Universe, daemon: Daemon, oracle: Oracle) -> None:
    with trio.move_on_after(CALM_S_MAX):
        while (
            oracle.open
            or oracle.running
            or daemon.core is None
            or daemon.core.store.committed < daemon.core.store.sequence
        ):
            await trio.sleep(5.0)
        return
    runs = "; ".join(f"{oracle.jobs[run.job]} {run.serial} {run.state}" for run in oracle.open)
    tree = (
        [f"{'  ' * depth}{scope.kind} {scope.name}: {scope.doing}" for depth, scope in daemon.core.root.walk()]
        if daemon.core
        else []
    )
    universe.violate(f"C3: not over {CALM_S_MAX:g} s after the last fault: {runs}\n" + "\n".join(tree))


async def _until_idle(world: World) -> None:
    """A user whose agent an operator had to forget comes back, so that the agent's own journal is heard again."""
    left: list[str] = []
    with trio.move_on_after(IDLE_S):
        for user in sorted(world.oracle.forgets):
            await _come_back(world, world.oracle.users[user])
        while left := _left(world.daemon, world.daemon.machine):
            await trio.sleep(5.0)
    world.universe.check(not left, lambda: f"C11: left {IDLE_S:g} s after the end: {left}")


async def _come_back(world: World, user: str) -> None:
    def plan(core: Core) -> Plan[SessionView]:
        return plans.session(core, user, SessionRequest())

    while True:
        try:
            await world.daemon.ask(plan, user, "", "session", DEADLINE_S)
            return
        except (Unanswered, JobdError):  # a restart that was ordered in the last moment of the faults
            await trio.sleep(5.0)


def _left(daemon: Daemon, machine: Machine) -> list[str]:
    core = daemon.core
    if core is None:
        return ["no jobd"]
    left = [f"scope {scope.kind} {scope.name}: {scope.doing}" for depth, scope in core.root.walk() if depth]
    for each in core.fleet.agents.values():
        if each.record.awake or each.ops or each.waiting or each.link:
            left.append(f"agent {each.record}, {each.ops}, {each.waiting}, {each.link}, {each.stage}")
    left += [f"removal {job} {serial}" for job, serial in machine.oracle.removals.items()]
    left += [f"process {process.spec}" for process in machine.place.processes.values()]
    left += [f"open run {run.key} {run.record.state}" for run in core.jobs.open_runs()]
    left += [f"fact {fact}" for journal in machine.journals.values() for fact in journal.facts]
    left += [f"held {epoch}" for journal in machine.journals.values() for epoch in journal.runs]
    if not core.broker.host.idle or any(core.broker.host.used):
        left.append(f"host slots {core.broker.host.used}")
    if core.store.committed < core.store.sequence:
        left.append("uncommitted records")
    return left
