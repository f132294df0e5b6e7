"""The store: memory is the authority for what is active, the store makes it durable, and its gate holds words back.

`put` is a sync enqueue that returns a sequence number; one writer task commits everything that has gathered in one
transaction (group commit). What depends on a change waits for its number: a posted order, an API reply, a pushed
event. So a state change and its message are one step in memory, and no one outside hears of what a crash could undo.

A commit that fails opens no gate: the writer keeps the batch and tries again, and while it does `healthy` is false,
new work is refused and waiting requests end at their own deadlines. Nothing is dropped.
"""

import heapq
import itertools
import logging
import math
from collections.abc import Sequence
from typing import Protocol

import trio
from attrs import field, frozen

from jobd.config import Storage
from jobd.errors import StoreUnavailable
from jobd.scopes import Notice
from jobd.world import World
from schemas.records import (
    AgentRecord,
    HostRecord,
    JobRecord,
    LibraryRecord,
    RemovalRecord,
    RunRecord,
    SeriesRecord,
    TokenRecord,
    UserRecord,
)

log = logging.getLogger(__name__)


@frozen
class Blob:
    """Bytes of run inputs, by content."""

    sha256: str
    content: bytes = field(repr=False)


@frozen
class Purge:
    """The job's runs up to this serial are to be forgotten."""

    job: str
    serial: int


@frozen
class Delete:
    """The record of this kind and id is to be forgotten."""

    kind: type[TokenRecord | RemovalRecord | LibraryRecord]
    id: str


Write = (
    UserRecord
    | JobRecord
    | RunRecord
    | AgentRecord
    | Blob
    | SeriesRecord
    | RemovalRecord
    | TokenRecord
    | LibraryRecord
    | HostRecord
    | Purge
    | Delete
)


@frozen
class Memory:
    """What jobd starts with: users, agents, each run whose end is not proved, and the newest run of such a job."""

    users: tuple[UserRecord, ...]
    agents: tuple[AgentRecord, ...]
    jobs: tuple[JobRecord, ...]
    runs: tuple[RunRecord, ...]  # in the order of acceptance
    order: int  # the highest order of acceptance ever given
    series: tuple[SeriesRecord, ...] = ()  # of the open runs
    removals: tuple[RemovalRecord, ...] = ()
    tokens: tuple[TokenRecord, ...] = ()
    hosts: tuple[HostRecord, ...] = ()


@frozen
class Selection:
    """Which jobs to list: one user's by name, or everybody's by id, each with its newest run; purged ones are not.

    `state` is a state as the API calls it.
    """

    limit: int
    user: str | None = None  # an id
    after: str = ""  # the name (or id) that the last page ended with
    state: str | None = None
    code: str | None = None


@frozen
class Totals:
    """What a user has used, over all jobs."""

    runs: int = 0
    core_s: float = 0.0
    cpu_s: float = 0.0


class Disk(Protocol):
    """Where the store writes; every call blocks. SqliteDisk is the real one."""

    def load(self) -> Memory:
        """Everything that must be in memory."""

    @property
    def is_scarce(self) -> bool:
        """Whether there is no room for new work, though what runs can still be recorded. Does not block."""

    def look_for_room(self) -> None:
        """While it is scarce, see whether it still is."""

    def write(self, batch: Sequence[Write]) -> None:
        """Commit all or nothing, durably; raises OSError or sqlite3.Error."""

    def job(self, user: str, name: str) -> tuple[JobRecord, RunRecord | None] | None:
        """A job by its user's id and its name, with its newest run."""

    def runs(self, job: str) -> tuple[RunRecord, ...]:
        """All kept runs of a job, oldest first."""

    def series(self, job: str, serial: int) -> SeriesRecord | None:
        """The kept scalars of a run."""

    def jobs(self, selection: Selection) -> tuple[tuple[JobRecord, RunRecord], ...]:
        """The jobs that are selected, in order, each with its newest run."""

    def usage(self, user: str) -> Totals:
        """What this user, by id, has used."""

    def used(self, user: str, after: str, limit: int) -> tuple[JobRecord, ...]:
        """The user's jobs that used something, by name."""

    def library(self, user: str) -> tuple[LibraryRecord, ...]:
        """The user's library."""

    def blob(self, sha256: str) -> bytes | None:
        """The bytes of an input."""


class Store:
    """The queue before the disk, and the gate behind it."""

    def __init__(self, disk: Disk, world: World, config: Storage) -> None:
        self.disk = disk
        self._config = config
        self.committed = 0  # the newest sequence number that is on disk
        self.sequence = 0  # the newest one given out
        self.healthy = True
        self._world = world
        self._queue: list[Write] = []
        self._wake = Notice()
        self._gate: list[tuple[int, int, Notice]] = []  # a heap, by the number waited for
        self._entries = itertools.count()

    def put(self, *writes: Write) -> int:
        """Queue these for the next commit, together; returns the sequence number to wait for."""
        assert len(self._queue) < self._config.waiting_max, "new work is refused long before this many writes wait"
        self._queue.extend(writes)
        self.sequence += 1
        self._wake.notify()
        return self.sequence

    def check(self) -> None:
        """For whatever accepts new work: raises StoreUnavailable at once while commits fail, or have but the reserve's
        room. A client retries better than a queue that cannot drain."""
        if self.disk.is_scarce:
            raise StoreUnavailable("Its disk is full but for a reserve.", retry_after_s=self._config.retry_s)
        if not self.healthy or len(self._queue) > self._config.waiting_max // 2:
            raise StoreUnavailable(retry_after_s=self._config.retry_s)

    def notify_at(self, sequence: int, notice: Notice) -> None:
        """Notify when everything up to `sequence` is on disk (not at all if it is already)."""
        if self.committed < sequence:
            heapq.heappush(self._gate, (sequence, next(self._entries), notice))

    async def durable(self, sequence: int) -> None:
        """Return when everything up to `sequence` is on disk."""
        while self.committed < sequence:
            notice = Notice()
            self.notify_at(sequence, notice)
            await notice.wait()

    async def run(self) -> None:
        """The writer: commits what has gathered, again and again. A cancel ends it between commits."""
        while True:
            if self.disk.is_scarce:
                await self._world.hop(self.disk.look_for_room)
            if not self._queue:
                with trio.move_on_after(self._config.retry_s if self.disk.is_scarce else math.inf):
                    await self._wake.wait()
            elif not await self.flush():
                await trio.sleep(self._config.retry_s)

    async def flush(self) -> bool:
        """Commit what has gathered, once; also at a clean stop. Returns whether it is on disk."""
        batch, target = self._queue[:], self.sequence
        try:
            await self._world.hop(self.disk.write, batch)
        except Exception as error:  # whatever a broken disk raises: the batch stays, nothing is acknowledged
            log.error("the store cannot commit %d records: %r", len(batch), error)
            self.healthy = False
            return False
        if not self.healthy:
            log.warning("the store commits again")
        self.healthy = True
        del self._queue[: len(batch)]
        self.committed = target
        while self._gate and self._gate[0][0] <= target:
            heapq.heappop(self._gate)[2].notify()
        return True
