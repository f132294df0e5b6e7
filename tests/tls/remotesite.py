"""A real daemon, a real relay, and agents that reach the one only through the other; and connections of an enemy."""

import contextlib
import json
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from certificates import NAME, Certificate
from realdaemon import Daemon, wait_until

from schemas import codec
from schemas.link import ALPN_BULK, ALPN_LINK
from schemas.setups import RelaySetup

HERE = Path(__file__).parent
ZIPAPP = HERE.parents[1] / "build" / "jobd-agent.pyz"
LINK_REQUEST = (
    "GET /v1/agent HTTP/1.1\r\nhost: jobd\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    "sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nauthorization: Bearer {}\r\n\r\n"
)


class Relay:
    """A relay process, for a port on this machine."""

    def __init__(self, home: Path, certificate: Certificate, port: int, **setup: Any) -> None:
        self.doors = home / "doors"
        self._log = home / "relay.log"
        self._file = home / "relay.json"
        fields = {
            "host": "127.0.0.1",
            "port": port,
            "server_name": NAME,
            "certificates": certificate.pem,
            "directory": str(self.doors),
            "first_byte_s": 1.0,
            "connect_s": 2.0,
        }
        self._file.write_text(codec.dumps(codec.to_data(RelaySetup(**{**fields, **setup}))))
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> "subprocess.Popen[bytes]":
        with self._log.open("ab") as log:
            return subprocess.Popen([sys.executable, ZIPAPP, "--relay", self._file], stderr=log, cwd="/")

    def start(self) -> "Relay":
        said = self.log().count("relaying from")
        self.process = self.launch()
        wait_until(lambda: self.process.poll() is not None or self.log().count("relaying from") > said, "it relays")
        assert self.process.poll() is None, self.log()
        return self

    def end(self, sign: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(sign)
            code = self.process.wait(5)
            assert code == (0 if sign == signal.SIGTERM else -sign), self.log()
        assert "Traceback" not in self.log(), self.log()

    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def dial(self, door: str = "bulk.sock") -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(5)
        sock.connect(str(self.doors / door))
        return sock


class RemoteSite:
    """The daemon and the relay."""

    def __init__(self, home: Path, certificate: Certificate, **tables: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.certificate = certificate
        tls = {"host": "127.0.0.1", "port": self.port, **certificate.write(home), **tables.pop("tls", {})}
        self.daemon = Daemon(home, {"tls": tls, **tables})
        self.daemon.command = [sys.executable, HERE / "remotejobd.py", "--config"]
        self.relay = Relay(home, certificate, self.port)

    def start(self) -> "RemoteSite":
        self.relay.start()
        self.daemon.start()
        assert urlsplit((self.daemon.state / "tls-address").read_text().strip()).port == self.port
        return self

    def end(self) -> None:
        try:
            self.relay.end()
        finally:
            self.daemon.end()

    def put(self, user: str, name: str, content: bytes) -> None:
        with self.daemon.http() as http:
            assert http.put(f"/v1/users/{user}/library/{name}", content=content).status_code in (200, 201)

    def dial(self, alpn: str | None) -> ssl.SSLSocket:
        return dial(self.port, alpn)

    def knock(self, token: str) -> int:
        """The status that a link's handshake with this token is answered with."""
        with self.dial(ALPN_LINK) as sock:
            sock.sendall(LINK_REQUEST.format(token).encode("latin-1"))
            return int(sock.recv(4096).split()[1])

    def bulk(self, token: str, transfer: str, **header: Any) -> dict[str, Any]:
        """What a bulk header is answered with."""
        with self.dial(ALPN_BULK) as sock:
            sock.sendall(json.dumps({"token": token, "transfer": transfer, **header}).encode() + b"\n")
            return json.loads(received(sock) or "null")


def dial(port: int, alpn: str | None) -> ssl.SSLSocket:
    """A TLS connection of somebody who trusts everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols([alpn])
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=5))


def received(sock: socket.socket) -> bytes:
    """Everything, until the other side closes, however it does."""
    data = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while piece := sock.recv(65536):
            data += piece
    return data


@contextlib.contextmanager
def many(sockets: list[socket.socket]) -> Iterator[None]:
    try:
        yield
    finally:
        for sock in sockets:
            sock.close()
