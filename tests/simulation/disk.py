"""The store's disk in memory: the Platter holds what is committed and outlives every jobd; a FakeDisk is one jobd's
way to it, with failures. Records go through the codec, so that what would not survive a real disk does not here.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from jobd.states import api_state
from jobd.store import Blob, Delete, Memory, Purge, Selection, Totals, Write
from schemas import codec
from schemas.records import (
    AgentRecord,
    Ended,
    HostRecord,
    JobRecord,
    LibraryRecord,
    RemovalRecord,
    RunRecord,
    SeriesRecord,
    TokenRecord,
    UserRecord,
)

from .life import Life
from .oracle import Oracle
from .universe import Universe

RECORD_BYTES_MAX = 16 * 1024 * 1024


class Platter:
    """What is committed: tables of records as they came back from the codec."""

    def __init__(self, universe: Universe, oracle: Oracle) -> None:
        self._universe = universe
        self._oracle = oracle
        self.tables: dict[type, dict[Any, Any]] = {kind: {} for kind in KINDS}
        self.blobs: dict[str, bytes] = {}
        self.fails_until = 0.0

    def commit(self, batch: Sequence[Write]) -> None:
        """All of it, in order and at once: the oracle is told of each record as the batch leaves it, because nobody
        else sees what a batch itself replaces (and one whose word was lost comes again)."""
        left: dict[Any, Any] = {}
        for write in batch:
            if isinstance(write, Blob):
                self.blobs[write.sha256] = write.content
            elif isinstance(write, Purge):
                self._purge(write)
                left[write] = write
            elif isinstance(write, Delete):
                self.tables[write.kind].pop(write.id, None)
                left.pop((write.kind, write.id), None)
                left[write] = write
            else:
                key = type(write), _key(write)
                self.tables[key[0]][key[1]] = write
                left.pop(key, None)
                left.pop(Delete(*key), None)
                left[key] = write
        # A user who was written again, with another tier, is still there before the user's jobs.
        for write in sorted(left.values(), key=lambda write: not isinstance(write, UserRecord)):
            self._tell(write)
        self._universe.trace(f"commit {len(batch)}")

    def select(self, kind: type) -> list[Any]:
        """All records of a kind."""
        return list(self.tables[kind].values())

    def _purge(self, purge: Purge) -> None:
        for kind in (RunRecord, SeriesRecord):
            table = self.tables[kind]
            for key in [key for key in table if key[0] == purge.job and key[1] <= purge.serial]:
                del table[key]

    def _tell(self, write: Any) -> None:
        if isinstance(write, Purge):
            self._oracle.purged_runs(write.job, write.serial)
        elif isinstance(write, Delete):
            self._oracle.deleted(write.kind, write.id)
        else:
            self._oracle.committed(self._kept(write))

    def _kept(self, record: Any) -> Any:
        """The record as a real disk would give it back."""
        again = codec.decode(codec.dumps(codec.to_data(record)), type(record), RECORD_BYTES_MAX)
        self._universe.check(again == record, lambda: f"the codec changed {record} to {again}")
        table, key = self.tables[type(record)], _key(record)
        if key in table:
            table[key] = again
            back = isinstance(record, RunRecord) and record.serial <= self._oracle.purged.get(record.job, 0)
            self._universe.check(not back, lambda: f"C1: {record} was purged, and is back")
        if isinstance(record, RunRecord):
            missing = [each.path for each in record.inputs if not each.library and each.sha256 not in self.blobs]
            self._universe.check(not missing, lambda: f"C1: the inputs {missing} of {record} are not on disk")
        return again


class FakeDisk:
    """See jobd.store.Disk."""

    def __init__(self, platter: Platter, universe: Universe, life: Life) -> None:
        self._platter = platter
        self._universe = universe
        self._life = life

    is_scarce = False

    def look_for_room(self) -> None:
        """It is not scarce."""

    def load(self) -> Memory:
        """Everything that must be in memory."""
        select = self._platter.select
        runs = sorted(select(RunRecord), key=lambda run: run.order)
        opened = {_key(run) for run in runs if not isinstance(run.state, Ended)}
        jobs = {job for job, _ in opened}
        newest = _newest(runs)
        return Memory(
            users=tuple(select(UserRecord)),
            agents=tuple(select(AgentRecord)),
            jobs=tuple(job for job in select(JobRecord) if job.id in jobs),
            runs=tuple(run for run in runs if run.job in jobs and (_key(run) in opened or newest[run.job] is run)),
            order=runs[-1].order if runs else 0,
            series=tuple(each for each in select(SeriesRecord) if _key(each) in opened),
            removals=tuple(select(RemovalRecord)),
            tokens=tuple(select(TokenRecord)),
            hosts=tuple(select(HostRecord)),
        )

    def write(self, batch: Sequence[Write]) -> None:
        """Commit all or nothing; may fail before it has, and after."""
        if self._life.is_dead:
            raise OSError("this jobd is dead")
        universe = self._universe
        if universe.now().boot_s < self._platter.fails_until or universe.happens(universe.climate.commit_fails):
            universe.count("fault: commit failed")
            if universe.chance.random() < 0.3:
                self._platter.commit(batch)  # on disk, but the word of it was lost
            raise OSError("the disk is full")
        self._platter.commit(batch)

    def job(self, user: str, name: str) -> tuple[JobRecord, RunRecord | None] | None:
        """A job with its newest run."""
        for job in self._platter.select(JobRecord):
            if (job.user, job.name) == (user, name):
                runs = self.runs(job.id)
                return job, runs[-1] if runs else None
        return None

    def runs(self, job: str) -> tuple[RunRecord, ...]:
        """All kept runs of a job, oldest first."""
        found = [run for run in self._platter.select(RunRecord) if run.job == job]
        return tuple(sorted(found, key=lambda run: run.serial))

    def series(self, job: str, serial: int) -> SeriesRecord | None:
        """The kept scalars of a run."""
        return self._platter.tables[SeriesRecord].get((job, serial))

    def jobs(self, selection: Selection) -> tuple[tuple[JobRecord, RunRecord], ...]:
        """The jobs that are selected, in order, each with its newest run."""
        newest = _newest(self._platter.select(RunRecord))
        found = [
            (job.id if selection.user is None else job.name, job, newest[job.id])
            for job in self._platter.select(JobRecord)
            if job.id in newest and selection.user in (None, job.user)
        ]
        return tuple(
            (job, run)
            for key, job, run in sorted(found, key=lambda each: each[0])
            if key > selection.after
            and selection.state in (None, api_state(run.state))
            and selection.code in (None, run.code)
        )[: selection.limit]

    def usage(self, user: str) -> Totals:
        """What this user has used."""
        jobs = [job for job in self._platter.select(JobRecord) if job.user == user]
        return Totals(sum(job.runs for job in jobs), sum(job.core_s for job in jobs), sum(job.cpu_s for job in jobs))

    def used(self, user: str, after: str, limit: int) -> tuple[JobRecord, ...]:
        """The user's jobs that used something, by name."""
        jobs = [job for job in self._platter.select(JobRecord) if job.user == user and job.name > after and job.runs]
        return tuple(sorted(jobs, key=lambda job: job.name)[:limit])

    def library(self, user: str) -> tuple[LibraryRecord, ...]:
        """The user's library."""
        return tuple(file for file in self._platter.select(LibraryRecord) if file.user == user)

    def blob(self, sha256: str) -> bytes | None:
        """The bytes of an input."""
        return self._platter.blobs.get(sha256)


KINDS = (
    UserRecord, AgentRecord, JobRecord, RunRecord, SeriesRecord, RemovalRecord, TokenRecord, LibraryRecord, HostRecord,
)  # fmt: skip


def _key(record: Any) -> Any:
    if isinstance(record, RunRecord | SeriesRecord):
        return record.job, record.serial
    return record.job if isinstance(record, RemovalRecord) else record.id


def _newest(runs: Iterable[RunRecord]) -> dict[str, RunRecord]:
    """The newest run of each job."""
    found: dict[str, RunRecord] = {}
    for run in runs:
        if run.job not in found or found[run.job].serial < run.serial:
            found[run.job] = run
    return found
