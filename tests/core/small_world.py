"""A small world in which every plan has something to do: built once, kept as a store, and taken up as after a restart.

The user `user` has the jobs `done` (two runs that are over), `busy` (a run that is executed) and `queued` (a run that
waits), a library file and a token. Nothing but the open runs is in memory, so whatever a plan needs must be read first.
"""

import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from attrs import frozen

from jobd import plans
from jobd.core import Core
from jobd.delivery import Collected
from jobd.dispatch import Held, Plan, Request
from jobd.files import Stored
from jobd.job import Run
from jobd.sqlite import SqliteDisk
from jobd.store import Selection
from schemas.api import (
    AnalysisRequest,
    CancelRequest,
    ComputeRequest,
    ForgetRequest,
    Input,
    RunRequest,
    SessionRequest,
    TokenRequest,
    UserRequest,
)
from schemas.link import (
    Analyse,
    Answer,
    Compute,
    Ended,
    Epoch,
    Fact,
    List,
    Order,
    Read,
    Remove,
    Removed,
    Started,
)
from schemas.link import (
    Held as HeldRun,
)

from .bench import Bench, Wire, bench, run_request

USER, OTHER = "user", "other"
SETTLED_S = 10.0


@frozen
class Case:
    """A plan, and how it is asked for. One of a run (`of_run`) lives in the run's own scope and holds its slots."""

    name: str
    plan: Callable[[Core], Plan[Any]]
    of_run: bool = False


def _run(core: Core) -> Run:
    return core.jobs.run_of(*next(run.key for run in core.jobs.open_runs() if run.job.key[1] == "queued"))  # type: ignore[return-value]


def _token(core: Core) -> str:
    return core.tokens.of(USER)[0].id


def _agent(core: Core) -> str:
    return next(iter(core.fleet.agents.values())).record.id


FROM_LIBRARY = RunRequest("sim", "sequential", {"in": Input(library="file")})
STORED = Stored("b" * 64, 20)

CASES = [
    Case("accept", lambda core: plans.accept(core, USER, "done", run_request("new"))),
    Case("accept of somebody new", lambda core: plans.accept(core, OTHER, "first", run_request())),
    Case("accept the same", lambda core: plans.accept(core, USER, "done", run_request("2"))),
    Case("accept from the library", lambda core: plans.accept(core, USER, "new", FROM_LIBRARY)),
    Case("supersede", lambda core: plans.accept(core, USER, "busy", run_request("new", supersede=True))),
    Case("supersede what waits", lambda core: plans.accept(core, USER, "queued", run_request("x", supersede=True))),
    Case("admit", lambda core: plans.admit(core, _run(core)), of_run=True),
    Case("start", lambda core: plans.start(core, _run(core)), of_run=True),
    Case("status", lambda core: plans.status(core, USER, "done", None, 0.0)),
    Case("long poll", lambda core: plans.status(core, USER, "queued", core.jobs.cached(USER, "queued").revision, 2.0)),  # type: ignore[union-attr]
    Case("cancel", lambda core: plans.cancel(core, USER, "busy", CancelRequest(), USER)),
    Case("cancel what waits", lambda core: plans.cancel(core, USER, "queued", CancelRequest(), USER)),
    Case("cancel a past run", lambda core: plans.cancel(core, USER, "done", CancelRequest(1), USER)),
    Case("delete", lambda core: plans.delete(core, USER, "done")),
    Case("history", lambda core: plans.history(core, USER, "done", None, 10)),
    Case("listing", lambda core: plans.listing(core, USER, Selection(limit=2))),
    Case("listing of all", lambda core: plans.listing(core, None, Selection(limit=9))),
    Case("series", lambda core: plans.series(core, USER, "done", 1)),
    Case("is over", lambda core: plans.is_over(core, USER, "done", None)),
    Case("explain", lambda core: plans.explain(core, USER, "queued", None)),
    Case("analyse", lambda core: plans.analyse(core, USER, "busy", "frame", AnalysisRequest(), Collected())),
    Case("read", lambda core: plans.read(core, USER, "done", 1, "out", (0, None, 0.0), Collected())),
    Case("list files", lambda core: plans.list_files(core, USER, "done", None, Collected())),
    Case("compute", lambda core: plans.compute(core, USER, "sim", "square", ComputeRequest(), Collected())),
    Case("session", lambda core: plans.session(core, OTHER, SessionRequest("sim"))),
    Case("set tier", lambda core: plans.set_tier(core, USER, UserRequest("large"))),
    Case("usage", lambda core: plans.usage(core, USER, "", 10)),
    Case("mint", lambda core: plans.mint(core, OTHER, TokenRequest())),
    Case("tokens", lambda core: plans.tokens(core, USER)),
    Case("revoke", lambda core: plans.revoke(core, USER, _token(core))),
    Case("shelve", lambda core: plans.shelve(core, USER, "file", STORED)),
    Case("shelve a first file", lambda core: plans.shelve(core, OTHER, "file", STORED)),
    Case("find", lambda core: plans.find(core, USER, "file")),
    Case("unshelve", lambda core: plans.unshelve(core, USER, "file")),
    Case("shelf", lambda core: plans.shelf(core, USER)),
    Case("stop agent", lambda core: plans.stop_agent(core, _agent(core))),
    Case("forget agent", lambda core: plans.forget_agent(core, _agent(core), ForgetRequest("lost"), "operator")),
]


def answer(order: Order) -> Fact | None:
    """An agent that knows everything."""
    if isinstance(order, Analyse | Compute | Read | List):
        return Answer(order.op, [1])
    return Removed(order.epoch) if isinstance(order, Remove) else None


async def build(path: Path) -> None:
    """Make the store of the small world."""
    disk = SqliteDisk(path)
    async with bench(disk) as built:
        wire = Wire(answers=answer)
        fact = iter(range(1, 99))
        for job, text, over in [("done", "1", True), ("done", "2", True), ("busy", "1", False)]:
            await built.ask(plans.accept(built.core, USER, job, run_request(text)))
            run = built.begun[-1]
            if not wire.orders:
                await built.link(run.user, wire)
            await _of_run(built, plans.admit(built.core, run))
            await _of_run(built, plans.start(built.core, run))
            await trio.sleep(1)
            wire.say(Started(next(fact), Epoch(*run.key), 0.0))
            if over:
                wire.say(Ended(next(fact), Epoch(*run.key), "exited", 0.0, wall_s=2.0, exit_code=0))
            await trio.sleep(1)
        await built.ask(plans.accept(built.core, USER, "queued", run_request("1")))
        await built.ask(plans.shelve(built.core, USER, "file", Stored("a" * 64, 10)))
        await built.ask(plans.mint(built.core, USER, TokenRequest()))
        await trio.sleep(1)
    disk.close()


async def _of_run(built: Bench, plan: Plan[None]) -> None:
    with (held := Held()):
        await built.ask(plan, Request(built.core.root.open("request", built.core.world.new_id("o")), held))


@asynccontextmanager
async def small_world(store: Path, copy: Path) -> AsyncGenerator[Bench, None]:
    """The small world after a restart, its agent linked."""
    for each in copy.parent.glob(f"{copy.name}*"):
        each.unlink()
    shutil.copyfile(store, copy)
    disk = SqliteDisk(copy)
    try:
        async with bench(disk) as built:
            core, memory = built.core, disk.load()
            built.chance.seed(2)  # no id comes again
            built.begun += core.jobs.restore(memory)
            core.fleet.restore({user.id: user for user in memory.users}, memory.agents)
            core.tokens.restore(memory.tokens)
            (busy,) = [run for run in core.jobs.open_runs() if run.agent is not None]
            held = (HeldRun(Epoch(*busy.key), "running"),)
            await built.link(busy.user, Wire(answers=answer), held=held)
            yield built
    finally:
        disk.close()


def effects(built: Bench) -> dict[str, Any]:
    """What has been done, on disk and beside it, without ids and times; the registry in memory says the same."""
    core, disk = built.core, built.core.store.disk
    memory = disk.load()
    found: dict[str, Any] = {"begun": [(run.job.key, run.key[1]) for run in built.begun]}
    for user in memory.users:
        for job, _ in disk.jobs(Selection(limit=99, user=user.id)):
            runs = disk.runs(job.id)
            found[f"{user.name}/{job.name}"] = [
                (run.serial, type(run.state).__name__, [stage.name for stage in run.timeline], job.purged)
                for run in runs
            ]
            cached = core.jobs.cached(user.name, job.name)
            if cached is not None and cached.run is not None:
                assert (cached.record, cached.run.record) == (job, runs[-1]), "memory and disk differ"
        if user.tier != "default":
            found[f"{user.name}'s tier"] = user.tier
        if files := disk.library(user.id):
            found[f"{user.name}'s library"] = [(file.name, file.sha256) for file in files]
    found["tokens"] = sorted(token.user for token in memory.tokens)
    found["removals"] = len(memory.removals)
    return found


def assert_nothing_is_held(built: Bench) -> None:
    """No slot, no place in a queue, no scope, no question, no watcher."""
    core = built.core
    assert all(pool.idle and not any(pool.used) for pool in core.broker.pools)
    assert not [scope.name for _, scope in core.root.walk() if scope.kind == "request"]
    assert not core._asking
    assert not [agent.ops for agent in core.fleet.agents.values() if agent.ops or agent.waiting]
