"""One run on the agent's side, from its order, or from wherever a dead predecessor left it, to its Ended.

The order of the durable steps is the whole point; each one decides what a successor does after a crash behind it:

    order.json, outbox "taken"    the run is ours; nothing was executed: go on
    parent.json (the claim)       it may have been executed: never execute it again
    end.json                      no process of it exists: say so
    outbox Ended                  said; repeated until acknowledged

A run is watched the same way whether this agent or a predecessor had its parent forked: by a pidfd and the files of
its control directory.
"""

import logging
import math
import os
import signal
import typing
from collections.abc import Callable
from typing import TypeVar

import trio

from agents import disk, procs, records
from agents.bulk import Bulk, TransferFailed
from agents.disk import Tree
from agents.failpoints import failpoint
from agents.forks import ForkRefused, Forks
from agents.outbox import Outbox, insist
from agents.progress import ProgressReport
from schemas.codec import CodecError
from schemas.link import AGE_S_MAX, Epoch, InputFile, Outcome, Start, Taken

if typing.TYPE_CHECKING:
    from agents.link import Link

MAIN_PAUSE_S_MIN = 0.0005
MAIN_PAUSE_S_MAX = 0.1
SWEEP_PAUSE_S_MAX = 0.5
OVERDUE_S = 30.0  # a parent that is so late with its end hangs (or was stopped by the code): we end the run
SPOILT_BOOT = ""

log = logging.getLogger(__name__)

T = TypeVar("T")


class Run:
    """A run that is taken and not ended. `order` None means: recovered, and its order is not readable."""

    def __init__(
        self,
        epoch: Epoch,
        order: Start | None,
        *,
        tree: Tree,
        outbox: Outbox,
        forks: Forks,
        link: "Link",
        bulk: Bulk,
        progress: ProgressReport,
        log_tail_bytes: int,
        clear_up: Callable[[], object],
    ) -> None:
        self.epoch = epoch
        self.order = order
        self.run_dir = tree.run_dir(epoch)
        self.control = tree.control(epoch)
        self.name = f"{epoch.job}.{epoch.serial}"
        self._tree = tree
        self._outbox = outbox
        self._forks = forks
        self._link = link
        self._bulk = bulk
        self.progress = progress
        self._log_tail_bytes = log_tail_bytes
        self._clear_up = clear_up  # when no process of it is left, before that is said
        self._recovered = outbox.state(epoch) is not None
        self._is_journaled = trio.Event()
        self._stop = self._read(records.STOP, records.StopRequest) if self._recovered else None
        self._preparing = trio.CancelScope()
        self._watching = trio.CancelScope()
        self._overdue_at = math.inf
        self._pidfd: int | None = None  # the parent's, while it is watched

    # --- what the agent does with it

    def confirm(self) -> None:
        """Answer the Start (again), once it is journaled."""
        if self._is_journaled.is_set():
            self._link.post(Taken(self.epoch))

    async def take(self) -> bool:
        """Journal the order; False if the run was executed or given up long ago, so that nothing is left to do."""
        if not self._recovered:
            if not await insist(self._journal):
                self._link.post(Taken(self.epoch))
                return False
            failpoint("run.ordered")
            await self._outbox.take(self.epoch)
        self._is_journaled.set()
        self.confirm()
        return True

    def ask_to_stop(self, grace_s: float) -> bool:
        """From now on it is not begun; False if somebody has asked before. The asker has it carried out."""
        if self._stop is not None:
            return False
        self._stop = records.StopRequest(grace_s)
        return True

    async def carry_out_stop(self, grace_s: float) -> None:
        """Have it ended; its Ended follows."""
        await self._is_journaled.wait()
        # First the file, then the signal: a parent that is not yet able to take the signal will see the file.
        try:
            request = records.StopRequest(grace_s)
            await trio.to_thread.run_sync(disk.write_record, self.control, records.STOP, request)
        except OSError as error:  # a full disk, perhaps filled by this run: the signal says enough
            log.error("run %s: its stop cannot be noted: %s", self.name, error)
        failpoint("run.stop_noted")
        self._preparing.cancel()
        self._expect_end_in(grace_s)
        self._signal_stop()

    async def live(self) -> None:
        """All the rest of its life, up to the Ended in the outbox."""
        end = await self._until_ended()
        failpoint("run.end_seen")
        self._clear_up()
        if (main := self._read(records.MAIN, records.Main)) is not None:
            await self._outbox.started(self.epoch, main.at)
            await self.progress.ask_once_more()
        await self._outbox.ended(self.epoch, end, self._log_tail())

    # --- before the fork

    def _journal(self) -> bool:
        disk.make_directories(self.control)
        if os.path.lexists(os.path.join(self.control, records.CLAIM)):
            return False
        disk.write_record(self.control, records.ORDER, self.order)
        return True

    async def _until_ended(self) -> records.End:
        if self.order is not None and self._claim() is None:
            try:
                parent = await self._prepare_and_fork(self.order)
            except _NotExecuted as reason:
                await self._refuse(records.End(reason.outcome, records.Moment.now(), text=str(reason)))
            else:
                await self._watch(parent)
        while True:
            claim = self._claim()
            if claim is None:
                # The parent died before it could claim, or the order or the claim is gone.
                await self._refuse(await self._give_up(records.Claim(0, 0, SPOILT_BOOT)))
            elif claim.refusal is not None:
                return claim.refusal
            elif (pidfd := self._open_parent(claim)) is not None:
                await self._watch(pidfd)
            elif (written := self._read(records.END, records.End)) is not None:
                return written
            else:
                return await self._give_up(claim)

    async def _prepare_and_fork(self, order: Start) -> int:
        with self._preparing:
            if self._recovered:
                await self._link.wait_up()  # jobd may have given it up meanwhile, and says so first
            await self._prepare(order)
        if self._stop is not None:
            raise _NotExecuted("stopped", "was stopped before it began")
        if order.batch is not None:  # never a heavy run on a login node
            raise _NotExecuted("not_started", "this agent submits nothing to a scheduler")
        try:
            return await self._forks.fork_run(self.control, self.run_dir)
        except ForkRefused as refused:
            raise _NotExecuted("not_started", f"no process could be made for it: {refused}") from None

    async def _prepare(self, order: Start) -> None:
        try:
            await trio.to_thread.run_sync(disk.make_directories, self.run_dir)
            for file in order.inputs:
                await self._fetch(file)
        except TransferFailed as error:
            raise _NotExecuted("not_started", str(error)) from None
        except OSError as error:
            raise _NotExecuted("not_started", f"its directory could not be written: {error.strerror}") from None
        failpoint("run.prepared")

    async def _fetch(self, file: InputFile) -> None:
        path = f"{self._tree.run_path(self.epoch)}/{file.path}"
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        target = await trio.to_thread.run_sync(disk.open_beneath, self._tree.root, path, flags, True)
        try:
            await self._bulk.fetch(file, target, self._link.wait_up)
        finally:
            os.close(target)

    async def _refuse(self, end: records.End) -> None:
        """Take the claim, so that nobody executes the run. If somebody has it already, that one's word counts."""
        await insist(disk.make_directories, self.control)
        await insist(disk.claim, self.control, records.Claim(0, 0, procs.boot_id(), end))
        failpoint("run.refused")

    # --- beside its parent

    async def _watch(self, pidfd: int) -> None:
        """Until the parent is gone; meanwhile tell of the start and of progress."""
        self._pidfd = pidfd
        if self._stop is not None:
            self._expect_end_in(self._stop.grace_s)
            self._signal_stop()
        try:
            with trio.CancelScope(deadline=self._overdue_at) as self._watching:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._accompany)
                    nursery.start_soon(self.progress.watch_disk, self.control)
                    await trio.lowlevel.wait_readable(pidfd)
                    nursery.cancel_scope.cancel()
            if self._watching.cancelled_caught:
                log.warning("run %s: its parent is overdue and is killed", self.name)
                procs.send(pidfd, signal.SIGKILL)
                await trio.lowlevel.wait_readable(pidfd)
        finally:
            self._pidfd = None
            os.close(pidfd)

    async def _accompany(self) -> None:
        pause_s = MAIN_PAUSE_S_MIN
        path = os.path.join(self.control, records.MAIN)
        # A look costs microseconds and somebody waits for it, so it is often; a spoilt record may yet be replaced.
        while not os.path.lexists(path) or (main := self._read(records.MAIN, records.Main)) is None:
            await trio.sleep(pause_s)
            pause_s = min(1.1 * pause_s, MAIN_PAUSE_S_MAX)
        if self.order is not None:
            limits = self.order.limits
            self._expect_end_in(max(0.0, limits.run_s - main.at.age_s()) + limits.grace_s)
        await self._outbox.started(self.epoch, main.at)
        await self.progress.follow()

    def _expect_end_in(self, wait_s: float) -> None:
        self._overdue_at = min(self._overdue_at, trio.current_time() + wait_s + OVERDUE_S)
        self._watching.deadline = self._overdue_at

    def _signal_stop(self) -> None:
        if self._pidfd is not None:
            procs.send(self._pidfd, signal.SIGTERM)
            procs.send(self._pidfd, signal.SIGCONT)  # the code may have stopped it

    def _open_parent(self, claim: records.Claim) -> int | None:
        if claim.boot != procs.boot_id():
            return None
        return procs.open_process(claim.pid, claim.start_ticks)

    async def _give_up(self, claim: records.Claim) -> records.End:
        """The parent is dead and left no end record: end what is left of the run ourselves."""
        boot = procs.boot_id()
        main = self._read(records.MAIN, records.Main)
        if main is not None and main.at.boot != boot:
            main = None
        pause_s = 0.005
        while await self._forks.sweep(self.name, main):
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, SWEEP_PAUSE_S_MAX)
        text = {
            boot: "its parent process was killed; what was left of the run has been ended",
            SPOILT_BOOT: "it left no record of how it ended; what was left of the run has been ended",
        }.get(claim.boot, "the machine was restarted")
        wall_s = main.at.age_s() if main is not None else 0.0
        return records.End("lost", records.Moment.now(), wall_s=min(wall_s, AGE_S_MAX), text=text)

    # --- its control directory; small files, read at once

    def _claim(self) -> records.Claim | None:
        try:
            return disk.read_record(self.control, records.CLAIM, records.Claim)
        except CodecError as error:
            log.warning("run %s: %s is spoilt: %s", self.name, records.CLAIM, error)
            return records.Claim(0, 0, SPOILT_BOOT)  # claimed all the same

    def _read(self, name: str, kind: type[T]) -> T | None:
        try:
            return disk.read_record(self.control, name, kind)
        except CodecError as error:
            log.warning("run %s: %s is spoilt: %s", self.name, name, error)
            return None

    def _log_tail(self) -> str:
        try:
            return disk.read_end(self.control, records.LOG, self._log_tail_bytes).decode(errors="replace")
        except OSError:
            return ""


class _NotExecuted(Exception):
    """The run ends here and is never executed."""

    def __init__(self, outcome: Outcome, text: str) -> None:
        super().__init__(text)
        self.outcome = outcome
