"""The relay alone: whom it lets in, whom it trusts, and what it costs; in front of a TLS server of the test."""

import contextlib
import os
import resource
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import Certificate
from realdaemon import wait_until
from remotesite import Relay, many, received

from schemas.link import ALPN_BULK, ALPN_LINK

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs other uids")


class Server:
    """TLS on a port; what comes is sent back, or, while `is_deaf`, not even read."""

    def __init__(self, directory: Path, certificate: Certificate, *, alpn: bool = True, chain: str = "") -> None:
        files = certificate.write(directory)
        with open(files["certificate_file"], "a") as file:
            file.write(chain)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(files["certificate_file"], files["key_file"])
        if alpn:
            self._context.set_alpn_protocols([ALPN_LINK, ALPN_BULK])
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self._listener.getsockname()[1]
        self.is_deaf = False
        self.dialled = 0
        self.spoken: list[str | None] = []
        self.open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self.open:
            sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.dialled += 1
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock = self._context.wrap_socket(raw, server_side=True)
            self.spoken.append(sock.selected_alpn_protocol())
            self.open.append(sock)
            while not self.is_deaf and (data := sock.recv(65536)):
                sock.sendall(data)
            if not self.is_deaf:
                sock.close()


@pytest.fixture
def server(home: Path, certificate: Certificate) -> Iterator[Server]:
    server = Server(home, certificate)
    yield server
    server.close()


@pytest.fixture
def relay_to(home: Path, certificate: Certificate) -> Iterator[Callable[..., Relay]]:
    with contextlib.ExitStack() as stack:

        def make(port: int, **setup: Any) -> Relay:
            relay = Relay(home, setup.pop("trusted", certificate), port, **setup)
            stack.callback(relay.end)
            return relay.start()

        yield make


def echo(relay: Relay, data: bytes = b"hello", door: str = "bulk.sock") -> bytes:
    with relay.dial(door) as sock, contextlib.suppress(ConnectionError):
        sock.sendall(data)
        return sock.recv(65536)
    return b""


# --- what it does ---------------------------------------------------------------------------------------------------


def test_each_door_has_its_protocol(server: Server, relay_to: Callable[..., Relay]) -> None:
    relay = relay_to(server.port)
    assert echo(relay, door="control.sock") == echo(relay, door="bulk.sock") == b"hello"
    assert server.spoken == [ALPN_LINK, ALPN_BULK]


def test_many_megabytes_go_both_ways_at_once_unchanged(server: Server, relay_to: Callable[..., Relay]) -> None:
    data, back = os.urandom(20 << 20), bytearray()
    with relay_to(server.port).dial() as sock:
        writer = threading.Thread(target=sock.sendall, args=(data,))
        writer.start()
        while len(back) < len(data) and (piece := sock.recv(1 << 20)):
            back += piece
        writer.join()
    assert back == data


def test_the_end_of_either_side_is_the_end_of_both(server: Server, relay_to: Callable[..., Relay]) -> None:
    relay = relay_to(server.port)
    before = relay.descriptors()
    with relay.dial() as sock:
        sock.sendall(b"x")
        assert sock.recv(10) == b"x"
        sock.shutdown(socket.SHUT_WR)
        assert received(sock) == b""
    with relay.dial() as sock:
        sock.sendall(b"x")
        assert sock.recv(10) == b"x"
        server.open[-1].shutdown(socket.SHUT_RDWR)
        assert received(sock) == b""
    wait_until(lambda: relay.descriptors() == before, "nothing is left of them")


def test_whoever_does_not_read_stops_the_other_side(server: Server, relay_to: Callable[..., Relay]) -> None:
    server.is_deaf = True
    relay = relay_to(server.port)
    sockets: list[socket.socket] = []
    with many(sockets):
        for _ in range(5):
            sockets.append(sock := relay.dial())
            sock.settimeout(0.5)
            sent = 0
            with contextlib.suppress(TimeoutError):
                while sent < 100 << 20:
                    sent += sock.send(bytes(1 << 16))
            assert sent < 20 << 20, "no more than the kernel's buffers and a piece"
        assert memory_bytes(relay) < 80 << 20


def test_a_connection_that_moves_nothing_is_closed(server: Server, relay_to: Callable[..., Relay]) -> None:
    relay = relay_to(server.port, stall_s=0.5)
    with relay.dial() as sock:
        for _ in range(4):  # longer than the limit, but never silent for so long
            sock.sendall(b"x")
            assert sock.recv(10) == b"x"
            time.sleep(0.2)
        assert received(sock) == b""
    server.is_deaf = True
    with relay.dial() as sock:
        sock.sendall(b"x")
        assert received(sock) == b"", "nor may nothing ever move"


def test_a_signal_ends_it_at_once_and_all_connections(server: Server, relay_to: Callable[..., Relay]) -> None:
    relay = relay_to(server.port)
    with relay.dial() as sock, relay.dial():
        sock.sendall(b"x")
        assert sock.recv(10) == b"x"
        relay.end()
        assert received(sock) == b""


# --- whom it trusts -------------------------------------------------------------------------------------------------


def test_only_the_pinned_certificate_is_trusted(server: Server, relay_to: Callable[..., Relay]) -> None:
    relay = relay_to(server.port, trusted=Certificate())
    for _ in range(3):
        assert echo(relay) == b""
    assert server.spoken == [], "no handshake was finished, and so nothing said"
    assert relay.log().count("certificate verify failed") == 1, "told once"


def test_a_certificate_for_another_name_is_refused(server: Server, relay_to: Callable[..., Relay]) -> None:
    relay = relay_to(server.port, server_name="other.example")
    assert echo(relay) == b""
    assert "Hostname mismatch" in relay.log()


def test_an_address_is_a_name_too(server: Server, relay_to: Callable[..., Relay]) -> None:
    assert echo(relay_to(server.port, server_name="127.0.0.1")) == b"hello"


@pytest.mark.parametrize("pinned", ["authority", "certificate"])
def test_an_authority_or_the_certificate_itself_can_be_pinned(
    home: Path, relay_to: Callable[..., Relay], pinned: str
) -> None:
    authority = Certificate(is_ca=True)
    signed = Certificate(authority)
    server = Server(home, signed)
    assert echo(relay_to(server.port, trusted=authority if pinned == "authority" else signed)) == b"hello"
    server.close()


def test_a_server_that_speaks_something_else_is_refused(
    home: Path, certificate: Certificate, relay_to: Callable[..., Relay]
) -> None:
    server = Server(home, certificate, alpn=False)
    relay = relay_to(server.port)
    assert echo(relay) == b""
    assert "it does not speak jobd-bulk" in relay.log()
    server.close()


def test_without_jobd_connections_are_closed_and_with_it_they_are_not(
    home: Path, certificate: Certificate, relay_to: Callable[..., Relay]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        relay = relay_to(mute.getsockname()[1], connect_s=0.5)
        assert echo(relay) == b""
    assert "no answer within 0.5 s" in relay.log()
    for _ in range(3):
        assert echo(relay) == b""
    assert relay.log().count("all attempts to connect") == 1


# --- whom it lets in ------------------------------------------------------------------------------------------------


def test_whoever_says_nothing_is_dropped_and_jobd_never_hears_of_it(
    server: Server, relay_to: Callable[..., Relay]
) -> None:
    relay = relay_to(server.port, first_byte_s=0.5)
    sockets = [relay.dial() for _ in range(20)]
    with many(sockets):
        assert [received(sock) for sock in sockets] == [b""] * 20
    assert server.dialled == 0


FLOOD = """
import os, socket, sys
os.setgroups(()); os.setgid(31000); os.setuid(31000)
held = []
for _ in range(400):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(5)
    try:
        sock.connect(sys.argv[1])
        sock.send(os.urandom(1 + 50_000 * (len(held) % 2)))
    except OSError:
        pass
    held.append(sock)
print("flooded", flush=True)
while True:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(sys.argv[1])
        sock.send(b"x")
    except OSError:
        pass
"""


@needs_root
def test_a_uid_that_floods_takes_only_its_own_places(server: Server, relay_to: Callable[..., Relay]) -> None:
    relay = relay_to(server.port, connections_per_uid_max=30, connections_max=100)
    before = relay.descriptors()
    command = [sys.executable, "-S", "-c", FLOOD, str(relay.doors / "bulk.sock")]
    flood = subprocess.Popen(command, stdout=subprocess.PIPE, cwd="/")
    try:
        assert flood.stdout.readline() == b"flooded\n"
        assert relay.descriptors() <= before + 2 * 30 + 5
        wait_until(lambda: echo(relay) == b"hello", "another uid gets through")
        assert server.dialled <= 40
    finally:
        flood.kill()
        flood.wait()
        flood.stdout.close()
    wait_until(lambda: relay.descriptors() <= before, "its places are free again")


def test_all_together_have_a_bound_too(server: Server, relay_to: Callable[..., Relay]) -> None:
    relay = relay_to(server.port, connections_max=5)
    sockets = [relay.dial() for _ in range(5)]
    with many(sockets):
        for sock in sockets:
            sock.sendall(b"x")
            assert sock.recv(10) == b"x"
        assert echo(relay) == b""
    wait_until(lambda: echo(relay) == b"hello")


@needs_root
def test_every_uid_may_connect_and_none_may_take_the_sockets_places(
    home: Path, server: Server, relay_to: Callable[..., Relay]
) -> None:
    (home / "doors").mkdir()
    (home / "doors").chmod(0o777)
    (home / "doors" / "junk").touch()
    relay = relay_to(server.port)
    assert stat.S_IMODE(relay.doors.stat().st_mode) == 0o755
    assert {name.name: stat.S_IMODE(name.stat().st_mode) for name in relay.doors.glob("*.sock")} == {
        "control.sock": 0o666,
        "bulk.sock": 0o666,
    }


# --- how it refuses to start ----------------------------------------------------------------------------------------

FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no certificate": ({"certificates": "x"}, "certificate"),
    "an empty certificate": ({"certificates": ""}, "ertificate"),
    "no name": ({"server_name": ""}, "server_hostname"),
    "a directory that is a file": ({"directory": "/etc/hostname"}, "/etc/hostname"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_setup_that_cannot_work_is_told_and_not_tried(home: Path, certificate: Certificate, fault: str) -> None:
    changed, words = FAULTS[fault]
    relay = Relay(home, certificate, 1, **changed)
    assert relay.launch().wait(10) == 1
    assert "cannot start: " in relay.log()
    assert words in relay.log()
    assert "Traceback" not in relay.log()


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"host": 1}', b"\xff", b"x" * 200_000])
def test_a_setup_that_cannot_be_read_is_told(home: Path, certificate: Certificate, content: bytes | None) -> None:
    relay = Relay(home, certificate, 1)
    (home / "relay.json").unlink() if content is None else (home / "relay.json").write_bytes(content)
    assert relay.launch().wait(10) == 1
    assert "cannot start: " in relay.log()
    assert "Traceback" not in relay.log()


def memory_bytes(relay: Relay) -> int:
    pages = int(Path(f"/proc/{relay.process.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()
