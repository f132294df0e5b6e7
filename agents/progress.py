"""What a run's analysis worker says about its progress, asked while it goes on and once after its end; and what the
run's parent warns of meanwhile."""

import contextlib
import logging
import typing

import trio
from attrs import evolve

from agents import disk, records
from agents.analysis import Workers
from agents.answers import OpFailed
from schemas.codec import CodecError
from schemas.link import Epoch, Progress, Start, progress_of

if typing.TYPE_CHECKING:
    from agents.link import Link

PAUSE_S_MAX = 30.0
ONCE_MORE_S_MAX = 2.0
NOTE_PAUSE_S = 1.0
REPEAT_PAUSES = 10
PROBLEM_CHARS_MAX = 1000

log = logging.getLogger(__name__)


class ProgressReport:
    """The progress of one run, told whenever it changes. A run without a worker has none but warnings."""

    def __init__(self, epoch: Epoch, order: Start | None, run_dir: str, workers: Workers, link: "Link") -> None:
        self._epoch = epoch
        self._worker = order.worker if order is not None else None
        self._pause_s = order.progress_s if order is not None else PAUSE_S_MAX
        self._run_dir = run_dir
        self._workers = workers
        self._link = link
        self._said: Progress | None = None  # by the worker
        self._warning = ""  # by the run's parent, about the disk
        self._latest: Progress | None = None

    async def follow(self) -> None:
        """Ask again and again; a worker that cannot answer is not started anew every second."""
        pause_s = self._pause_s
        while self._worker is not None:
            pause_s = self._pause_s if await self._ask() else max(pause_s, min(2 * pause_s, PAUSE_S_MAX))
            await trio.sleep(pause_s)

    async def ask_once_more(self) -> None:
        """After the end, so that what was told last is right; the end is not delayed for long."""
        with trio.move_on_after(ONCE_MORE_S_MAX):
            await self._ask()

    def repeat(self) -> None:
        """Tell the latest (again, on a new connection)."""
        if self._latest is not None:
            self._link.post(self._latest)

    async def watch_disk(self, control: str) -> None:
        """Tell of what the run's parent notes about the disk. The note stays there, so a successor tells of it too.

        It is repeated, because a full link drops progress and jobd takes it only once the run has started.
        """
        pauses = 0
        while True:
            note = None
            with contextlib.suppress(CodecError):  # the code's work: whoever spoils it keeps a warning from itself
                note = disk.read_record(control, records.DISK, records.DiskNote)
            self._warning = note.warning if note is not None else ""
            if self._warning or self._latest is not None:
                self._tell()
            pauses += 1
            if self._warning and pauses % REPEAT_PAUSES == 0:
                self.repeat()
            await trio.sleep(NOTE_PAUSE_S)

    async def _ask(self) -> bool:
        if self._worker is None:
            return False
        try:
            result = await self._workers.ask(self._worker, "progress", self._run_dir, {})
            progress = progress_of(self._epoch.job, self._epoch.serial, result if isinstance(result, dict) else {})
        except (OpFailed, CodecError) as error:
            log.info("run %s.%d: its progress is not known: %s", self._epoch.job, self._epoch.serial, error)
            return False
        self._said = progress
        self._tell()
        return True

    def _tell(self) -> None:
        said = self._said or Progress(self._epoch)
        problem = f"{self._warning} {said.problem}".strip()[:PROBLEM_CHARS_MAX]
        progress = evolve(said, problem=problem)
        if progress != self._latest:
            self._latest = progress
            self.repeat()
