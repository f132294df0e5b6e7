"""The store's disk: one SQLite file, WAL, synchronous=FULL, a schema version with migrations.

Records are whole JSON texts made by the codec; the columns beside them are only what is looked up.
"""

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jobd.store import Blob, Memory, Write
from schemas import codec
from schemas.records import AgentRecord, Ended, JobRecord, RunRecord, UserRecord

RECORD_BYTES_MAX = 16 * 1024 * 1024

# Migration n brings a file of version n to version n + 1. Never edited once released, only added to.
MIGRATIONS = (
    """
    CREATE TABLE users  (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE agents (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE jobs   (id TEXT PRIMARY KEY, user TEXT NOT NULL, name TEXT NOT NULL, record TEXT NOT NULL,
                         UNIQUE (user, name)) WITHOUT ROWID;
    CREATE TABLE runs   (job TEXT NOT NULL, serial INTEGER NOT NULL, position INTEGER NOT NULL, open INTEGER NOT NULL,
                         record TEXT NOT NULL, PRIMARY KEY (job, serial)) WITHOUT ROWID;
    CREATE INDEX runs_open ON runs (open) WHERE open;
    CREATE INDEX runs_position ON runs (position);
    CREATE TABLE blobs  (sha256 TEXT PRIMARY KEY, content BLOB NOT NULL) WITHOUT ROWID;
    """,
)


class SqliteDisk:
    """See jobd.store.Disk. `write` is called by one task at a time; reads have a connection of their own."""

    def __init__(self, path: Path) -> None:
        path.touch(mode=0o600)
        path.chmod(0o600)  # everybody's inputs are in it; SQLite makes the files beside it with the same mode
        self._writer = _connect(path)
        _migrate(self._writer)
        self._reader = _connect(path)

    def close(self) -> None:
        """Close both connections."""
        self._writer.close()
        self._reader.close()

    def load(self) -> Memory:
        """Everything that must be in memory."""
        runs = self._records(
            RunRecord,
            """SELECT record FROM runs AS run WHERE job IN (SELECT job FROM runs WHERE open)
               AND (open OR serial = (SELECT max(serial) FROM runs WHERE job = run.job)) ORDER BY position""",
        )
        jobs = self._records(JobRecord, "SELECT record FROM jobs WHERE id IN (SELECT job FROM runs WHERE open)")
        (order,) = self._reader.execute("SELECT coalesce(max(position), 0) FROM runs").fetchone()
        return Memory(
            self._records(UserRecord, "SELECT record FROM users"),
            self._records(AgentRecord, "SELECT record FROM agents"),
            jobs,
            runs,
            order,
        )

    def write(self, batch: Sequence[Write]) -> None:
        """Commit all or nothing, durably."""
        with self._writer:
            self._writer.execute("BEGIN IMMEDIATE")
            for write in batch:
                statement, parameters = _STATEMENTS[type(write)]
                self._writer.execute(statement, parameters(write))

    def job(self, user: str, name: str) -> tuple[JobRecord, RunRecord | None] | None:
        """A job by its user's id and its name, with its newest run."""
        jobs = self._records(JobRecord, "SELECT record FROM jobs WHERE user = ? AND name = ?", user, name)
        if not jobs:
            return None
        newest = "SELECT record FROM runs WHERE job = ? ORDER BY serial DESC LIMIT 1"
        runs = self._records(RunRecord, newest, jobs[0].id)
        return jobs[0], runs[0] if runs else None

    def runs(self, job: str) -> tuple[RunRecord, ...]:
        """All kept runs of a job, oldest first."""
        return self._records(RunRecord, "SELECT record FROM runs WHERE job = ? ORDER BY serial", job)

    def blob(self, sha256: str) -> bytes | None:
        """The bytes of an input."""
        row = self._reader.execute("SELECT content FROM blobs WHERE sha256 = ?", (sha256,)).fetchone()
        return row[0] if row else None

    def _records(self, kind: Any, statement: str, *parameters: Any) -> tuple[Any, ...]:
        rows = self._reader.execute(statement, parameters).fetchall()
        return tuple(codec.decode(text, kind, RECORD_BYTES_MAX) for (text,) in rows)


def _connect(path: Path) -> sqlite3.Connection:
    # isolation_level None: transactions begin where we say so. Threads take turns; sqlite3 is built serialized.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise RuntimeError(f"the store has version {version}; this jobd knows versions up to {len(MIGRATIONS)}")
    for number, migration in enumerate(MIGRATIONS[version:], version + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {migration} PRAGMA user_version = {number}; COMMIT;")


def _text(record: Any) -> str:
    return codec.dumps(codec.to_data(record))


_STATEMENTS: dict[type, tuple[str, Callable[[Any], tuple[Any, ...]]]] = {
    UserRecord: ("INSERT OR REPLACE INTO users VALUES (?, ?)", lambda user: (user.id, _text(user))),
    AgentRecord: ("INSERT OR REPLACE INTO agents VALUES (?, ?)", lambda agent: (agent.id, _text(agent))),
    JobRecord: (
        "INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?)",
        lambda job: (job.id, job.user, job.name, _text(job)),
    ),
    RunRecord: (
        "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?)",
        lambda run: (run.job, run.serial, run.order, not isinstance(run.state, Ended), _text(run)),
    ),
    Blob: ("INSERT OR IGNORE INTO blobs VALUES (?, ?)", lambda blob: (blob.sha256, blob.content)),
}
