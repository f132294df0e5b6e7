"""The hold on an agent's directory where several login nodes share it, so that one process at a time is the agent.

flock may not work there, so two small files, each replaced as a whole, do:

    holder   the process that is the agent; it touches the file as long as it lives
    next     a process that wants to be; whoever holds looks for it at every touch, and leaves

jobd is the arbiter: its generations count up, and a process of an older one never takes the hold from a newer. On its
own machine a newer process ends the older one by signal; anywhere else it waits until that has released the hold,
with nothing of it left that could start a run, or until its last touch is long ago. How long, both times are the file
server's, because no two nodes' clocks need agree. Free of trio: it is taken before the fork server starts.
"""

import contextlib
import logging
import os
import select
import signal
import time

from attrs import field, frozen

from agents import disk, procs, records
from schemas import codec
from schemas.codec import at_most, between

HOLDER, NEXT = "holder", "next"
RECORD_BYTES_MAX = 4096
REFRESH_S = 2.0
STALE_S = 20.0  # whoever has not touched its file for so long is gone, or counts as gone
WAIT_S_MAX = STALE_S + 10.0
STEP_S = 0.1
SIGNALS = ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
FORK_SERVER_S_MAX = 5.0

log = logging.getLogger(__name__)


class Locked(Exception):
    """Another process is the agent, or will be; the text is for people."""


@frozen
class Where:
    """Within one of these a pid says which process is meant."""

    host: str = field(validator=at_most(256))
    boot: str = field(validator=at_most(64))
    space: str = field(validator=at_most(64))  # the pid namespace

    @classmethod
    def here(cls) -> "Where":
        """Where we are."""
        return cls(os.uname().nodename, procs.boot_id(), os.readlink("/proc/self/ns/pid"))


@frozen
class Holder:
    """A process that is the agent, or wants to be."""

    generation: int
    where: Where
    pid: int = field(validator=between(1, records.PID_MAX))
    start_ticks: int


class Lock:
    """One process's claim to the hold."""

    def __init__(self, directory: str, generation: int, where: Where) -> None:
        process = procs.look_up(os.getpid())
        assert process is not None, "we live"
        self._directory = directory
        self._me = Holder(generation, where, process.pid, process.start_ticks)
        self._is_next = False  # we have said that we are
        self._refreshed_at = 0.0

    def take(self) -> None:
        """Have the hold, after whoever had it; raises Locked or OSError."""
        deadline = time.monotonic() + WAIT_S_MAX
        self._want()
        while not self._is_free():
            if time.monotonic() > deadline:
                raise Locked(f"the one on {self._who()} neither lets go nor dies")
            time.sleep(STEP_S)
            self._want()
        disk.note_record(self._directory, HOLDER, self._me)
        self._refreshed_at = _now_s()
        if self._read(NEXT)[0] == self._me:
            self._remove(NEXT)

    def refresh(self) -> bool:
        """Say that we live; False when the hold is not ours any more, or somebody is waiting for it."""
        try:
            if self._read(HOLDER)[0] != self._me:
                return False
            os.utime(self._path(HOLDER))
            wanted, _ = self._read(NEXT)
        except FileNotFoundError:
            return False
        except OSError as error:
            log.warning("cannot say that we live: %s", error)
            return _now_s() - self._refreshed_at < STALE_S / 2
        self._refreshed_at = _now_s()
        return wanted is None or wanted.generation < self._me.generation

    def release(self) -> None:
        """Let go, if it is still ours. Nothing of ours may be left that could start a run."""
        with contextlib.suppress(OSError):
            if self._read(HOLDER)[0] == self._me:
                self._remove(HOLDER)

    def _want(self) -> None:
        """Let everybody know that we are next; raises Locked when another is to be preferred."""
        (holder, _), (other, _) = self._read(HOLDER), self._read(NEXT)
        for rival in (holder, other):
            if rival is not None and rival.generation > self._me.generation:
                raise Locked(f"generation {rival.generation} is there, on {rival.where.host}, and we are an older one")
        if other == self._me:
            return
        if self._is_next and other is not None and other.generation == self._me.generation:
            raise Locked("it was started once more meanwhile")
        disk.note_record(self._directory, NEXT, self._me)
        self._is_next = True

    def _is_free(self) -> bool:
        holder, touched_s = self._read(HOLDER)
        if not touched_s:
            return True
        if holder is not None and holder.where == self._me.where:
            end_process(holder)
            return True
        os.utime(self._path(NEXT))  # so the same clock tells what is now
        silence_s = self._read(NEXT)[1] - touched_s
        if silence_s > STALE_S:
            log.info("the one on %s has given no sign for %.0f s", self._who(), silence_s)
        return silence_s > STALE_S

    def _who(self) -> str:
        holder, _ = self._read(HOLDER)
        return holder.where.host if holder else "another machine"

    def _read(self, name: str) -> tuple[Holder | None, float]:
        """What a file says and when it was touched last; None when it says nothing that makes sense, 0 without one.
        It is opened, which makes a network file system look at what its server has now."""
        try:
            with open(disk.open_beneath(self._directory, name, os.O_RDONLY), "rb") as file:
                touched_s = os.fstat(file.fileno()).st_mtime
                content = file.read(RECORD_BYTES_MAX + 1)
        except FileNotFoundError:
            return None, 0.0
        try:
            holder: Holder = codec.decode(content, Holder, RECORD_BYTES_MAX)
        except codec.CodecError:
            return None, touched_s
        return holder, touched_s

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(name))


def end_process(holder: Holder) -> None:
    """End an older agent of this machine, and see its fork server gone; raises Locked."""
    pidfd = procs.open_process(holder.pid, holder.start_ticks)
    if pidfd is not None:
        log.info("ending process %d, of generation %d", holder.pid, holder.generation)
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        for sign, patience_s in SIGNALS:
            procs.send(pidfd, sign)
            if poller.poll(patience_s * 1000):
                break
        else:
            raise Locked(f"process {holder.pid} does not end")
        os.close(pidfd)
    deadline = time.monotonic() + FORK_SERVER_S_MAX
    while any(each.session == holder.pid and not each.zombie for each in procs.processes()):
        if time.monotonic() > deadline:
            raise Locked(f"the fork server of process {holder.pid} does not end")
        time.sleep(STEP_S / 10)


def _now_s() -> float:
    """Sleeping counts too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
