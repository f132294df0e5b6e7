"""The composition root: read this first. One screen of nurseries, and everything that the daemon is made of.

    gateway's web server --REST--> web ---\\                         /--> backends: start, find, stop agents
    operator --admin socket------> web ----> core.ask -> plans ------> fleet
    agents --unix, TLS--> gateway -> facts -> jobs.advance -> store (SQLite) -> the gate opens -> replies, orders

Start order: store, registry, runs taken up again, fleet (which opens each agent's doors), and only then the API. Stop
order: the API stops accepting, the scope tree is cancelled with the cause `shutdown` (waiting requests are answered
503), the store is flushed. Nothing that runs is touched: shutdown detaches.
"""

import fcntl
import logging
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO

import trio

from jobd import plans, runs
from jobd.core import SHUTDOWN, Core
from jobd.job import Run
from jobd.scopes import outlive
from jobd.store import Memory
from schemas.records import Pending

log = logging.getLogger(__name__)


class StateInUse(Exception):
    """Another daemon works in this state directory."""


@contextmanager
def locked(state: Path) -> Generator[None, None, None]:
    """The state directory for one daemon alone; raises StateInUse. The lock dies with the process.

    Whoever can open a file can lock it, for reading too: a run that could would keep the next daemon from starting.
    """
    state.mkdir(mode=0o711, parents=True, exist_ok=True)
    lock: IO[str]
    with open(os.open(state / "lock", os.O_WRONLY | os.O_CREAT, 0o600), "w") as lock:
        os.fchmod(lock.fileno(), 0o600)  # one that is there already may have been made otherwise
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateInUse(f"another jobd works in {state}") from None
        yield


@asynccontextmanager
async def running(core: Core, memory: Memory) -> AsyncGenerator[None, None]:
    """The daemon without its doors: inside, `core.ask` serves requests, runs live and agents are tended."""
    open_runs = core.jobs.restore(memory)
    core.fleet.restore({user.id: user for user in memory.users}, memory.agents)
    core.tokens.restore(memory.tokens)
    core.hosts.restore(memory.hosts)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(core.store.run)

        def begin(run: Run) -> None:
            # Its places in the queues are taken here, in order: tasks start in any order.
            outlive(nursery, runs.conduct, core, run, plans.hold(core, run), name=f"run {run.key}")

        core.begin = begin
        await nursery.start(core.fleet.run)
        await nursery.start(core.logins.run)
        for run in sorted(open_runs, key=lambda run: isinstance(run.record.state, Pending)):
            begin(run)  # those that have their slots first
        try:
            yield
        finally:
            core.root.cancel(SHUTDOWN)
            nursery.cancel_scope.cancel(reason="shutdown")
    with trio.move_on_after(core.config.store.flush_s, shield=True):
        await core.store.flush()
