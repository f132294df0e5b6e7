"""The store's disk: one SQLite file, WAL, synchronous=FULL, so a commit that returned is on the disk.

Records are JSON texts by the codec; columns beside them are only what is searched by. The schema's version is SQLite's
user_version; opening an older file brings it up.
"""

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jobd.reserve import Reserve
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
    """
    CREATE TABLE series   (job TEXT NOT NULL, serial INTEGER NOT NULL, record TEXT NOT NULL,
                           PRIMARY KEY (job, serial)) WITHOUT ROWID;
    CREATE TABLE removals (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE tokens   (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE library  (id TEXT PRIMARY KEY, user TEXT NOT NULL, record TEXT NOT NULL) WITHOUT ROWID;
    CREATE INDEX library_user ON library (user);
    """,
    """
    CREATE TABLE hosts (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
    UPDATE jobs SET record = json_set(record, '$.places', json('["local"]'));
    """,
)

# A run's state as the API calls it, by its record (jobd.states.api_state is the same for people).
API_STATE = """CASE json_extract(run.record, '$.state.is') WHEN 'Pending' THEN 'pending' WHEN 'Starting' THEN 'pending'
               WHEN 'Running' THEN 'running' ELSE json_extract(run.record, '$.state.verdict') END"""


class SqliteDisk:
    """See jobd.store.Disk. `write` is called by one task at a time; reads have a connection of their own."""

    def __init__(self, path: Path, reserve_bytes: int = 0) -> None:
        self._reserve = Reserve(path.with_name("reserve"), reserve_bytes)
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
        open_series = "SELECT series.record FROM series JOIN runs USING (job, serial) WHERE open"
        (order,) = self._reader.execute("SELECT coalesce(max(position), 0) FROM runs").fetchone()
        return Memory(
            self._records(UserRecord, "SELECT record FROM users"),
            self._records(AgentRecord, "SELECT record FROM agents"),
            self._records(JobRecord, "SELECT record FROM jobs WHERE id IN (SELECT job FROM runs WHERE open)"),
            runs,
            order,
            self._records(SeriesRecord, open_series),
            self._records(RemovalRecord, "SELECT record FROM removals"),
            self._records(TokenRecord, "SELECT record FROM tokens"),
            self._records(HostRecord, "SELECT record FROM hosts"),
        )

    @property
    def is_scarce(self) -> bool:
        """Whether the disk has no room for new work."""
        return not self._reserve.is_held

    def look_for_room(self) -> None:
        """While it is scarce, see whether it still is."""
        self._reserve.take()

    def write(self, batch: Sequence[Write]) -> None:
        """Commit all or nothing, durably; on a full disk in the reserve's room."""
        try:
            self._commit(batch)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL or not self._reserve.give_up():
                raise
            self._commit(batch)

    def _commit(self, batch: Sequence[Write]) -> None:
        with self._writer:
            self._writer.execute("BEGIN IMMEDIATE")
            for write in batch:
                for statement, parameters in _statements(write):
                    self._writer.execute(statement, parameters)

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

    def series(self, job: str, serial: int) -> SeriesRecord | None:
        """The kept scalars of a run."""
        found = self._records(SeriesRecord, "SELECT record FROM series WHERE job = ? AND serial = ?", job, serial)
        return found[0] if found else None

    def jobs(self, selection: Selection) -> tuple[tuple[JobRecord, RunRecord], ...]:
        """The jobs that are selected, in order, each with its newest run."""
        order = "job.name" if selection.user is not None else "job.id"
        rows = self._reader.execute(
            f"""SELECT job.record, run.record FROM jobs AS job JOIN runs AS run ON run.job = job.id
                WHERE run.serial = (SELECT max(serial) FROM runs WHERE job = job.id) AND {order} > :after
                AND (:user IS NULL OR job.user = :user)
                AND (:state IS NULL OR :state = {API_STATE})
                AND (:code IS NULL OR :code = json_extract(run.record, '$.code'))
                ORDER BY {order} LIMIT :limit""",  # noqa: S608 - only our own words are put in
            {
                "user": selection.user,
                "after": selection.after,
                "state": selection.state,
                "code": selection.code,
                "limit": selection.limit,
            },
        ).fetchall()
        return tuple((_decoded(job, JobRecord), _decoded(run, RunRecord)) for job, run in rows)

    def usage(self, user: str) -> Totals:
        """What this user, by id, has used."""
        sums = ", ".join(f"coalesce(sum(json_extract(record, '$.{each}')), 0)" for each in ("runs", "core_s", "cpu_s"))
        row = self._reader.execute(f"SELECT {sums} FROM jobs WHERE user = ?", (user,)).fetchone()  # noqa: S608 - ours
        return Totals(*row)

    def used(self, user: str, after: str, limit: int) -> tuple[JobRecord, ...]:
        """The user's jobs that used something, by name."""
        return self._records(
            JobRecord,
            """SELECT record FROM jobs WHERE user = ? AND name > ? AND json_extract(record, '$.runs') > 0
               ORDER BY name LIMIT ?""",
            user,
            after,
            limit,
        )

    def library(self, user: str) -> tuple[LibraryRecord, ...]:
        """The user's library."""
        return self._records(LibraryRecord, "SELECT record FROM library WHERE user = ?", user)

    def blob(self, sha256: str) -> bytes | None:
        """The bytes of an input."""
        row = self._reader.execute("SELECT content FROM blobs WHERE sha256 = ?", (sha256,)).fetchone()
        return row[0] if row else None

    def _records(self, kind: Any, statement: str, *parameters: Any) -> tuple[Any, ...]:
        rows = self._reader.execute(statement, parameters).fetchall()
        return tuple(_decoded(text, kind) for (text,) in rows)


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


def _decoded(text: str, kind: Any) -> Any:
    return codec.decode(text, kind, RECORD_BYTES_MAX)


def _text(record: Any) -> str:
    return codec.dumps(codec.to_data(record))


def _statements(write: Any) -> list[tuple[str, tuple[Any, ...]]]:
    """What a write does to the tables."""
    if isinstance(write, Purge):
        where = "WHERE job = ? AND serial <= ?"
        return [(f"DELETE FROM {table} {where}", (write.job, write.serial)) for table in ("runs", "series")]  # noqa: S608
    if isinstance(write, Delete):
        return [(f"DELETE FROM {_TABLES[write.kind]} WHERE id = ?", (write.id,))]  # noqa: S608 - our own words
    columns = _COLUMNS[type(write)](write)
    places = ", ".join("?" * len(columns))
    verb = "INSERT OR IGNORE" if isinstance(write, Blob) else "INSERT OR REPLACE"
    return [(f"{verb} INTO {_TABLES[type(write)]} VALUES ({places})", columns)]


_TABLES: dict[type, str] = {
    UserRecord: "users",
    AgentRecord: "agents",
    JobRecord: "jobs",
    RunRecord: "runs",
    SeriesRecord: "series",
    RemovalRecord: "removals",
    TokenRecord: "tokens",
    LibraryRecord: "library",
    HostRecord: "hosts",
    Blob: "blobs",
}

_COLUMNS: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    UserRecord: lambda user: (user.id, _text(user)),
    AgentRecord: lambda agent: (agent.id, _text(agent)),
    JobRecord: lambda job: (job.id, job.user, job.name, _text(job)),
    RunRecord: lambda run: (run.job, run.serial, run.order, not isinstance(run.state, Ended), _text(run)),
    SeriesRecord: lambda series: (series.job, series.serial, _text(series)),
    RemovalRecord: lambda removal: (removal.job, _text(removal)),
    TokenRecord: lambda token: (token.id, _text(token)),
    LibraryRecord: lambda file: (file.id, file.user, _text(file)),
    HostRecord: lambda host: (host.id, _text(host)),
    Blob: lambda blob: (blob.sha256, blob.content),
}
