"""Analysis workers: one persistent process per code, asked one question at a time.

A worker is the code's own program (docs/protocol.md, "The analysis worker"): it imports its libraries once and then
answers a line with a line, or with a line and raw bytes. It is as untrusted as the code. Whatever goes wrong with it,
an end, silence, garbage, is the failure of the one question it was on; the next question gets a new process.
Questions queue here and not in the pipe, so that one nobody waits for any more costs nothing.
"""

import contextlib
import logging
import os
import select
import signal
from collections import deque
from collections.abc import Mapping

import trio
from attrs import field, frozen

from agents import procs, records
from agents.answers import Content, OpFailed, Spool
from agents.forks import ForkRefused, Forks
from schemas import codec
from schemas.codec import CodecError, Json, at_most, between
from schemas.link import TEXT_CHARS_MAX, Worker

WORKERS_MAX = 16
QUESTIONS_QUEUED_MAX = 64
HEADER_BYTES_MAX = 16 * 1024 * 1024
BODY_BYTES_MAX = 256 * 1024 * 1024
PIECE_BYTES = 256 * 1024
LARGE_BYTES = 256 * 1024  # decoded in a thread from here on
STDERR_TAIL_BYTES = 2000

log = logging.getLogger(__name__)


@frozen
class WorkerError:
    """What a worker says when it cannot answer."""

    code: str = field(validator=at_most(64))
    text: str = field(default="", validator=at_most(TEXT_CHARS_MAX))


@frozen
class Header:
    """A worker's answering line; with `bytes`, so many raw bytes of `type` follow it."""

    id: int
    result: Json = None
    error: WorkerError | None = None
    type: str = field(default="application/octet-stream", validator=at_most(100))
    bytes: int | None = field(default=None, validator=between(0, BODY_BYTES_MAX))


class WorkerFailed(Exception):
    """The worker's process cannot be used any more; a clause for people."""


class Workers:
    """The analysis workers of this agent, by code."""

    def __init__(
        self, forks: Forks, root: str, spool_directory: str, environment: Mapping[str, str], nursery: trio.Nursery
    ) -> None:
        self._forks = forks
        self._root = root
        self._environment = environment
        self._spool_directory = spool_directory
        self._nursery = nursery
        self._workers: dict[str, _Queue] = {}

    async def ask(self, worker: Worker, method: str, run_dir: str | None, arguments: Json) -> Json | Content:
        """Ask one question, about a run directory or none, and wait for the answer; raises OpFailed.

        Who is cancelled leaves the queue.
        """
        queue = self._workers.get(worker.code)
        if queue is None:
            if len(self._workers) >= WORKERS_MAX:
                raise OpFailed("busy", "the agent has too many analysis workers")
            queue = self._workers[worker.code] = _Queue(
                self._forks, self._root, self._spool_directory, self._environment
            )
            self._nursery.start_soon(queue.serve)
        return await queue.ask(_Question(worker, method, run_dir, arguments))


class _Question:
    """A question and, once `is_done`, what came of it."""

    def __init__(self, worker: Worker, method: str, run_dir: str | None, arguments: Json) -> None:
        self.worker = worker
        self.is_done = trio.Event()
        self.is_dropped = False
        self.result: Json | Content = None
        self.failure: OpFailed | None = None
        self._body = {"method": method, "run": run_dir, "args": arguments}

    def line(self, number: int) -> bytes:
        """The question as the worker reads it."""
        return codec.dumps({"id": number, **self._body}).encode() + b"\n"

    def drop(self) -> None:
        """Nobody waits any more; if it is being answered, the answer is thrown away."""
        self.is_dropped = True
        if isinstance(self.result, Content):
            self.result.close()
            self.result = None


class _Queue:
    """The questions for one code, and the process that answers them."""

    def __init__(self, forks: Forks, root: str, spool_directory: str, environment: Mapping[str, str]) -> None:
        self._forks = forks
        self._root = root
        self._environment = environment
        self._spool_directory = spool_directory
        self._questions: deque[_Question] = deque()
        self._arrived = trio.Event()
        self._process: _Process | None = None
        self._number = 0

    async def ask(self, question: _Question) -> Json | Content:
        if len(self._questions) >= QUESTIONS_QUEUED_MAX:
            raise OpFailed("busy", "too many questions wait for the analysis worker")
        self._questions.append(question)
        self._arrived.set()
        try:
            await question.is_done.wait()
        except trio.Cancelled:
            question.drop()
            with contextlib.suppress(ValueError):
                self._questions.remove(question)
            raise
        if question.failure is not None:
            raise question.failure
        return question.result

    async def serve(self) -> None:
        """One question after the other, for as long as the agent lives."""
        async with trio.open_nursery() as nursery:
            while True:
                while not self._questions:
                    self._arrived = trio.Event()
                    await self._arrived.wait()
                question = self._questions.popleft()
                await self._answer(question, nursery)

    async def _answer(self, question: _Question, nursery: trio.Nursery) -> None:
        failure = f"gave no answer in {question.worker.answer_s:g} s"
        with trio.move_on_after(question.worker.answer_s):
            try:
                process = await self._process_for(question.worker, nursery)
                self._number += 1
                header = await process.exchange(self._number, question.line(self._number))
                if header.error is not None:
                    question.failure = OpFailed(header.error.code, header.error.text)
                elif header.bytes is None:
                    question.result = header.result
                else:
                    question.result = await self._body(process, header, header.bytes)
                failure = ""
            except ForkRefused as error:
                failure = f"could not be started: {error}"
            except WorkerFailed as error:
                failure = str(error)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                failure = "ended"
            except OSError as error:
                failure = f"answered, but its answer could not be kept: {error.strerror}"
        if failure:
            tail = await self._let_go()
            log.warning("the analysis worker of %s %s", question.worker.code, failure)
            text = f"the analysis worker of {question.worker.code} {failure}{tail and ': '}{tail}"
            question.failure = OpFailed("worker", text[:TEXT_CHARS_MAX])
        question.is_done.set()
        if question.is_dropped:
            question.drop()

    async def _process_for(self, worker: Worker, nursery: trio.Nursery) -> "_Process":
        if self._process is not None and (self._process.is_dead or self._process.worker != worker):
            await self._let_go()
        if self._process is None:
            self._process = await _Process.begin(worker, self._root, self._environment, self._forks)
            nursery.start_soon(self._process.keep_stderr_tail)
        return self._process

    async def _body(self, process: "_Process", header: Header, length: int) -> Content:
        spool = Spool(self._spool_directory)
        while length > 0:
            piece = await process.read(length)
            await trio.to_thread.run_sync(spool.add, piece)
            length -= len(piece)
        return spool.content(header.type, header.result)

    async def _let_go(self) -> str:
        """End the process; returns the tail of its stderr."""
        if self._process is None:
            return ""
        process, self._process = self._process, None
        await process.end()
        return process.stderr_tail.decode(errors="replace").strip()


class _Process:
    """A worker's process and our ends of its pipes."""

    def __init__(self, worker: Worker, pidfd: int, stdin: int, stdout: int, stderr: int) -> None:
        self.worker = worker
        self.stderr_tail = b""
        self._pidfd = pidfd
        self._stdin = trio.lowlevel.FdStream(stdin)
        self._stdout = trio.lowlevel.FdStream(stdout)
        self._stderr = trio.lowlevel.FdStream(stderr)
        self._is_silent = trio.Event()  # stderr is at its end
        self._buffer = bytearray()

    @classmethod
    async def begin(cls, worker: Worker, directory: str, inherited: Mapping[str, str], forks: Forks) -> "_Process":
        path = os.environ.get("PATH", os.defpath)
        environment = {"PATH": path, **inherited, "HOME": directory, **worker.environment}
        (stdin, to), (out, stdout), (err, stderr) = (os.pipe2(os.O_CLOEXEC) for _ in range(3))
        try:
            pidfd = await forks.fork_worker(
                records.ForkWorker(worker.command, environment, directory), (stdin, stdout, stderr)
            )
        except BaseException:
            for descriptor in (to, out, err):
                os.close(descriptor)
            raise
        finally:
            for descriptor in (stdin, stdout, stderr):
                os.close(descriptor)
        return cls(worker, pidfd, to, out, err)

    @property
    def is_dead(self) -> bool:
        return bool(select.select([self._pidfd], [], [], 0)[0])

    async def exchange(self, number: int, question: bytes) -> Header:
        """Send a question and read the line that answers it."""
        await self._stdin.send_all(question)
        line = await self._read_line()
        decode = codec.decode
        try:
            if len(line) < LARGE_BYTES:
                header: Header = decode(line, Header, HEADER_BYTES_MAX)
            else:
                header = await trio.to_thread.run_sync(decode, line, Header, HEADER_BYTES_MAX)
        except CodecError as error:
            raise WorkerFailed(f"wrote garbage ({error})") from None
        if header.id != number:
            raise WorkerFailed(f"answered question {header.id} where {number} was asked")
        return header

    async def _read_line(self) -> bytes:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > HEADER_BYTES_MAX:
                raise WorkerFailed("wrote a line without end")
            self._buffer += await self._receive()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    async def read(self, bytes_max: int) -> bytes:
        """Some of the raw bytes."""
        if not self._buffer:
            self._buffer += await self._receive()
        piece = bytes(self._buffer[:bytes_max])
        del self._buffer[:bytes_max]
        return piece

    async def _receive(self) -> bytes:
        piece = await self._stdout.receive_some(PIECE_BYTES)
        if not piece:
            raise WorkerFailed("ended")
        return bytes(piece)

    async def keep_stderr_tail(self) -> None:
        """Read its stderr as it comes, so that it never blocks on it."""
        try:
            while piece := await self._stderr.receive_some(PIECE_BYTES):
                self.stderr_tail = (self.stderr_tail + bytes(piece))[-STDERR_TAIL_BYTES:]
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            pass
        finally:
            self._is_silent.set()

    async def end(self) -> None:
        """Kill it (its process group follows, see forkserver.py) and let go of everything."""
        procs.send(self._pidfd, signal.SIGKILL)
        with trio.move_on_after(0.5):
            await self._is_silent.wait()  # its last words
        os.close(self._pidfd)
        for stream in (self._stdin, self._stdout, self._stderr):
            await stream.aclose()
