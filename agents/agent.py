"""The agent: what it is made of, and what it does with each order. Read this first.

    orders   link ──> agent ──> runs ──> fork server ──> a parent per run, which outlives all of these
                        └─────> ops (files, analysis), answered through the link and the bulk socket
    facts    runs ──> outbox ──> link

The agent's nursery holds the runs and the analysis workers; what belongs to one connection lives in that connection.
Its own death is no event for the runs: whatever it knows is on disk, and its successor goes on from there.
"""

import contextlib
import logging
import os
import platform
import signal
import socket

import trio
from attrs import evolve

from agents import disk, ipc, lock, procs, records
from agents.analysis import Workers
from agents.bulk import Bulk
from agents.dial import Way
from agents.disk import Tree
from agents.forks import Forks
from agents.link import Link, Op, RefusedError
from agents.ops import Ops
from agents.outbox import Outbox
from agents.progress import ProgressReport
from agents.removal import remove_runs
from agents.runs import Run
from schemas.codec import CodecError
from schemas.link import PROTOCOL, PROTOCOL_MIN, Epoch, Hello, Order, Remove, Removed, Start, Stop, Welcome
from schemas.setups import AgentSetup

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_REFUSED = 2

log = logging.getLogger(__name__)


class Agent:
    """One agent, from its start to its exit."""

    def __init__(self, setup: AgentSetup, way: Way, fork_server: socket.socket, lock: lock.Lock | None = None) -> None:
        self._setup = setup
        self._lock = lock
        self._tree = Tree(setup.root, setup.agent)
        self._forks = Forks(fork_server)
        self._outbox = Outbox(os.path.join(self._tree.own, "outbox"), setup.outbox_facts_max)
        self._bulk = Bulk(way)
        self._link = Link(setup, way, self._outbox, self)
        self._environment = dict(os.environ) if setup.inherits else {}
        self._runs: dict[Epoch, Run] = {}  # those that have not ended
        self._ran_at = trio.current_time()  # when the last of them ended

    async def live(self, fork_server_pid: int) -> int:
        """Until jobd, a signal or loneliness ends it; returns the exit code."""
        self._exit_code = EXIT_OK
        async with trio.open_nursery() as self._nursery:
            self._workers = Workers(self._forks, self._setup.root, self._tree.own, self._environment, self._nursery)
            self._ops = Ops(self._tree, self._workers, self._bulk, self._link, self._runs.__contains__)
            for held in self._outbox.held:
                if held.state != "ended":
                    self._recover(held.epoch)
            self._nursery.start_soon(self._until_signal)
            self._nursery.start_soon(self._until_lonely)
            self._nursery.start_soon(self._until_fork_server_lost, fork_server_pid)
            self._nursery.start_soon(self._until_superseded)
            try:
                end = await self._link.stay()
                self._leave(EXIT_OK, f"jobd says: {end.reason}")
            except RefusedError as error:
                self._leave(EXIT_REFUSED, str(error))
        return self._exit_code

    # --- for the link

    def hello(self) -> Hello:
        """Who we are, and what we hold."""
        return Hello(
            protocol=PROTOCOL,
            protocol_min=PROTOCOL_MIN,
            agent=self._setup.agent,
            generation=self._setup.generation,
            boot=procs.boot_id(),
            python=platform.python_version(),
            pid=os.getpid(),
            fact=self._outbox.last,
            held=self._outbox.held,
        )

    def welcomed(self, welcome: Welcome) -> None:
        """Stop what jobd has given up meanwhile."""
        for epoch in welcome.stop:
            run = self._runs.get(epoch)
            self._stop(epoch, run.order.limits.grace_s if run is not None and run.order is not None else 0.0)
        for run in self._runs.values():
            run.progress.repeat()

    def obey(self, order: Order) -> None:
        """Take an order; the work goes on in a task of its own."""
        if isinstance(order, Start):
            self._start(order)
        elif isinstance(order, Stop):
            self._stop(order.epoch, order.grace_s)
        elif isinstance(order, Remove):
            self._nursery.start_soon(self._remove, order.epoch)

    async def serve(self, op: Op) -> None:
        """Answer an op."""
        await self._ops.serve(op)

    # --- runs

    def _start(self, order: Start) -> None:
        if (run := self._runs.get(order.epoch)) is not None:
            run.confirm()
        elif not self._outbox.has_room(1 + sum(self._outbox.state(epoch) is None for epoch in self._runs)):
            log.error("run %s.%d is not taken: the outbox is full", order.epoch.job, order.epoch.serial)
        else:
            environment = {**self._environment, **order.environment}
            self._begin(order.epoch, evolve(order, environment=environment))

    def _stop(self, epoch: Epoch, grace_s: float) -> None:
        if (run := self._runs.get(epoch)) is not None and run.ask_to_stop(grace_s):
            self._nursery.start_soon(run.carry_out_stop, grace_s)

    def _recover(self, epoch: Epoch) -> None:
        order: Start | None = None
        with contextlib.suppress(CodecError, OSError):
            order = disk.read_record(self._tree.control(epoch), records.ORDER, Start)
        self._begin(epoch, order)

    def _begin(self, epoch: Epoch, order: Start | None) -> None:
        progress = ProgressReport(epoch, order, self._tree.run_dir(epoch), self._workers, self._link)
        self._runs[epoch] = Run(
            epoch,
            order,
            tree=self._tree,
            outbox=self._outbox,
            forks=self._forks,
            link=self._link,
            bulk=self._bulk,
            progress=progress,
            log_tail_bytes=self._setup.log_tail_bytes,
            clear_up=self._clear_up,
        )
        self._nursery.start_soon(self._live_run, self._runs[epoch])

    async def _live_run(self, run: Run) -> None:
        if await run.take():
            log.info("run %s: taken", run.name)
            await run.live()
            log.info("run %s: ended", run.name)
        del self._runs[run.epoch]
        self._ran_at = trio.current_time()

    def _clear_up(self) -> None:
        """A run's processes are gone. jobd is not told yet, so no next run begins here before this is done; it is one
        step without an await, so none that came all the same does either."""
        if self._setup.sweeps_ipc and len(self._runs) == 1:
            ipc.sweep()

    async def _remove(self, upto: Epoch) -> None:
        if any(epoch.job == upto.job and epoch.serial <= upto.serial for epoch in self._runs):
            log.error("job %s: a run up to %d is not over and stays", upto.job, upto.serial)
            return
        try:
            await trio.to_thread.run_sync(remove_runs, self._tree, upto)
        except OSError as error:  # jobd asks again
            log.error("job %s: its runs up to %d cannot be removed: %s", upto.job, upto.serial, error)
        else:
            self._link.post(Removed(upto))

    # --- reasons to leave; the runs stay

    def _leave(self, exit_code: int, reason: str) -> None:
        log.info("leaving: %s", reason)
        self._exit_code = exit_code
        self._nursery.cancel_scope.cancel()

    async def _until_signal(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for signum in signals:
                self._leave(EXIT_OK, signal.Signals(signum).name)

    async def _until_lonely(self) -> None:
        while True:
            now = trio.current_time()
            down_since = self._link.down_since
            alone_s = 0.0 if self._runs or down_since is None else now - max(down_since, self._ran_at)
            if alone_s >= self._setup.lonely_s:
                self._leave(EXIT_OK, f"without jobd and without runs for {alone_s:.0f} s")
            await trio.sleep(max(0.05, (self._setup.lonely_s - alone_s) / 2))

    async def _until_fork_server_lost(self, pid: int) -> None:
        await trio.lowlevel.wait_readable(os.pidfd_open(pid))
        self._leave(EXIT_FAILED, "the fork server was killed")

    async def _until_superseded(self) -> None:
        if self._lock is not None:
            while await trio.to_thread.run_sync(self._lock.refresh, abandon_on_cancel=True):  # noqa: ASYNC110 - files
                await trio.sleep(lock.REFRESH_S)
            self._leave(EXIT_REFUSED, "another process is this agent now")
