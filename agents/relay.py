"""`python jobd-agent.pyz --relay FILE`: the way to jobd for the agents of a host that have no network.

    agents --unix--> control.sock, bulk.sock --> relay --TLS, ALPN jobd-link, jobd-bulk--> jobd

It joins each connection to one of its own to jobd, byte by byte, and knows no secret: the tokens pass through it. Who
connects is not trusted. So each uid has a bounded number of places, jobd is dialled only when somebody has said
something, and a piece is read only when the last one has gone, which is back-pressure from end to end and bounds memory
to a piece each way (and what TLS and the kernel hold). When either side ends, or neither says a word for long, both are
closed at once; agents dial again by themselves.
"""

import contextlib
import logging
import os
import resource
import signal
import socket
import stat
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import trio

from agents.dial import DOORS, PIECE_BYTES, Calls
from schemas import codec
from schemas.setups import Home, RelaySetup

SETUP_BYTES_MAX = 128 * 1024
BACKLOG = 1024
OTHERS_WRITE = 0o022
DESCRIPTORS_SPARE = 64

log = logging.getLogger("relay")

Receive = Callable[[], Awaitable[bytes | bytearray]]
Send = Callable[[bytes | bytearray], Awaitable[None]]


def run(path: str) -> int:
    """Relay until SIGTERM or SIGINT; returns the exit code."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)
    try:
        with open(path, "rb") as file:
            setup: RelaySetup = codec.decode(file.read(SETUP_BYTES_MAX + 1), RelaySetup, SETUP_BYTES_MAX)
        relay = Relay(setup)
        check_directory(setup.directory)
        raise_descriptors(2 * setup.connections_max + DESCRIPTORS_SPARE)
        trio.run(relay.live)
    except (OSError, ValueError, codec.CodecError) as error:  # among them what ssl says of certificates and names
        log.error("cannot start: %s", error)
        return 1
    return 0


def check_directory(path: str) -> None:
    """Whoever could write there could take the place of a socket, and hear the others' tokens; raises OSError."""
    os.makedirs(path, exist_ok=True)
    found = os.stat(path)
    if found.st_uid == os.geteuid():
        os.chmod(path, 0o755)  # noqa: S103 - agents pass through
    elif found.st_uid != 0 or found.st_mode & OTHERS_WRITE:
        raise PermissionError(f"others than the relay could write into {path}")


def raise_descriptors(wanted: int) -> None:
    """As many as the connections need, or as may be had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class Relay:
    """All connections, and how many of them each uid has."""

    def __init__(self, setup: RelaySetup) -> None:
        self._setup = setup
        home = Home(setup.host, setup.port, setup.server_name, setup.certificates)
        self._jobd = Calls(home, connect_s=setup.connect_s)
        self._places: Counter[int] = Counter()

    async def live(self) -> None:
        """Accept, until a signal comes; that ends every connection at once."""
        listeners = [(await listen(os.path.join(self._setup.directory, name)), alpn) for alpn, name in DOORS.items()]
        async with trio.open_nursery() as nursery:
            for listener, alpn in listeners:
                nursery.start_soon(self._accept, listener, alpn)
            log.info("relaying from %s to %s:%d", self._setup.directory, self._setup.host, self._setup.port)
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for number in signals:
                    log.info("%s: leaving", signal.Signals(number).name)
                    break
            nursery.cancel_scope.cancel()

    async def _accept(self, listener: trio.SocketListener, alpn: str) -> None:
        async def contained(agent: trio.SocketStream) -> None:
            try:
                with self._place(peer_uid(agent)) as is_free:
                    if is_free:
                        await self._join(agent, alpn)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                pass  # one side is gone, and so is the other
            except Exception:
                log.exception("a connection failed")
            finally:
                await trio.aclose_forcefully(agent)

        await trio.serve_listeners(contained, [listener])

    @contextlib.contextmanager
    def _place(self, uid: int) -> Iterator[bool]:
        """Whether there is a place for one more of this uid; taken inside."""
        setup = self._setup
        if self._places[uid] >= setup.connections_per_uid_max or self._places.total() >= setup.connections_max:
            yield False
        else:
            self._places[uid] += 1
            try:
                yield True
            finally:
                self._places[uid] -= 1
                if not self._places[uid]:
                    del self._places[uid]

    async def _join(self, agent: trio.SocketStream, alpn: str) -> None:
        with trio.fail_after(self._setup.first_byte_s):
            first = await agent.receive_some(PIECE_BYTES)
        if not first:
            return
        jobd = await self._jobd.dial(alpn)
        try:
            with trio.CancelScope() as silence:
                silence.deadline = trio.current_time() + self._setup.stall_s
                await jobd.send_all(first)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pour, partial(agent.receive_some, PIECE_BYTES), jobd.send_all, silence)
                    nursery.start_soon(self._pour, jobd.receive_some, agent.send_all, silence)
        finally:
            await jobd.aclose()

    async def _pour(self, receive: Receive, send: Send, silence: trio.CancelScope) -> None:
        """From one side to the other, until either ends; then both do."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while piece := await receive():
                await send(piece)
                silence.deadline = trio.current_time() + self._setup.stall_s
        silence.cancel()


def peer_uid(stream: trio.SocketStream) -> int:
    """Whose process has connected; the kernel says so."""
    credentials = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    uid: int = struct.unpack("iII", credentials)[1]
    return uid


async def listen(path: str) -> trio.SocketListener:
    """A unix socket made anew, to which every uid may connect; raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)  # of a relay that is gone
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await sock.bind(path)
    os.chmod(path, 0o666)  # noqa: S103 - who may not speak has no token
    sock.listen(BACKLOG)
    return trio.SocketListener(sock)
