"""A stand-in jobd behind a TLS port, a proxy in front of it, and agents that are started as on a login node."""

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import trio
from certificates import NAME, Certificate
from standin_jobd import REPOSITORY, AgentPlace, StandIn

from agents import procs
from schemas import codec
from schemas.link import ALPN_BULK, ALPN_LINK
from schemas.setups import AgentSetup, Arrival, Home


class LoginPlace(AgentPlace):
    """A user's directory on a login node; its agents detach themselves from the command that starts them."""

    def __init__(self, directory: Path, certificate: Certificate, **setup: Any) -> None:
        super().__init__(directory, **setup)
        self.certificate = certificate
        self.port = 0
        self.home: dict[str, Any] = {}
        self.written_root = str(self.root)  # as jobd writes it
        self.arrivals: list[Arrival] = []

    @property
    def token(self) -> str:
        return (self.place / "token").read_text()

    @property
    def own(self) -> Path:
        return self.root / ".jobd" / "agents" / self.agent

    def setup(self, generation: int) -> AgentSetup:
        home = {"host": "127.0.0.1", "port": self.port, "server_name": NAME, "certificates": self.certificate.pem}
        return AgentSetup(self.agent, generation, self.written_root, home=Home(**{**home, **self.home}), **self._setup)

    def login(
        self, generation: int, command: list[str] | None = None, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """The command over SSH, without SSH."""
        done = subprocess.run(
            [*(command or [sys.executable, "-m", "agents"]), "--login"],
            input=codec.dumps(codec.to_data(self.setup(generation))) + "\n" + self.token + "\n",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd="/",
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "STAND_IN_USER": str(self.root)}
            | environment,
        )
        if done.returncode == 0:
            self.arrivals.append(codec.from_data(json.loads(done.stdout), Arrival))
        return done

    @property
    def pid(self) -> int:
        return self.arrivals[-1].pid

    def log(self) -> str:
        return (self.own / "log").read_text()

    def assert_empty(self) -> None:
        for pid in self.survivors():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        super().assert_empty()


def until_gone(pid: int, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while (process := procs.look_up(pid)) is not None and not process.zombie:
        assert time.monotonic() < deadline, f"process {pid} does not end"
        time.sleep(0.02)


class TlsStandIn(StandIn):
    """jobd behind TLS, for agents that are elsewhere."""

    at: LoginPlace

    async def listen(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols([ALPN_LINK, ALPN_BULK])
        paths = self.at.certificate.write(self.place)
        context.load_cert_chain(paths["certificate_file"], paths["key_file"])
        [listener] = await trio.open_tcp_listeners(self.at.port, host="127.0.0.1")
        self.at.port = listener.socket.getsockname()[1]
        self._listening = trio.CancelScope()

        async def visited(transport: trio.SocketStream) -> None:
            stream = trio.SSLStream(transport, context, server_side=True, https_compatible=True)
            try:
                await stream.do_handshake()
            except trio.BrokenResourceError:
                return
            serve = {ALPN_LINK: self._serve_link, ALPN_BULK: self._serve_bulk}
            await serve[stream.selected_alpn_protocol()](stream)

        async def serve() -> None:
            with self._listening:
                await trio.serve_listeners(visited, [listener])

        self._nursery.start_soon(serve)

    async def vanish(self) -> None:
        self._listening.cancel()
        self._websocket = None
        await trio.lowlevel.checkpoint()


@contextlib.asynccontextmanager
async def jobd_behind_tls(at: LoginPlace) -> AsyncIterator[TlsStandIn]:
    async with trio.open_nursery() as nursery:
        jobd = TlsStandIn(at, nursery)
        await jobd.listen()
        yield jobd
        nursery.cancel_scope.cancel()


PROXY = Path(__file__).with_name("connect_proxy.py")


@contextlib.contextmanager
def proxy(answer: str = "HTTP/1.1 200 Connection established") -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """An HTTP proxy that takes CONNECT; its address, and its process, whose stdout names the targets."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, PROXY, str(port), answer], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield f"127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
