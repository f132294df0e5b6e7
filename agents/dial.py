"""The way to jobd, for the link and for bulk streams: neither knows which it is.

`Doors` are unix sockets on this machine: jobd's own, or a relay's. `Calls` go to jobd's TLS port, through a proxy if
there is one; ALPN says there what a connection is. Either also knows the token that is shown at its end: for a
door it is in a file, which is read anew each time; for a call it is in memory, and nowhere else.
"""

import logging
import os
import ssl
from typing import Protocol

import trio

from agents.tls import TlsClient
from schemas.link import ALPN_BULK, ALPN_LINK
from schemas.setups import Home

DOORS = {ALPN_LINK: "control.sock", ALPN_BULK: "bulk.sock"}
CONNECT_S_MAX = 10.0
PIECE_BYTES = 128 * 1024
PROXY_HEAD_BYTES_MAX = 16 * 1024

log = logging.getLogger(__name__)


class Way(Protocol):
    """How an agent reaches jobd."""

    def token(self) -> str:
        """Who we are; raises OSError."""

    async def dial(self, purpose: str) -> trio.abc.Stream:
        """A connection for ALPN_LINK or ALPN_BULK; raises OSError or TooSlowError."""


class Doors:
    """Sockets in a directory, and a token in a file."""

    def __init__(self, directory: str, doors: str) -> None:
        self._directory = directory
        self._doors = doors

    def token(self) -> str:
        """The token of the newest generation."""
        with open(os.path.join(self._directory, "token")) as file:
            return file.read().strip()

    async def dial(self, purpose: str) -> trio.abc.Stream:
        """Connect to a socket."""
        with trio.fail_after(CONNECT_S_MAX):
            return await trio.open_unix_socket(os.path.join(self._doors, DOORS[purpose]))


class Calls:
    """TLS to the jobd that we know. Raises ValueError or OSError when certificates or names cannot work."""

    def __init__(self, home: Home, token: str = "", connect_s: float = CONNECT_S_MAX) -> None:
        self._home = home
        self._token = token
        self._connect_s = connect_s
        self._contexts = {purpose: client_context(home, purpose) for purpose in DOORS}
        self._target = host_and_port(home.proxy) if home.proxy else (home.host, home.port)
        self._connect_request = connect_request(home)
        self._trouble = ""  # why jobd could not be reached the last time; told once

    def token(self) -> str:
        """The token that we were given."""
        return self._token

    async def dial(self, purpose: str) -> TlsClient:
        """Connect, through the proxy, and shake hands."""
        try:
            with trio.fail_after(self._connect_s):
                jobd = await self._handshaken(purpose)
        except trio.TooSlowError:
            trouble = f"no answer within {self._connect_s:g} s"
        except (OSError, trio.BrokenResourceError) as error:
            trouble = str(error) or type(error).__name__
        else:
            self._tell("")
            return jobd
        self._tell(trouble)
        raise ConnectionError(trouble)

    async def _handshaken(self, purpose: str) -> TlsClient:
        transport = await trio.open_tcp_stream(*self._target)
        jobd = TlsClient(transport, self._contexts[purpose], self._home.server_name, PIECE_BYTES)
        try:
            if self._home.proxy:
                await ask_proxy(transport, self._connect_request)
            await jobd.shake_hands()
            if jobd.protocol != purpose:
                raise ConnectionError(f"it does not speak {purpose}")
        except BaseException:
            await trio.aclose_forcefully(transport)
            raise
        return jobd

    def _tell(self, trouble: str) -> None:
        """Whoever calls comes back every second, so a trouble is told when it begins, and when it is over."""
        if trouble != self._trouble:
            where = f"jobd at {self._home.host}:{self._home.port}"
            where += f", through the proxy {self._home.proxy}" if self._home.proxy else ""
            log.warning("%s: %s", where, trouble) if trouble else log.info("%s is there again", where)
        self._trouble = trouble


def client_context(home: Home, purpose: str) -> ssl.SSLContext:
    """Trust only what is pinned: a CA, or the certificate itself, whoever has signed it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols([purpose])
    context.load_verify_locations(cadata=home.certificates.encode("ascii", "ignore").decode())  # comments may be
    context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=home.server_name)  # it is a name
    return context


def host_and_port(text: str) -> tuple[str, int]:
    """Of 'host:port', where an IPv6 address has brackets; raises ValueError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"{text!r} is not host:port")
    return host.strip("[]"), int(port)


def connect_request(home: Home) -> bytes:
    """What a proxy is asked; raises ValueError for a host that would be more than a word."""
    host = f"[{home.host}]" if ":" in home.host else home.host
    if not host.isascii() or not host.isprintable() or " " in host:
        raise ValueError(f"{home.host!r} is not the name of a host")
    return f"CONNECT {host}:{home.port} HTTP/1.1\r\nHost: {host}:{home.port}\r\n\r\n".encode()


async def ask_proxy(stream: trio.SocketStream, request: bytes) -> None:
    """Let an HTTP proxy join the stream to its target; raises ConnectionError."""
    await stream.send_all(request)
    head = b""
    while b"\r\n\r\n" not in head:
        piece = await stream.receive_some(PROXY_HEAD_BYTES_MAX)
        head += piece
        if not piece or len(head) > PROXY_HEAD_BYTES_MAX:
            raise ConnectionError("the proxy gave no answer to CONNECT")
    head, rest = head.split(b"\r\n\r\n", 1)
    version, status, *_ = [*head.split(b"\r\n", 1)[0].split(b" ", 2), b"", b""]
    if not version.startswith(b"HTTP/1.") or len(status) != 3 or not status.startswith(b"2"):
        answer = head.split(b"\r\n", 1)[0][:200].decode("latin-1")
        raise ConnectionError(f"the proxy answered CONNECT with {answer!r}")
    if rest:  # in TLS the client speaks first
        raise ConnectionError("the proxy sent something of its own after its answer to CONNECT")
