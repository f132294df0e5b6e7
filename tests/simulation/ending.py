"""The end of a universe: everything is over in bounded time (C3), nothing is left of it (C11)."""

import gc
from collections import Counter
from collections.abc import Iterator

import trio

from jobd import plans
from jobd.core import Core
from jobd.dispatch import Plan
from jobd.errors import JobdError
from schemas.api import SessionRequest
from schemas.views import SessionView

from .daemon import Daemon, Unanswered
from .machine import Machine
from .tab import DEADLINE_S, World

CALM_S_MAX = 1500.0  # in which everything must have ended after the last fault
IDLE_S = 400.0  # in which everything must be gone after that


async def until_over(world: World) -> None:
    """Every run of whoever is not sick has ended, and is on disk."""
    with trio.move_on_after(CALM_S_MAX):
        while _going_on(world) or not _is_flushed(world.daemon):
            await trio.sleep(5.0)
        return
    core = world.daemon.core
    tree = (
        [f"{'  ' * depth}{scope.kind} {scope.name}: {scope.doing}" for depth, scope in core.root.walk()] if core else []
    )
    runs = "; ".join(_going_on(world))
    world.universe.violate(f"C3, C9: not over {CALM_S_MAX:g} s after the last fault: {runs}\n" + "\n".join(tree))


def _going_on(world: World) -> list[str]:
    oracle, sick = world.oracle, world.universe.sick
    records = [*oracle.open, *(execution.record for execution in oracle.running)]
    return [f"{oracle.jobs[run.job]} {run.serial} {run.state}" for run in records if oracle.users[run.user] not in sick]


def _is_flushed(daemon: Daemon) -> bool:
    return daemon.core is not None and daemon.core.store.committed == daemon.core.store.sequence


async def until_idle(world: World, tasks: Counter[str]) -> None:
    """A user whose agent an operator had to forget comes back, so that the agent's own journal is heard again."""
    left: list[str] = []
    with trio.move_on_after(IDLE_S):
        for user in sorted(world.oracle.forgets):
            await _come_back(world, world.oracle.users[user])
        while left := [*_left_of(world.daemon), *_left_on(world.daemon.machine)]:
            await trio.sleep(5.0)
    world.universe.check(not left, lambda: f"C11: left {IDLE_S:g} s after the end: {left}")
    gc.collect()
    pools = world.daemon.core.broker.pools if world.daemon.core else []
    world.universe.check(len(pools) == 1, lambda: f"C11: pools without tickets: {[pool.name for pool in pools]}")
    now = census()
    world.universe.check(now == tasks, lambda: f"C11: tasks more {now - tasks}, less {tasks - now}")


async def _come_back(world: World, user: str) -> None:
    def plan(core: Core) -> Plan[SessionView]:
        return plans.session(core, user, SessionRequest())

    while True:
        try:
            await world.daemon.ask(plan, user, "", "session", DEADLINE_S)
            return
        except (Unanswered, JobdError):  # a restart that was ordered in the last moment of the faults
            await trio.sleep(5.0)


def census() -> Counter[str]:
    """Every task there is, by name."""
    root = trio.lowlevel.current_root_task()
    assert root is not None, "trio runs"
    found, to_visit = Counter[str](), [root]
    while to_visit:
        task = to_visit.pop()
        found[task.name] += 1
        to_visit += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return found


def _left_of(daemon: Daemon) -> Iterator[str]:
    """What jobd still holds."""
    core = daemon.core
    if core is None or daemon.life is None or daemon.life.ending.is_set():
        yield "no jobd"
        return
    for depth, scope in core.root.walk():
        if depth:
            yield f"scope {scope.kind} {scope.name}: {scope.doing}"
    for agent in core.fleet.agents.values():
        if agent.record.awake or agent.ops or agent.waiting or agent.link:
            yield f"agent {agent.record}, {agent.ops}, {agent.waiting}, {agent.link}, {agent.stage}"
    for run in core.jobs.open_runs():
        yield f"open run {run.key} {run.record.state}"
    for pool in core.broker.pools:
        if not pool.idle or any(pool.used) or pool.waiting:
            yield f"pool {pool.name} {pool.used}"
    held = {
        "asking": core._asking,
        "writes": core.store._queue,
        "gate": core.store._gate,
        "tended agents": core.fleet._tended,
        "runs by agent": core.jobs._by_agent,
        "pending runs": +core.jobs._pending,
        "removals": core.jobs.removals,
        "watchers": [job.key for job in core.jobs._jobs.values() if job.watchers or len(job.changed)],
    }
    for name, things in held.items():
        if things:
            yield f"{name}: {things}"


def _left_on(machine: Machine) -> Iterator[str]:
    """What the agents' host still holds."""
    for process in machine.place.processes.values():
        yield f"process {process.spec}"
    for agent, journal in machine.journals.items():
        # A fact that jobd has, but died before it said so, stays until the agent is needed again: the Welcome says it.
        told = machine.oracle.facts.get(agent, 0)
        yield from (f"fact {fact} of {agent}" for fact, _ in journal.facts if fact.number > told)
        yield from (f"held {epoch} {state} by {agent}" for epoch, state in journal.runs.items() if state != "ended")
    yield from (f"door {agent}" for agent in machine.doors)
    yield from (f"wire {wire}" for wire in machine.wires if not wire.over)
    yield from (f"removal of {job} up to {serial}" for job, serial in machine.oracle.removals.items())
