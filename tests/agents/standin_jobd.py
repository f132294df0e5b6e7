"""A small stand-in for jobd: real unix sockets, real websockets, schemas/link; and the agents it starts.

It acknowledges nothing by itself and remembers every fact it was sent, in order, so that a test decides what jobd knew
when. Agents are real processes.
"""

import contextlib
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import trio
import trio_websocket

from agents import disk, procs, records
from schemas import codec, ids
from schemas.link import (
    MESSAGE_BYTES_MAX,
    Ack,
    Answer,
    Beat,
    BulkHeader,
    BulkReply,
    Ended,
    Epoch,
    Fact,
    Hello,
    InputFile,
    Order,
    Progress,
    RunLimits,
    Start,
    Started,
    Stop,
    Taken,
    Welcome,
    Worker,
)
from schemas.setups import AgentSetup

REPOSITORY = Path(__file__).parents[2]


class AgentPlace:
    """An agent's directory, its user's directory, and the processes that were started on them, one after the other."""

    def __init__(self, directory: Path, **setup: Any) -> None:
        self.root = directory / "user"
        self.place = directory / "agent"
        self.agent = ids.new_id("a")
        self.acked = 0
        self.processes: list[subprocess.Popen[bytes]] = []
        self._setup = {"reconnect_s_max": 0.1, **setup}
        self.root.mkdir()
        self.place.mkdir()
        (self.place / "token").write_text(secrets.token_urlsafe(32))

    def call_agent(self, failpoint: str | None = None, command: list[str] | None = None) -> subprocess.Popen[bytes]:
        """Start the next generation."""
        setup = AgentSetup(self.agent, len(self.processes) + 1, str(self.root), **self._setup)
        (self.place / "agent.json").write_text(codec.dumps(codec.to_data(setup)))
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            _MARKER.decode()[:-1]: str(self.root),
        }
        if failpoint is not None:
            environment["JOBD_FAILPOINT"] = failpoint
        with open(self.place / f"log.{len(self.processes) + 1}", "wb") as log:
            process = subprocess.Popen(
                [*(command or [sys.executable, "-m", "agents"]), str(self.place)],
                env=environment,
                cwd="/",
                stderr=log,
            )
        self.processes.append(process)
        return process

    def log(self) -> str:
        """What the newest agent has logged."""
        return (self.place / f"log.{len(self.processes)}").read_text()

    def survivors(self) -> list[int]:
        """Living processes of this user: agents, fork servers, parents, workers and whatever the runs left."""
        return [process.pid for process in procs.processes() if not process.zombie and self._is_ours(process.pid)]

    def run_processes(self) -> list[int]:
        """Those of them that a run's command (or a worker) is or left."""
        return [pid for pid in self.survivors() if _environment(pid).find(_MARKER) < 0]

    def _is_ours(self, pid: int) -> bool:
        try:
            directory = os.readlink(f"/proc/{pid}/cwd")
        except OSError:
            return False
        return directory.startswith(str(self.root)) or str(self.root).encode() in _environment(pid)

    def assert_empty(self) -> None:
        """After the agents nothing is left: fork servers and workers end with them, and the tests ended the runs."""
        for process in self.processes:
            process.kill()
            process.wait()
        deadline = time.monotonic() + 2
        while (left := self.survivors()) and time.monotonic() < deadline:
            time.sleep(0.01)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert not left, f"processes were left behind: {left}"


class StandIn:
    """One jobd for one agent."""

    def __init__(self, at: AgentPlace, nursery: trio.Nursery) -> None:
        self.at = at
        self.root, self.place, self.agent = at.root, at.place, at.agent
        self.job = ids.new_id("j")
        self.scratch = at.root / self.job  # ".." of each run
        self.facts: list[Fact] = []
        self.hellos: list[Hello] = []
        self.beats = True
        self.welcome_stops: tuple[Epoch, ...] = ()
        self.inputs: dict[str, bytes] = {}
        self.input_cuts: list[int] = []  # cut the next transfers after so many bytes
        self.input_stalls = False
        self.vanishes_at_input = False
        self.on_push: Callable[[], object] = lambda: None
        self.transfers: dict[str, bytes] = {}
        self.transfer_headers: list[BulkHeader] = []
        self.reject_with: int | None = None
        self._nursery = nursery
        self._changed = trio.Event()
        self._websocket: trio_websocket.WebSocketConnection | None = None
        self._listening = trio.CancelScope()
        self.scratch.mkdir()

    # --- jobd's side of the link

    async def listen(self) -> None:
        control = await listen_unix(self.place / "control.sock")
        bulk = await listen_unix(self.place / "bulk.sock")
        self._listening = trio.CancelScope()

        async def serve() -> None:
            with self._listening:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.serve_listeners, self._serve_link, [control])
                    nursery.start_soon(trio.serve_listeners, self._serve_bulk, [bulk])

        self._nursery.start_soon(serve)

    @property
    def is_away(self) -> bool:
        return not (self.place / "control.sock").exists()

    async def vanish(self) -> None:
        """Cut every connection and stop listening, as a killed jobd does."""
        self._listening.cancel()
        for name in ("control.sock", "bulk.sock"):
            (self.place / name).unlink()
        self._websocket = None
        await trio.lowlevel.checkpoint()

    async def _serve_link(self, stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            request = await trio_websocket.wrap_server_stream(nursery, stream)
            token = (self.place / "token").read_text()
            assert dict(request.headers)[b"authorization"] == f"Bearer {token}".encode()
            if self.reject_with is not None:
                await request.reject(self.reject_with)
            else:
                await self._converse(await request.accept(), nursery)
            nursery.cancel_scope.cancel()

    async def _converse(self, websocket: trio_websocket.WebSocketConnection, nursery: trio.Nursery) -> None:
        with contextlib.suppress(trio_websocket.ConnectionClosed):
            hello = await self._receive(websocket)
            assert isinstance(hello, Hello)
            self.hellos.append(hello)
            await websocket.send_message(codec.encode(Welcome(1, self.at.acked, 0.2, self.welcome_stops)))
            self._websocket = websocket
            self._note()
            nursery.start_soon(self._beat, websocket)
            while True:
                self.facts.append(await self._receive(websocket))
                self._note()
        if self._websocket is websocket:
            self._websocket = None

    async def _receive(self, websocket: trio_websocket.WebSocketConnection) -> Fact:
        fact: Fact = codec.decode(await websocket.get_message(), Fact, MESSAGE_BYTES_MAX)
        return fact

    async def _beat(self, websocket: trio_websocket.WebSocketConnection) -> None:
        count = 0
        with contextlib.suppress(trio_websocket.ConnectionClosed):
            while True:
                if self.beats:
                    count += 1
                    await websocket.send_message(codec.encode(Beat(count)))
                await trio.sleep(0.1)

    async def _serve_bulk(self, stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            async with stream:
                line = b""
                while not line.endswith(b"\n"):
                    line += await stream.receive_some(1)
                header: BulkHeader = codec.decode(line, BulkHeader, 4096)
                self.transfer_headers.append(header)
                assert header.token == (self.place / "token").read_text()
                if header.bytes is not None:
                    self.on_push()
                    await stream.send_all(_line(BulkReply()))
                    received = b"".join([piece async for piece in stream])
                    self.transfers[header.transfer] = received
                    self._note()
                    return
                self._note()
                if self.vanishes_at_input:
                    await self.vanish()
                if self.input_stalls:
                    await trio.sleep_forever()
                content = self.inputs.get(header.transfer)
                if content is None:
                    await stream.send_all(_line(BulkReply(error="no such transfer")))
                    return
                rest = content[header.offset :]
                await stream.send_all(_line(BulkReply(len(rest))))
                await stream.send_all(rest[: self.input_cuts.pop(0)] if self.input_cuts else rest)

    async def ack(self, number: int) -> None:
        self.at.acked = number
        await self.send(Ack(number))

    def _note(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # --- orders

    async def send(self, order: Order) -> None:
        await self.until(lambda: self._websocket is not None)
        assert self._websocket is not None
        await self._websocket.send_message(codec.encode(order))

    async def send_text(self, text: str) -> None:
        await self.until(lambda: self._websocket is not None)
        assert self._websocket is not None
        await self._websocket.send_message(text)

    async def start(self, *command: str, serial: int = 1, **fields: Any) -> Epoch:
        order = self.order(*command, serial=serial, **fields)
        await self.send(order)
        return order.epoch

    def order(
        self,
        *command: str,
        serial: int = 1,
        inputs: tuple[InputFile, ...] = (),
        worker: Worker | None = None,
        progress_s: float = 0.1,
        environment: dict[str, str] | None = None,
        **limits: Any,
    ) -> Start:
        defaults = {
            "run_s": 60.0,
            "grace_s": 0.3,
            "memory_bytes": 1 << 32,
            "log_bytes": 1 << 20,
            "output_bytes": 1 << 30,
            "processes": 4096,
        }
        return Start(
            Epoch(self.job, serial),
            command,
            {"PATH": os.environ["PATH"], **(environment or {})},
            inputs,
            RunLimits(**{**defaults, **limits}),
            worker,
            progress_s,
        )

    def input(self, path: str, content: bytes) -> InputFile:
        transfer = ids.new_id("t")
        self.inputs[transfer] = content
        return InputFile(path, len(content), hashlib.sha256(content).hexdigest(), transfer)

    async def stop(self, epoch: Epoch, grace_s: float = 0.3) -> None:
        await self.send(Stop(epoch, grace_s))

    # --- facts

    async def until(self, condition: Callable[[], Any]) -> Any:
        while not (result := condition()):
            await self._changed.wait()
        return result

    async def fact(self, kind: type[Any], where: Callable[[Any], bool] = lambda _: True) -> Any:
        """The first fact of this kind."""
        found = await self.until(lambda: [f for f in self.facts if isinstance(f, kind) and where(f)])
        return found[0]

    async def ended(self, epoch: Epoch) -> Ended:
        fact: Ended = await self.fact(Ended, lambda f: f.epoch == epoch)
        return fact

    async def started(self, epoch: Epoch) -> Started:
        fact: Started = await self.fact(Started, lambda f: f.epoch == epoch)
        return fact

    async def taken(self, epoch: Epoch) -> Taken:
        fact: Taken = await self.fact(Taken, lambda f: f.epoch == epoch)
        return fact

    async def answer(self, op: str) -> Answer:
        fact: Answer = await self.fact(Answer, lambda f: f.op == op)
        return fact

    async def ask(self, kind: type[Any], epoch: Epoch, **fields: Any) -> Answer:
        op = ids.new_id("o")
        await self.send(kind(op, epoch, **fields))
        return await self.answer(op)

    async def asked_bytes(self, kind: type[Any], epoch: Epoch, **fields: Any) -> bytes:
        """The bytes that an op is answered with by bulk."""
        answer = await self.ask(kind, epoch, **fields)
        assert answer.bytes is not None, answer
        return await self.until(lambda: self.transfers.get(answer.op)) if answer.bytes else b""

    def progress(self) -> list[Progress]:
        return [fact for fact in self.facts if isinstance(fact, Progress)]

    def numbered(self) -> dict[int, Started | Ended]:
        """The durable facts by number, as jobd commits them; a number always says the same."""
        known: dict[int, Started | Ended] = {}
        for fact in self.facts:
            if isinstance(fact, (Started, Ended)):
                first = known.setdefault(fact.number, fact)
                assert (type(first), first.epoch) == (type(fact), fact.epoch)
        return known

    # --- the agent's processes

    def call_agent(self, failpoint: str | None = None, command: list[str] | None = None) -> subprocess.Popen[bytes]:
        """Start the next generation."""
        return self.at.call_agent(failpoint, command)

    @property
    def pid(self) -> int:
        """The newest agent's."""
        return self.at.processes[-1].pid

    async def agent_exit(self) -> int:
        """The newest agent's exit code; its connection counts as gone."""
        code = await trio.to_thread.run_sync(self.at.processes[-1].wait, abandon_on_cancel=True)
        self._websocket = None
        return code

    async def kill_agent(self, signum: signal.Signals = signal.SIGKILL) -> int:
        os.kill(self.pid, signum)
        return await self.agent_exit()

    def fork_server(self) -> int:
        """The newest agent's fork server."""
        return next(process.pid for process in procs.processes() if process.parent == self.pid)

    # --- what is on disk and in the process table

    def control(self, epoch: Epoch) -> Path:
        return Path(disk.Tree(str(self.root), self.agent).control(epoch))

    def run_dir(self, epoch: Epoch) -> Path:
        return Path(disk.Tree(str(self.root), self.agent).run_dir(epoch))

    def claim(self, epoch: Epoch) -> records.Claim:
        claim = disk.read_record(str(self.control(epoch)), records.CLAIM, records.Claim)
        assert claim is not None
        return claim


_MARKER = b"STAND_IN_USER="  # in the environment of an agent, and so of its fork server and its parents


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def _line(reply: BulkReply) -> bytes:
    return json.dumps(codec.to_data(reply)).encode() + b"\n"


async def listen_unix(path: Path) -> trio.SocketListener:
    sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await sock.bind(str(path))
    sock.listen(64)
    return trio.SocketListener(sock)


async def eventually(condition: Callable[[], Any]) -> None:
    """Until something is true that neither a fact nor the kernel tells of."""
    while not condition():
        await trio.sleep(0.01)


@contextlib.asynccontextmanager
async def stand_in_for(at: AgentPlace) -> AsyncIterator[StandIn]:
    """A jobd that listens there."""
    async with trio.open_nursery() as nursery:
        jobd = StandIn(at, nursery)
        await jobd.listen()
        yield jobd
        if not jobd.is_away:
            await jobd.vanish()
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def stand_in(directory: Path, **setup: Any) -> AsyncIterator[StandIn]:
    """A jobd for a new agent, not yet called; at the end no process of the agent or its runs may be left."""
    at = AgentPlace(directory, **setup)
    try:
        async with stand_in_for(at) as jobd:
            yield jobd
    finally:
        at.assert_empty()
