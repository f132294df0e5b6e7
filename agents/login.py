"""`python jobd-agent.pyz --login`: an agent is called into life on a login node, by a command over SSH.

Stdin brings the AgentSetup as one line and the token as a second. The command prints an Arrival when the agent lives,
in a session of its own, and ends; what went wrong is on stderr. The token is read by the agent itself, after it has
forked its fork server: so it is in the memory of that one process, and nowhere else.
"""

import contextlib
import logging
import os
import platform
import re
import select
import shutil
import signal
import socket
import sys
import time
from typing import BinaryIO

from attrs import evolve

from agents import disk, forkserver, procs
from agents.lock import Lock, Locked, Where
from schemas import codec
from schemas.setups import AgentSetup, Arrival

SETUP_BYTES_MAX = 128 * 1024
TOKEN_BYTES_MAX = 4096
STDIN_S_MAX = 20.0
START_S_MAX = 50.0
FORK_SERVER_S_MAX = 3.0
LOG_BYTES_MAX = 1 << 20
LOG_TAIL_BYTES = 2000

log = logging.getLogger("agents")


def run() -> int:
    """Start the agent and tell how that went; returns the command's exit code."""
    os.umask(0o077)
    try:
        setup: AgentSetup = codec.decode(read_line(0, SETUP_BYTES_MAX, STDIN_S_MAX), AgentSetup, SETUP_BYTES_MAX)
        if setup.home is None:
            raise ValueError("home: is missing")
        setup = evolve(setup, root=expanded(setup.root))
        own = disk.Tree(setup.root, setup.agent).own
        disk.make_directories(own)
        log_file = os.open(os.path.join(own, "log"), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    except (OSError, ValueError) as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return 1
    said_bytes = shorten(log_file)
    reports, report = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reports)
        forkserver.never_return(lambda: _live(setup, own, log_file, os.fdopen(report, "wb", 0)))
    os.close(report)
    said = read_line(reports, SETUP_BYTES_MAX, START_S_MAX).decode(errors="replace")
    if said.startswith("{"):
        print(said, flush=True)
        return 0
    os.kill(pid, signal.SIGKILL)  # our child, which is not waited for yet
    size_bytes = os.fstat(log_file).st_size
    tail = os.pread(log_file, LOG_TAIL_BYTES, max(said_bytes, size_bytes - LOG_TAIL_BYTES))
    print(tail.decode(errors="replace"), said, sep="\n", file=sys.stderr)
    return 1


def expanded(root: str) -> str:
    """The user's directory, by this machine's own ~ and variables; raises ValueError."""
    path = os.path.expanduser(os.path.expandvars(root))
    if missing := re.search(r"\$\w+|\$\{\w+\}", path):
        raise ValueError(f"root: {missing[0]} is not set on {os.uname().nodename}")
    if not os.path.isabs(path):
        raise ValueError(f"root: {path!r} does not begin with /")
    return os.path.normpath(path)


def read_line(descriptor: int, bytes_max: int, patience_s: float) -> bytes:
    """The next line, and not a byte beyond it, which is for somebody else; nothing when there is none in time."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + patience_s
    line = bytearray()
    while len(line) <= bytes_max and poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
        byte = os.read(descriptor, 1)
        if byte == b"\n":
            return bytes(line)
        if not byte:
            break
        line += byte
    return b""


def shorten(log_file: int) -> int:
    """Keep the last half of a log that has become too long, in place: others write to it too. Returns its size."""
    size_bytes = os.fstat(log_file).st_size
    if size_bytes <= LOG_BYTES_MAX:
        return size_bytes
    tail = os.pread(log_file, LOG_BYTES_MAX // 2, size_bytes - LOG_BYTES_MAX // 2)
    os.ftruncate(log_file, 0)
    return os.write(log_file, tail)


class LogHandler(logging.StreamHandler):  # type: ignore[type-arg] # it is not generic at run time
    """To stderr, which is a file of bounded size."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write, and cut."""
        super().emit(record)
        with contextlib.suppress(OSError):
            shorten(2)


def _live(setup: AgentSetup, own: str, log_file: int, report: BinaryIO) -> None:
    """The agent's own process, from its beginning to its end."""
    given = _detach(log_file)
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, handlers=[LogHandler(sys.stderr)]
    )
    lock = Lock(own, setup.generation, Where.here())
    try:
        lock.take()
        try:
            log.info("agent %s, generation %d", setup.agent, setup.generation)
            fork_server, pid = forkserver.start((given, report.fileno()))
            try:
                _live_with(setup, fork_server, pid, lock, given, report)
            finally:
                end_fork_server(fork_server, pid)
        finally:
            lock.release()
    except (OSError, ValueError, Locked) as error:  # among them what ssl says of certificates and names
        log.error("cannot go on: %s", error)
        if not report.closed:  # the log may be on a full disk
            report.write(f"cannot start: {error}\n".encode())


def _detach(log_file: int) -> int:
    """Let go of the session that we were started in; returns the stdin of the command."""
    os.setsid()
    os.chdir("/")
    given = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    for descriptor, ours in enumerate((null, log_file, log_file)):
        os.dup2(ours, descriptor)
    os.close(null)
    os.close(log_file)
    return given


def _live_with(
    setup: AgentSetup, fork_server: socket.socket, pid: int, lock: Lock, given: int, report: BinaryIO
) -> None:
    token = read_line(given, TOKEN_BYTES_MAX, STDIN_S_MAX).decode("ascii", "replace").strip()
    os.close(given)
    if not token:
        raise ValueError("no token came")
    import trio  # noqa: PLC0415 - only now: the fork server must not carry it

    from agents.agent import Agent  # noqa: PLC0415
    from agents.dial import Calls  # noqa: PLC0415

    async def live() -> int:
        assert setup.home is not None, "it was looked at"
        agent = Agent(setup, Calls(setup.home, token), fork_server, lock)
        with contextlib.suppress(BrokenPipeError):  # the connection was lost, and nobody listens
            report.write(codec.dumps(codec.to_data(arrival())).encode() + b"\n")
        report.close()
        return await agent.live(pid)

    trio.run(live)


def arrival() -> Arrival:
    """What whoever has started us wants to know."""
    process = procs.look_up(os.getpid())
    assert process is not None, "we live"
    return Arrival(
        host=os.uname().nodename,
        boot=procs.boot_id(),
        pid=process.pid,
        start_ticks=process.start_ticks,
        python=platform.python_version(),
        sbatch=shutil.which("sbatch") is not None,
    )


def end_fork_server(fork_server: socket.socket, pid: int) -> None:
    """See it gone: it ends when our end of its socket is closed."""
    fork_server.close()
    deadline = time.monotonic() + FORK_SERVER_S_MAX
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)  # our child, which is not waited for yet
        time.sleep(0.01)
