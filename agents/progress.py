"""What a run's analysis worker says about its progress, asked while it goes on and once after its end."""

import logging
import typing

import trio

from agents.analysis import Workers
from agents.answers import OpFailed
from schemas.codec import CodecError
from schemas.link import Epoch, Progress, Start, progress_of

if typing.TYPE_CHECKING:
    from agents.link import Link

PAUSE_S_MAX = 30.0
ONCE_MORE_S_MAX = 2.0

log = logging.getLogger(__name__)


class ProgressReport:
    """The progress of one run, told whenever it changes. A run without a worker has none."""

    def __init__(self, epoch: Epoch, order: Start | None, run_dir: str, workers: Workers, link: "Link") -> None:
        self._epoch = epoch
        self._worker = order.worker if order is not None else None
        self._pause_s = order.progress_s if order is not None else PAUSE_S_MAX
        self._run_dir = run_dir
        self._workers = workers
        self._link = link
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

    async def _ask(self) -> bool:
        if self._worker is None:
            return False
        try:
            result = await self._workers.ask(self._worker, "progress", self._run_dir, {})
            progress = progress_of(self._epoch.job, self._epoch.serial, result if isinstance(result, dict) else {})
        except (OpFailed, CodecError) as error:
            log.info("run %s.%d: its progress is not known: %s", self._epoch.job, self._epoch.serial, error)
            return False
        if progress != self._latest:
            self._latest = progress
            self.repeat()
        return True
