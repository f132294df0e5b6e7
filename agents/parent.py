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
from agents.confine import confine
from agents.diskwatch import DiskWatch
from agents.failpoints import failpoint
from agents.memory import MemoryAccount
from agents.runlog import Log
from schemas.link import Outcome, Start

SIGNAL_BYTES = 4096
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
            self._disk = DiskWatch(self._run_dir, self._control, self._order.limits)
            self._memory = MemoryAccount(is_own=self._order.limits.memory_bytes is None)
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
        self._memory.close()
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
            self._main_pid = procs.spawn(
                command, self._run_dir, environment, pipes, lambda: confine(self._order.limits)
            )

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
            if self._disk.look():
                self._begin_end("disk", now + self._order.limits.grace_s)
            if now >= self._kill_at or self._disk.is_out_of_hand:
                os.killpg(self._main_pid, signal.SIGKILL)
            until_s = (wall_deadline if self._ending is None else self._kill_at) - now
            pause_s = min(POLL_S_MAX, until_s, self._disk.due_at - time.monotonic())
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
        # A SIGKILL that was not ours, and the kernel says that it killed somebody for lack of memory.
        is_starved = self._ending is None and code == -signal.SIGKILL and self._memory.kills > 0
        outcome = "out_of_memory" if is_starved else self._ending or "exited"
        remark = "; ".join(filter(None, (self._log_trouble(), "" if is_starved else self._memory.remark())))
        text = self._text(outcome, code)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return records.End(
            outcome=outcome,
            at=ended,
            wall_s=ended.boottime_s - began.boottime_s,
            cpu_s=usage.ru_utime + usage.ru_stime,
            peak_memory_bytes=usage.ru_maxrss * 1024,
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            text=f"{text}; {remark}" if remark else text,
            remark=remark,
        )

    def _text(self, outcome: Outcome, code: int) -> str:
        if outcome == "disk":
            return self._disk.settle()
        if outcome == "out_of_memory":
            return self._memory.verdict()
        if outcome == "exited" and code < 0:
            return f"ended by signal {-code} ({(signal.strsignal(-code) or 'unknown').lower()})"
        limits = self._order.limits
        return {
            "wall_time": f"reached its wall-time limit of {limits.run_s:g} s",
            "log_limit": f"wrote more than {limits.log_bytes} bytes to its log",
            "stopped": "was stopped",
        }.get(outcome, f"exited with code {code}")

    def _log_trouble(self) -> str:
        if self._log.is_full and self._ending is None:
            return f"its log was cut at {self._order.limits.log_bytes} bytes"
        return self._log.trouble

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
            os.read(self.readable, SIGNAL_BYTES)

    def _take(self, signum: int, _: object) -> None:
        self.is_told_to_stop = self.is_told_to_stop or signum == signal.SIGTERM
