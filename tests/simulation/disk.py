"""The store's disk in memory: the Platter holds what is committed and outlives every jobd; a FakeDisk is one jobd's
way to it, with failures. Records go through the codec, so that what would not survive a real disk does not here.
"""

from collections.abc import Sequence
from typing import Any

from jobd.store import Blob, Memory, Write
from schemas import codec
from schemas.records import AgentRecord, Ended, JobRecord, RunRecord, UserRecord

from .life import Life
from .oracle import Oracle
from .universe import Universe

RECORD_BYTES_MAX = 16 * 1024 * 1024


class Platter:
    """What is committed: records as texts."""

    def __init__(self, universe: Universe, oracle: Oracle) -> None:
        self._universe = universe
        self._oracle = oracle
        self.records: dict[tuple[Any, ...], str] = {}
        self.runs: dict[tuple[str, int], RunRecord] = {}  # the same, decoded
        self.blobs: dict[str, bytes] = {}
        self.fails_until = 0.0

    def commit(self, batch: Sequence[Write]) -> None:
        """All of it, now: nobody sees what a batch itself replaces."""
        for blob in batch:
            if isinstance(blob, Blob):
                self.blobs[blob.sha256] = blob.content
        for record in {_key(write): write for write in batch if not isinstance(write, Blob)}.values():
            self._put(record)
        self._universe.trace(f"commit {len(batch)}")

    def select(self, kind: type) -> list[Any]:
        """All records of a kind."""
        return [self._decode(text, kind) for key, text in self.records.items() if key[0] is kind]

    def _put(self, record: Any) -> None:
        text = codec.dumps(codec.to_data(record))
        again = self._decode(text, type(record))
        self._universe.check(again == record, lambda: f"the codec changed {record} to {again}")
        self.records[_key(record)] = text
        if isinstance(record, RunRecord):
            self.runs[record.job, record.serial] = again
            missing = [each.path for each in record.inputs if each.sha256 not in self.blobs]
            self._universe.check(not missing, lambda: f"C1: the inputs {missing} of {record} are not on disk")
        self._oracle.committed(again)

    def _decode(self, text: str, kind: type) -> Any:
        return codec.decode(text, kind, RECORD_BYTES_MAX)


class FakeDisk:
    """See jobd.store.Disk."""

    def __init__(self, platter: Platter, universe: Universe, life: Life) -> None:
        self._platter = platter
        self._universe = universe
        self._life = life

    def load(self) -> Memory:
        """Everything that must be in memory."""
        runs = sorted(self._platter.runs.values(), key=lambda run: run.order)
        jobs = {run.job for run in runs if not isinstance(run.state, Ended)}
        newest: dict[str, int] = {}
        for run in runs:
            newest[run.job] = max(run.serial, newest.get(run.job, 0))
        return Memory(
            users=tuple(self._platter.select(UserRecord)),
            agents=tuple(self._platter.select(AgentRecord)),
            jobs=tuple(job for job in self._platter.select(JobRecord) if job.id in jobs),
            runs=tuple(
                run
                for run in runs
                if run.job in jobs and (not isinstance(run.state, Ended) or run.serial == newest[run.job])
            ),
            order=runs[-1].order if runs else 0,
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
        """All runs of a job, oldest first."""
        found = [run for run in self._platter.runs.values() if run.job == job]
        return tuple(sorted(found, key=lambda run: run.serial))

    def blob(self, sha256: str) -> bytes | None:
        """The bytes of an input."""
        return self._platter.blobs.get(sha256)


def _key(record: Any) -> tuple[Any, ...]:
    if isinstance(record, RunRecord):
        return RunRecord, record.job, record.serial
    return type(record), record.id
