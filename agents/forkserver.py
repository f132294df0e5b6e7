"""The fork server: the one process that creates processes, started before trio and before any thread.

A fork of a large threaded process is slow and unsafe, a fresh interpreter costs 12-29 ms; a fork of this small
process costs little. It forks the runs' parents (parent.py), which outlive it, and executes the analysis workers,
which do not. It serves one request at a time from one socket, and ends when the agent's end of that is closed.

It is a subreaper: what a run leaves behind when its parent is killed falls to this process, where SweepRun finds it.
It knows its own children exactly, so a sweep never hits a parent that was forked a moment ago.
"""

import contextlib
import gc
import os
import resource
import select
import signal
import socket
import time
import traceback
import typing
from collections.abc import Callable, Collection

from agents import parent, procs, records
from agents.failpoints import failpoint
from agents.memory import offer_to_oom_killer
from agents.records import Forked, ForkRun, ForkWorker, Refused, SweepRun, Swept
from schemas import codec
from schemas.link import Epoch, InputFile, RunLimits, Start, Worker

WORKER_NICENESS = 5
STRAY_PASSES_MAX = 50


def start(private: Collection[int] = ()) -> tuple[socket.socket, int]:
    """Fork the server; returns the agent's end of its socket, and its pid. It does not keep `private` descriptors."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        ours.close()
        for descriptor in private:
            os.close(descriptor)
        never_return(lambda: ForkServer(its).serve())
    its.close()
    return ours, pid


def never_return(life: Callable[[], None]) -> typing.NoReturn:
    """In a fresh child: whatever happens, do not unwind into the code that forked us."""
    status = 1
    try:
        life()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


class ForkServer:
    """The server's own process."""

    def __init__(self, socket: socket.socket) -> None:
        self._socket = socket
        self._parents: set[int] = set()
        self._workers: set[int] = set()

    def serve(self) -> None:
        """Serve requests until the agent is gone; its workers go with it, its runs stay."""
        # A signal to the whole process group of the agent is not for us; a parent lets it in when it can handle it.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        procs.adopt_orphans()
        wakeup, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
        poller = select.poll()
        poller.register(wakeup, select.POLLIN)
        poller.register(self._socket, select.POLLIN)
        _warm_up()
        gc.collect()
        gc.freeze()  # children share these pages for longer
        while True:
            for descriptor, _ in poller.poll():
                if descriptor == wakeup:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wakeup, 4096)
                    self._reap()
                elif not self._serve_one():
                    self._kill_strays(self._parents)
                    return

    def _serve_one(self) -> bool:
        packet, descriptors, _, _ = socket.recv_fds(self._socket, records.PACKET_BYTES_MAX, 3)
        if not packet:
            return False
        passed: list[int] = []
        try:
            request = codec.decode(packet, records.Request, records.PACKET_BYTES_MAX)
            if isinstance(request, SweepRun):
                reply: records.Reply = self._sweep(request)
            else:
                fork = self._fork_run if isinstance(request, ForkRun) else self._fork_worker
                pid = fork(request, descriptors)
                passed = [os.pidfd_open(pid)]  # only we reap it: the pid cannot have changed hands
                reply = Forked(pid)
        except (OSError, codec.CodecError) as error:
            reply = Refused(str(error))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        try:
            socket.send_fds(self._socket, [codec.encode(reply).encode()], passed)
        except (BrokenPipeError, ConnectionResetError):
            return False
        finally:
            for descriptor in passed:
                os.close(descriptor)
        return True

    def _fork_run(self, request: ForkRun, _: list[int]) -> int:
        failpoint("forkserver.asked")
        pid = os.fork()
        if pid == 0:
            never_return(lambda: parent.live(request.control, request.run_dir))
        self._parents.add(pid)
        failpoint("forkserver.forked")
        return pid

    def _fork_worker(self, request: ForkWorker, pipes: list[int]) -> int:
        if len(pipes) != 3:
            raise OSError("a worker needs three pipes")
        pid = procs.spawn(
            request.command, request.directory, request.environment, (pipes[0], pipes[1], pipes[2]), _prepare_worker
        )
        self._workers.add(pid)
        return pid

    def _sweep(self, request: SweepRun) -> Swept:
        session = None
        if request.main is not None:
            leader = procs.look_up(request.main.pid)
            # While a session has members its number is not given to another process, but it has none for ever.
            if leader is None or leader.start_ticks == request.main.start_ticks:
                session = request.main.pid
        return Swept(procs.kill_pass(request.run, session, os.getpid(), self._parents | self._workers))

    def _reap(self) -> None:
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._parents.discard(pid)
            if pid in self._workers:
                self._workers.remove(pid)
                self._kill_strays(self._parents | self._workers)

    def _kill_strays(self, spared: set[int]) -> None:
        """Kill what is below us and belongs to nobody: a dead worker's offspring has fallen to us."""
        for _ in range(STRAY_PASSES_MAX):
            if not procs.kill_pass(None, None, os.getpid(), spared):
                return
            time.sleep(0.002)


def _warm_up() -> None:
    """Let the codec learn the classes that a parent uses, once and not in every parent (7 ms of each start)."""
    epoch = Epoch("jaaaaaaaaa", 1)
    limits = RunLimits(1.0, 1.0, 1, 1, 1, 1)
    inputs = (InputFile("a", 0, "", "taaaaaaaaa"),)
    moment = records.Moment.now()
    for record in (
        Start(epoch, ("a",), {}, inputs, limits, Worker("a", ("a",), {}, 1.0)),
        records.StopRequest(1.0),
        records.Claim(0, 0, "", records.End("exited", moment)),
        records.Main(1, 0, moment),
    ):
        codec.decode(records.to_bytes(record), type(record), records.PACKET_BYTES_MAX)


def _prepare_worker() -> None:
    os.nice(WORKER_NICENESS)
    offer_to_oom_killer()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
