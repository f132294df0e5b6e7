"""The outbox: the agent's journal of the runs it has taken and of the durable facts about them.

One append-only file of JSON lines, fsynced before anybody hears of what it says. It answers, after any crash, which
runs this agent holds and which facts jobd has not acknowledged. Invariants:

- Facts are numbered from 1 per agent id, over all generations; a number is never used twice.
- A run has at most one Started and exactly one Ended: the state of each run decides, not the caller.
- A run is forgotten when its Ended is acknowledged; whoever sends its Start again meets its claim (records.py).
"""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

import trio
from attrs import evolve, frozen

from agents import disk, records
from agents.failpoints import failpoint
from schemas import codec
from schemas.link import AGE_S_MAX, HELD_RUNS_MAX, TEXT_CHARS_MAX, Ended, Epoch, Held, Started

LINE_BYTES_MAX = 64 * 1024
COMPACT_LINES = 1000  # the file is written anew when so many of its lines say nothing any more
DISK_RETRY_S = 1.0

log = logging.getLogger(__name__)

T = TypeVar("T")

State = Literal["taken", "running", "ended"]


@frozen
class Run:
    """A run's state; the newest line about a run counts."""

    epoch: Epoch
    state: State


@frozen
class Fact:
    """A durable fact, and when what it says happened."""

    fact: Started | Ended
    at: records.Moment


@frozen
class Acked:
    """Everything up to `number` is jobd's; no number up to `last` is free."""

    number: int
    last: int


Line = Run | Fact | Acked


class Outbox:
    """The journal in memory and on disk; every change is on disk when its await returns."""

    def __init__(self, path: str, facts_max: int) -> None:
        self.last = 0  # the newest number given to a fact
        self.grown = trio.Event()  # set, and made anew, at every new fact
        self._path = path
        self._facts_max = facts_max
        self._runs: dict[Epoch, State] = {}
        self._facts: deque[Fact] = deque()  # not acknowledged, in order
        self._lock = trio.Lock()
        for line in _lines(path):
            self._learn(line)
        self._file = -1
        self._begin_file(self._snapshot())

    def has_room(self, runs: int) -> bool:
        """Whether so many more runs could be taken, with the facts that they and those already held will need."""
        facts_due = sum({"taken": 2, "running": 1, "ended": 0}[state] for state in self._runs.values()) + 2 * runs
        return len(self._runs) + runs <= HELD_RUNS_MAX and len(self._facts) + facts_due <= self._facts_max

    @property
    def held(self) -> tuple[Held, ...]:
        """Every run that is not forgotten."""
        return tuple(Held(epoch, state) for epoch, state in self._runs.items())

    def state(self, epoch: Epoch) -> State | None:
        """What has been journaled about a run."""
        return self._runs.get(epoch)

    def after(self, number: int) -> list[Started | Ended]:
        """The unacknowledged facts beyond a number, aged as of now, ready to be sent."""
        return [
            evolve(entry.fact, age_s=min(entry.at.age_s(), AGE_S_MAX))
            for entry in self._facts
            if entry.fact.number > number
        ]

    def ack(self, number: int) -> None:
        """Let go of facts, and of the runs whose Ended is among them; on disk this may come late: acks are repeated."""
        self.last = max(self.last, number)  # if our file was lost, jobd knows better which numbers are used
        while self._facts and self._facts[0].fact.number <= number:
            fact = self._facts.popleft().fact
            if isinstance(fact, Ended):
                self._runs.pop(fact.epoch, None)

    async def take(self, epoch: Epoch) -> None:
        """The run's order is on disk: from now on the run is ours to end."""
        if epoch not in self._runs:
            await self._append(lambda: Run(epoch, "taken"))
        failpoint("outbox.taken")

    async def started(self, epoch: Epoch, at: records.Moment) -> None:
        """The run's command was executed; said once."""
        if self._runs[epoch] == "taken":
            await self._append(lambda: Fact(Started(self.last + 1, epoch, 0.0), at))
        failpoint("outbox.started")

    async def ended(self, epoch: Epoch, end: records.End, log_tail: str) -> None:
        """No process of the run exists; said once."""
        if self._runs[epoch] != "ended":
            await self._append(lambda: Fact(_ended(self.last + 1, epoch, end, log_tail), end.at))
        failpoint("outbox.ended")

    async def _append(self, make: Callable[[], Line]) -> None:
        async with self._lock:
            line = make()
            text = codec.encode(line).encode() + b"\n"
            silent = self._lines - len(self._runs) - len(self._facts)
            snapshot = self._snapshot() if silent > COMPACT_LINES else None
            await insist(self._write, text, snapshot)  # a thread's result is never lost to a cancellation, so that
            self._learn(line)  # both happen or neither
        self.grown.set()
        self.grown = trio.Event()

    def _learn(self, line: Line) -> None:
        if isinstance(line, Run):
            self._runs[line.epoch] = line.state
        elif isinstance(line, Fact):
            self.last = max(self.last, line.fact.number)
            self._facts.append(line)
            self._runs[line.fact.epoch] = "running" if isinstance(line.fact, Started) else "ended"
        else:
            self.last = max(self.last, line.last)
            self.ack(line.number)

    def _snapshot(self) -> bytes:
        """The whole state as the lines of a new file."""
        number = self._facts[0].fact.number - 1 if self._facts else self.last
        lines: list[Line] = [Acked(number, self.last)]
        lines += [Run(epoch, state) for epoch, state in self._runs.items()]
        lines += self._facts
        return b"".join(codec.encode(line).encode() + b"\n" for line in lines)

    def _write(self, text: bytes, snapshot: bytes | None) -> None:
        """In a thread, one at a time: append durably, to a new file that begins with the snapshot if there is one."""
        if snapshot is not None:
            self._begin_file(snapshot)
        try:
            written = os.pwrite(self._file, text, self._size_bytes)
            os.pwrite(self._file, text[written:], self._size_bytes + written)  # on a full disk this one raises
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, self._size_bytes)
            raise
        self._size_bytes += len(text)
        self._lines += 1

    def _begin_file(self, snapshot: bytes) -> None:
        disk.write_durably(self._path, snapshot)
        old, self._file = self._file, os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        if old >= 0:
            os.close(old)
        self._size_bytes = len(snapshot)
        self._lines = snapshot.count(b"\n")


async def insist(write: Callable[..., T], *arguments: object) -> T:
    """Write in a thread, and again until it can be done (a full disk): nothing may be said that is not on disk."""
    while True:
        try:
            return await trio.to_thread.run_sync(write, *arguments)
        except OSError as error:
            log.error("cannot write to the user's directory (%s); trying again", error)
            await trio.sleep(DISK_RETRY_S)


def _ended(number: int, epoch: Epoch, end: records.End, log_tail: str) -> Ended:
    return Ended(
        number,
        epoch,
        end.outcome,
        age_s=0.0,
        wall_s=end.wall_s,
        cpu_s=end.cpu_s,
        peak_memory_bytes=end.peak_memory_bytes,
        exit_code=end.exit_code,
        signal=end.signal,
        text=end.text[:TEXT_CHARS_MAX],
        log_tail=log_tail[-TEXT_CHARS_MAX:],
        remark=end.remark[:TEXT_CHARS_MAX],
    )


def _lines(path: str) -> Iterator[Line]:
    """The lines of the file; a torn last one was never acted on, and a spoilt one cannot be."""
    if not os.path.lexists(path):
        return
    with open(disk.open_beneath(*os.path.split(path), os.O_RDONLY), "rb") as file:
        while text := file.readline(LINE_BYTES_MAX):
            try:
                yield codec.decode(text, Line, LINE_BYTES_MAX)
            except codec.CodecError as error:
                log.warning("ignoring a line of the outbox: %s", error)
