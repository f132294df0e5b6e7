"""Processes as the kernel knows them: /proc, pidfds, prctl, and the pass that kills whatever is left of a run.

Everything here is synchronous and free of trio: the fork server and the runs' parents, which are single-threaded,
use it too. A process is never signalled by its pid alone: a pidfd is opened, its start time compared, and the signal
goes through the pidfd.
"""

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping

from attrs import frozen

RUN_VARIABLE = "JOBD_RUN"  # in the environment of each process of a run: <job id>.<serial>

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


@frozen
class Process:
    """One line of /proc/PID/stat."""

    pid: int
    parent: int
    session: int
    start_ticks: int
    zombie: bool


@functools.cache
def boot_id() -> str:
    """The kernel's name for this boot."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def look_up(pid: int) -> Process | None:
    """The process with this pid, or None."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name may hold blanks and brackets; the state follows the last bracket.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return Process(pid, int(fields[1]), int(fields[3]), int(fields[19]), fields[0] in (b"Z", b"X"))


def processes() -> Iterator[Process]:
    """All processes that can be seen, zombies too."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (process := look_up(int(name))) is not None:
            yield process


def descendants(ancestor: int, spared: Collection[int] = (), seen: Collection[Process] | None = None) -> list[Process]:
    """The processes below `ancestor`, other than `spared` ones and what is below those; of those `seen`, or of all."""
    children: dict[int, list[Process]] = {}
    for process in processes() if seen is None else seen:
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    unvisited = [ancestor]
    while unvisited:
        below = [child for child in children.get(unvisited.pop(), ()) if child.pid not in spared]
        found += below
        unvisited += [child.pid for child in below]
    return found


def open_process(pid: int, start_ticks: int) -> int | None:
    """A pidfd of exactly this process, or None if it is gone (a zombie is; who reaps it may be slow)."""
    if pid == 0:
        return None
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    # A pid is reused only after its process is gone for good: if the start time matches now, it matched before.
    process = look_up(pid)
    if process is not None and process.start_ticks == start_ticks and not process.zombie:
        return pidfd
    os.close(pidfd)
    return None


def send(pidfd: int, signum: signal.Signals) -> None:
    """Signal the process behind a pidfd; one that is gone is no error."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signum)


def kill_pass(run: str | None, session: int | None, ancestor: int, spared: Collection[int] = ()) -> int:
    """SIGKILL once each process that belongs to a run; returns how many living ones there were.

    A process belongs to it by its session, by the run's name in its environment, or by descending from `ancestor`
    other than through a `spared` process. A zombie counts as gone.
    """
    seen = list(processes())
    targets = {process.pid: process for process in seen if session is not None and process.session == session}
    targets.update((process.pid, process) for process in descendants(ancestor, spared, seen))
    if run is not None:
        marker = f"{RUN_VARIABLE}={run}".encode()
        for process in seen:
            if process.pid not in targets and marker in _environment(process.pid):
                targets[process.pid] = process
    targets.pop(os.getpid(), None)
    living = [process for process in targets.values() if not process.zombie]
    for process in living:
        _kill(process)
    return len(living)


def _environment(pid: int) -> list[bytes]:
    """Another user's process, a kernel thread or one that is gone has none."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def _kill(process: Process) -> None:
    pidfd = open_process(process.pid, process.start_ticks)
    if pidfd is None:
        return
    try:
        send(pidfd, signal.SIGKILL)
    except PermissionError:
        pass  # it changed its user (a set-uid program): not ours to end
    finally:
        os.close(pidfd)


def adopt_orphans() -> None:
    """Become the process to which orphaned descendants fall, instead of init."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int) -> None:
    """In a fresh child: get SIGKILL when the thread that forked us ends (`parent` is its process)."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os.kill(os.getpid(), signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def spawn(
    command: Collection[str],
    directory: str,
    environment: Mapping[str, str],
    pipes: tuple[int, int, int],
    prepare: Callable[[], None],
) -> int:
    """Execute a command as the leader of a session of its own, dying with us; raises OSError with a clause for people.

    For single-threaded processes only: `prepare` runs between fork and exec.
    """
    us = os.getpid()

    def in_child() -> None:
        die_with(us)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        prepare()

    command = list(command)
    stdin, stdout, stderr = pipes
    try:
        process = subprocess.Popen(  # noqa: S603 - executing a given command is what we are for
            command,
            cwd=directory,
            env=dict(environment),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=in_child,  # noqa: PLW1509 - single-threaded
        )
    except FileNotFoundError as error:
        if error.filename == directory:
            raise OSError(f"no such directory: {directory}") from None
        raise OSError(f"command not found: {command[0]}") from None
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise OSError(f"cannot execute {command[0]}: {getattr(error, 'strerror', None) or error}") from None
    process.returncode = 0  # whoever calls us reaps; Popen must not try
    return process.pid
