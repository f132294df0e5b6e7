"""The TLS port, which the whole network can reach: whatever comes there, the daemon goes on and nobody else notices."""

import contextlib
import json
import re
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from realdaemon import Daemon, wait_until
from remotesite import LINK_REQUEST, RemoteSite, dial, many, received

from jobd.orders import transfer_id
from schemas.link import ALPN_BULK, ALPN_LINK
from schemas.records import StoredInput

STRANGERS_MAX = 40
WAITS = "while [ ! -e go ]; do sleep 0.05; done; echo undisturbed"


@pytest.fixture(scope="module")
def site(make_site: Callable[..., RemoteSite]) -> Iterator[RemoteSite]:
    """Alice and bob have remote agents; bob, who notices nothing, has a run under way."""
    site = make_site(tls={"strangers_max": STRANGERS_MAX}).start()
    for user in ("alice", "bob"):
        site.daemon.done(user, "warm", "echo warm > file")
    site.daemon.run("bob", "bystander", WAITS)
    site.daemon.until("bob", "bystander", "running")
    yield site
    site.daemon.file("bob", "bystander", "go").touch()
    assert site.daemon.until("bob", "bystander", "completed")["log_tail"] == "undisturbed\n"


@pytest.fixture(autouse=True)
def nobody_else_notices(site: RemoteSite) -> Iterator[None]:
    said = len(site.daemon.log())
    yield
    new = site.daemon.log()[said:]
    assert site.daemon.process.poll() is None, new
    assert not re.search(r"(?m)^.{23} (ERROR|CRITICAL)|Traceback", new), new
    status = site.daemon.status("bob", "bystander")
    assert (status["state"], status["serial"], status["known"]["state"]) == ("running", 1, "fresh")
    with site.daemon.client() as client:
        assert client.file("bob", "warm", "file") == b"warm\n"


def descriptors(daemon: Daemon) -> int:
    return len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir()))


# --- who is let in --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpn", [None, "http/1.1", "h2", "jobd", "jobd-link2"])
def test_whatever_is_no_link_and_no_bulk_stream_is_closed(site: RemoteSite, alpn: str | None) -> None:
    token = site.daemon.agent("alice").token
    for words in (LINK_REQUEST.format(token), json.dumps({"token": token, "transfer": "taaaaaaaaa"}) + "\n"):
        with site.dial(alpn) as sock:
            with contextlib.suppress(OSError):
                sock.sendall(words.encode())
            assert received(sock) == b""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_versions_of_tls_are_refused(site: RemoteSite) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(socket.create_connection(("127.0.0.1", site.port), timeout=5))


def test_a_token_that_is_nobodys_is_unauthorized(site: RemoteSite) -> None:
    good = site.daemon.agent("alice").token
    for token in ("", "x", good[:-1], good + "x", site.daemon.token, "\xff" * 50):
        assert site.knock(token) == 401
        assert site.bulk(token, "taaaaaaaaa")["error"] == "unauthorized"


def test_a_token_opens_the_door_for_its_own_agent_only(site: RemoteSite) -> None:
    """Bob has a run open whose input may still be fetched: with his token, not with alice's."""
    daemon = site.daemon
    record = daemon._record("SELECT record FROM jobs WHERE name = 'bystander'")

    run = SimpleNamespace(job=record["id"], serial=1)
    transfer = transfer_id(run, StoredInput("script.sh", len(WAITS), "", False))
    assert site.bulk(daemon.agent("alice").token, transfer) == {"error": "no such transfer"}
    with site.dial(ALPN_BULK) as sock:
        sock.sendall(json.dumps({"token": daemon.agent("bob").token, "transfer": transfer}).encode() + b"\n")
        reply, content = received(sock).split(b"\n", 1)
    assert json.loads(reply) == {"bytes": len(WAITS)}
    assert content == WAITS.encode()


def test_a_token_dies_with_its_generation(site: RemoteSite) -> None:
    site.daemon.done("carol", "j", "true")
    agent = site.daemon.agent("carol")
    old = agent.token
    assert site.knock(old) == 101
    agent.signal(9)
    site.daemon.done("carol", "j", "true", force=True)
    assert site.daemon.agent("carol").generation > agent.generation
    assert site.knock(old) == 401
    assert site.knock(site.daemon.agent("carol").token) == 101


def test_an_agent_of_this_machine_may_not_come_from_another(make_site: Callable[..., RemoteSite]) -> None:
    site = make_site()
    site.daemon.command = [sys.executable, "-m", "jobd", "--config"]  # with its own doors, and its own rule
    daemon = site.daemon.start()
    daemon.done("alice", "j", "true")
    token = daemon.agent("alice").token
    assert site.knock(token) == 401
    assert site.bulk(token, "taaaaaaaaa")["error"] == "unauthorized"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(daemon.agent("alice").directory / "control.sock"))
        sock.sendall(LINK_REQUEST.format(token).encode())
        assert sock.recv(100).startswith(b"HTTP/1.1 101"), "at its own socket it is good"


# --- noise ----------------------------------------------------------------------------------------------------------

NOISE = {
    "HTTP": b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
    "zeros": b"\0" * 100_000,
    "a record that is too long": b"\x16\x03\x01\xff\xff" + b"x" * 70_000,
    "an alert": b"\x15\x03\x01\x00\x02\x02\x28",
    "SSLv2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + b"x" * 40,
    "one byte": b"\x16",
    "nothing": b"",
}


@pytest.mark.parametrize("which", NOISE)
def test_what_is_no_tls_is_closed_in_time(site: RemoteSite, which: str) -> None:
    with socket.create_connection(("127.0.0.1", site.port), timeout=5) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(NOISE[which])
        assert not received(sock).startswith(b"HTTP"), "closed before the timeout of 5 s; unauthenticated_s is 1 s"


@pytest.mark.parametrize("alpn", [ALPN_LINK, ALPN_BULK])
@pytest.mark.parametrize(
    "data", [b"", b"\0" * 100_000, b"{}\n", b"x" * 100_000, b"\n", b'{"token": "x"}\n', b"GET /\r\n\r\n"]
)
def test_nonsense_in_tls_is_closed_in_time(site: RemoteSite, alpn: str, data: bytes) -> None:
    with site.dial(alpn) as sock:
        with contextlib.suppress(OSError):
            sock.sendall(data)
        received(sock)


# --- floods ---------------------------------------------------------------------------------------------------------


def silent(site: RemoteSite) -> socket.socket:
    return socket.create_connection(("127.0.0.1", site.port), timeout=5)


def half_way(site: RemoteSite) -> socket.socket:
    """Somebody who begins a handshake, and lets the server do its part."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    outgoing = ssl.MemoryBIO()
    hello = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="x")
    with contextlib.suppress(ssl.SSLWantReadError):
        hello.do_handshake()
    sock = silent(site)
    sock.sendall(outgoing.read())
    return sock


def speechless(site: RemoteSite) -> socket.socket:
    return dial(site.port, ALPN_LINK)


@pytest.mark.parametrize("come", [silent, half_way, speechless])
def test_three_hundred_strangers_take_few_places_and_keep_no_agent_out(
    site: RemoteSite, come: Callable[[RemoteSite], socket.socket]
) -> None:
    before = descriptors(site.daemon)
    strangers: list[socket.socket] = []
    with many(strangers):
        for number in range(300):
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                strangers.append(come(site))
            if number % 100 == 99:
                assert descriptors(site.daemon) <= before + STRANGERS_MAX + 10
                assert site.knock(site.daemon.agent("alice").token) == 101
        assert site.daemon.done("dora", f"{come.__name__}", "echo in")["log_tail"] == "in\n"
        with site.daemon.client() as client:
            assert client.file("bob", "warm", "file") == b"warm\n"
    wait_until(lambda: descriptors(site.daemon) <= before + 5, "unauthenticated_s is 1 s, and dora has an agent")
