"""The parent of one run: a small process that outlives the agent, holds the limits and proves the end.

Forked by the fork server (forkserver.py), single-threaded, in a session of its own. Its life is one line: claim the
run, execute the command, copy its output into the log, end it when a limit or a stop request says so, kill whatever
it left behind, write the end record, exit. Invariants:

- Nothing is executed without the claim, and the claim is on disk before the fork: at most one execution, ever.
- As a subreaper it is the ancestor of whatever the run forks, however often; the end record is written only after
  the kernel says that there is no child left.
- A stop request is a file first and a signal second, so that it cannot come too early.
"""

import contextlib
import errno
import os
import resource
import select
import signal
import time
import traceback

from agents import disk, procs, records
from agents.failpoints import failpoint
from schemas.link import Outcome, RunLimits, Start

PIECE_BYTES = 64 * 1024
POLL_S_MAX = 10.0  # poll's clock stands still in suspend, CLOCK_BOOTTIME does not
SWEEP_PAUSE_S_MAX = 0.25
DISK_RETRY_S = 1.0


def live(control: str, run_dir: str) -> None:
    """The whole life of the parent of the run whose Start is journaled in `control`."""
    _let_go_of_descriptors()
    os.setsid()  # only now: the leader of a session that writes the agent's log is taken for the agent
    wakeup = Wakeup()
    procs.adopt_orphans()
    try:
        Parent(control, run_dir, wakeup).execute()
    except BaseException:
        # Without an end record the run counts as lost, which is what it is; this says why.
        with open(os.path.join(control, "parent-error"), "w") as file:
            traceback.print_exc(file=file)
        raise


def _let_go_of_descriptors() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(descriptor)


class Parent:
    """One run from its claim to its end record."""

    def __init__(self, control: str, run_dir: str, wakeup: "Wakeup") -> None:
        order = disk.read_record(control, records.ORDER, Start)
        assert order is not None, "the agent journals the order before it asks for a fork"
        self._control = control
        self._run_dir = run_dir
        self._wakeup = wakeup
        self._order = order
        self._name = f"{order.epoch.job}.{order.epoch.serial}"
        self._main_pid = 0
        self._status: int | None = None  # of the main process, once it is reaped
        self._ending: Outcome | None = None  # the first reason to end it
        self._kill_at = float("inf")
        self._log = Log(os.path.join(control, records.LOG), order.limits.log_bytes)

    def execute(self) -> None:
        """Claim, execute, watch, sweep, record."""
        process = procs.look_up(os.getpid())
        assert process is not None
        if not disk.claim(self._control, records.Claim(process.pid, process.start_ticks, procs.boot_id())):
            return
        failpoint("parent.claimed")
        if self._asked_to_stop() is not None:
            self._record(records.End("stopped", records.Moment.now(), text="was stopped before it began"))
            return
        try:
            self._fork()
        except OSError as error:
            self._record(records.End("not_started", records.Moment.now(), text=str(error)))
            return
        failpoint("parent.forked")
        main = procs.look_up(self._main_pid)
        assert main is not None, "it is our child and not reaped"
        began = records.Moment.now()
        # It tells of processes, which a power cut ends: a note will do.
        with contextlib.suppress(OSError):
            disk.note_record(self._control, records.MAIN, records.Main(main.pid, main.start_ticks, began))
        failpoint("parent.main_recorded")
        self._watch(began.boottime_s + self._order.limits.run_s)
        ended = records.Moment.now()
        failpoint("parent.main_ended")
        self._sweep()
        failpoint("parent.swept")
        self._log.copy()
        self._record(self._end(ended, began))
        failpoint("parent.end_recorded")

    def _fork(self) -> None:
        command = [part.replace("{run_dir}", self._run_dir) for part in self._order.command]
        environment = {
            "HOME": self._run_dir,
            "TMPDIR": self._run_dir,
            **self._order.environment,
            procs.RUN_VARIABLE: self._name,
        }
        with open(os.devnull, "rb") as null, open(self._log.writable, "wb") as output:
            pipes = (null.fileno(), output.fileno(), output.fileno())
            self._main_pid = procs.spawn(command, self._run_dir, environment, pipes, lambda: _limit(self._order.limits))

    def _watch(self, wall_deadline: float) -> None:
        """Until the main process is reaped."""
        poller = select.poll()
        poller.register(self._wakeup.readable, select.POLLIN)
        poller.register(self._log.readable, select.POLLIN)
        while True:
            self._reap()
            if self._status is not None:
                return
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            if (grace_s := self._asked_to_stop()) is not None:
                self._begin_end("stopped", now + grace_s)
            if self._log.is_full:
                self._begin_end("log_limit", now + self._order.limits.grace_s)
            if now >= wall_deadline:
                self._begin_end("wall_time", now + self._order.limits.grace_s)
            if now >= self._kill_at:
                os.killpg(self._main_pid, signal.SIGKILL)
            pause_s = min(POLL_S_MAX, (wall_deadline if self._ending is None else self._kill_at) - now)
            for descriptor, events in poller.poll(max(pause_s, 0.05) * 1000):
                if descriptor == self._wakeup.readable:
                    self._wakeup.clear()
                elif not self._log.copy() or not events & select.POLLIN:
                    poller.unregister(self._log.readable)

    def _asked_to_stop(self) -> float | None:
        """The grace that a stop request gives; a signal without one (the disk was full) gives the order's."""
        request = disk.read_record(self._control, records.STOP, records.StopRequest)
        if request is not None:
            return request.grace_s
        return self._order.limits.grace_s if self._wakeup.is_told_to_stop else None

    def _begin_end(self, reason: Outcome, kill_at: float) -> None:
        if self._ending is None:
            self._ending = reason
            self._kill_at = kill_at
            # SIGCONT lets a stopped process see its SIGTERM.
            os.killpg(self._main_pid, signal.SIGTERM)
            os.killpg(self._main_pid, signal.SIGCONT)

    def _reap(self) -> bool:
        """Collect every dead child; returns whether there are others."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return True
                if pid == self._main_pid:
                    self._status = status
        except ChildProcessError:
            return False

    def _sweep(self) -> None:
        """Kill all that is left. Our descendants are gone when we have no child: orphans fall to us. Mostly none is
        left, and then no process of the machine need be looked at, which would be half the cost of a short run."""
        pause_s = 0.001
        while self._reap():
            procs.kill_pass(self._name, None, os.getpid())
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, SWEEP_PAUSE_S_MAX)

    def _end(self, ended: records.Moment, began: records.Moment) -> records.End:
        assert self._status is not None
        code = os.waitstatus_to_exitcode(self._status)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return records.End(
            outcome=self._ending or "exited",
            at=ended,
            wall_s=ended.boottime_s - began.boottime_s,
            cpu_s=usage.ru_utime + usage.ru_stime,
            peak_memory_bytes=usage.ru_maxrss * 1024,
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            text=f"{self._text(code)}{self._log.trouble}",
        )

    def _text(self, code: int) -> str:
        if self._ending == "wall_time":
            return f"reached its wall-time limit of {self._order.limits.run_s:g} s"
        if self._ending == "log_limit":
            return f"wrote more than {self._order.limits.log_bytes} bytes to its log"
        if self._ending == "stopped":
            return "was stopped"
        if self._log.is_full:
            self._log.trouble = f"; its log was cut at {self._order.limits.log_bytes} bytes"
        if code < 0:
            return f"ended by signal {-code} ({(signal.strsignal(-code) or 'unknown').lower()})"
        return f"exited with code {code}"

    def _record(self, end: records.End) -> None:
        """Write the end record, waiting for room on a full disk: without it the run would count as lost."""
        while True:
            try:
                return disk.write_record(self._control, records.END, end)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                time.sleep(DISK_RETRY_S)


class Wakeup:
    """The signals that concern us, as bytes on a pipe; those that came before are let in now."""

    def __init__(self) -> None:
        self.is_told_to_stop = False
        self.readable, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for signum in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP, signal.SIGINT):
            signal.signal(signum, self._take)  # a handler, unlike SIG_IGN, is not inherited by the command
        signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def clear(self) -> None:
        """Empty the pipe; the signals have been looked at, or will be."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.readable, PIECE_BYTES)

    def _take(self, signum: int, _: object) -> None:
        self.is_told_to_stop = self.is_told_to_stop or signum == signal.SIGTERM


class Log:
    """The run's output on its way from the pipe into the log file, up to its limit."""

    def __init__(self, path: str, bytes_max: int) -> None:
        self.readable, self.writable = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.readable, False)  # the writer's end stays as programs expect it
        self.is_full = False
        self.trouble = ""  # a clause for people, if the log is not whole
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._room_bytes = bytes_max

    def copy(self) -> bool:
        """Copy what is in the pipe; False when no writer is left."""
        try:
            piece = os.read(self.readable, PIECE_BYTES)
        except BlockingIOError:
            return True
        self.is_full = self.is_full or len(piece) > self._room_bytes
        piece_kept = memoryview(piece)[: self._room_bytes]
        self._room_bytes -= len(piece_kept)
        try:
            while piece_kept and not self.trouble:
                piece_kept = piece_kept[os.write(self._file, piece_kept) :]
        except OSError as error:  # a full disk must not end the parent
            self.trouble = f"; its log is not whole ({error.strerror})"
        return bool(piece)


def _limit(limits: RunLimits) -> None:
    """In the child, before the command: the kernel's own limits. A hard limit that is lower already stays."""
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, limits.output_bytes),
        (resource.RLIMIT_NPROC, limits.processes),
        (resource.RLIMIT_AS, limits.memory_bytes),
    ):
        hard = resource.getrlimit(kind)[1]
        limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (limit, limit))
