"""Serve one ASGI app on ready sockets, so that no peer and no handler can end, fill or hold up the daemon.

Place: the composition root binds sockets and calls serve_http() once per app (public TCP, admin unix socket) in one
nursery; below stands Hypercorn's H11Protocol (bytes to ASGI), above the apps of jobd/web. It takes the place of
hypercorn.trio.serve, which is not safe for a daemon: tests/test_web_server.py shows each hazard on it. Invariants:
- Nothing but Cancelled (and KeyboardInterrupt) leaves a connection: errors are logged, the others go on.
- HTTP/1.0 and 1.1 only: Upgrade is ignored (no websocket, no h2c), another version is 505, no path as target 400.
- receive() says http.disconnect, as often as asked, once the peer is gone; then send() raises PeerGone. A half-close
  counts as gone. A peer goes unseen only while its handler leaves a full body queue unread.
- A write that was cut is the last on its connection. Whatever a peer makes us wait for has a deadline.
- After a cancel it returns within stop_grace_s (a handler that shields itself without a deadline breaks this, and a
  house rule). No lifespan is spoken: what outlives a request belongs to the supervisor's nurseries.
"""

import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from math import inf

import attrs
import h11
import trio
from hypercorn import typing as asgi
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import EventWrapper, WorkerContext
from hypercorn.utils import parse_socket_addr

LOG = logging.getLogger(__name__)

MAX_RECV = 256 * 1024  # bytes a read; an upload is measurably slower with Hypercorn's 64 KiB
SEND_BYTES_MAX = 256 * 1024  # what has stall_s to go out: a slow reader of a large chunk is not a stalled one
RECEIVE_QUEUE_MESSAGES_MAX = 4  # of at most MAX_RECV each: a body's memory while its handler does not read
REFUSED_MAX = 64  # connections beyond connections_max that still hear why they are refused
GONE = (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)
_Put = Callable[[asgi.ASGIReceiveEvent], Awaitable[None]]
_Send = Callable[[asgi.ASGISendEvent | None], Awaitable[None]]  # None: the app has ended


@attrs.frozen
class Limits:
    """What the peers of one serve_http() may take, by all its listeners together."""

    keep_alive_s: float = 60  # silence between two requests
    read_timeout_s: float = 10  # a whole request head, from its first byte; for the first one also until that byte
    stall_s: float = 30  # a peer that takes or sends none of a body's bytes
    linger_s: float = 2  # reading on after an early answer, so that the peer gets it
    stop_grace_s: float = 5  # requests in flight at shutdown
    request_head_bytes_max: int = 16 * 1024
    connections_max: int = 1000  # the next REFUSED_MAX are answered 503, the rest are just closed


@attrs.frozen
class Peer:
    """Who is behind a unix socket, in the kernel's word: scope["state"]["peer"] (None on TCP)."""

    pid: int
    uid: int
    gid: int


class PeerGone(OSError):
    """What send() raises when nobody is there to read; a handler need not catch it."""


async def serve_http(
    app: asgi.ASGIFramework,
    listeners: Sequence[trio.SocketListener],
    limits: Limits,
    *,
    state: Mapping[str, object] | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; `state` (which door this is) goes into each scope["state"]. Closes the listeners."""
    door = _Door(app, limits, state or {})
    stopped = trio.Event()

    async def accept(connections: trio.Nursery, grace: trio.CancelScope) -> None:
        try:
            await trio.serve_listeners(door.serve, list(listeners), handler_nursery=connections)
        finally:
            grace.deadline = trio.current_time() + limits.stop_grace_s
            door.stopping = True
            for connection in door.connections:
                connection.stop_if_idle()
            stopped.set()

    async with trio.open_nursery() as outer:
        # accept() hears a cancel at once; the connections, behind the shield, only at the end of their grace.
        with trio.CancelScope(shield=True) as grace:
            async with trio.open_nursery() as connections:
                outer.start_soon(accept, connections, grace)
                task_status.started()
                await stopped.wait()


@attrs.define(eq=False)
class _Door:
    """All connections of one serve_http(); whatever goes wrong in one ends here."""

    app: asgi.ASGIFramework
    limits: Limits
    state: Mapping[str, object]
    connections: set["_Connection"] = attrs.field(factory=set)
    stopping: bool = False

    async def serve(self, stream: trio.SocketStream) -> None:
        crowd = len(self.connections) - self.limits.connections_max
        if crowd >= REFUSED_MAX:
            return
        try:
            connection = _Connection(self, stream, busy=crowd >= 0)
            self.connections.add(connection)
            try:
                await connection.run()
            finally:
                self.connections.discard(connection)
        except* OSError as errors:  # reset before we asked for its name
            LOG.debug("a connection broke", exc_info=errors)
        except* Exception as errors:
            LOG.exception("a connection failed", exc_info=errors)


class _Connection(TaskGroup):
    """One accepted socket: its own task reads, the app's task writes. TaskGroup is Hypercorn's seam to start apps."""

    def __init__(self, door: _Door, stream: trio.SocketStream, *, busy: bool) -> None:
        super().__init__()
        self._door, self._limits, self._stream = door, door.limits, stream
        self._reading = trio.CancelScope()  # its deadline is the head's, its cancel the end of input
        self._head_bytes = 0  # of an incomplete head; -1 while a request is served
        self._ahead = b""  # sent before the last request was answered
        self._gone = False  # nobody reads what the app sends, or a write was cut: never write again
        self._last_write: trio.Event | None = None  # the end of the queue of writes
        sock, head_max = stream.socket, door.limits.request_head_bytes_max
        config = Config.from_mapping(errorlog=None, include_server_header=False, h11_max_incomplete_size=head_max)
        state = asgi.ConnectionState({**door.state, "peer": _prepare(sock, door.limits.stall_s)})
        client, server = (parse_socket_addr(sock.family, name) for name in (sock.getpeername(), sock.getsockname()))
        app, context = ASGIWrapper(door.app), WorkerContext(None)
        self._protocol = _PlainHTTP(app, config, context, self, state, False, client, server, self._send)
        self._protocol.busy = busy
        self._protocol.can_read = _ReadAhead(self._read_ahead)

    async def run(self) -> None:
        """Read until no request can come any more; then the app hears http.disconnect and may end in its own time."""
        async with self:
            self._await_head(self._limits.read_timeout_s)
            with self._reading:
                await self._read()
            self._gone = True
            await self._protocol.handle(Closed())
        if self._protocol.connection.their_state in (h11.SEND_BODY, h11.ERROR):
            # A peer that still sends gets our answer only so: a close over unread bytes would reset it away.
            with suppress(*GONE), trio.move_on_after(self._limits.linger_s):
                await self._stream.send_eof()
                while await self._stream.receive_some(MAX_RECV):
                    pass

    def stop_if_idle(self) -> None:
        if self._head_bytes >= 0:
            self._reading.cancel()

    def _await_head(self, patience_s: float) -> None:
        self._head_bytes, self._reading.deadline = 0, trio.current_time() + patience_s
        if self._door.stopping:
            self._reading.cancel()

    async def _read(self) -> None:
        data = b"-"
        while data:
            data, self._ahead = self._ahead or await self._receive(), b""
            if self._reading.cancel_called:  # begin no request that we would leave at once
                return
            if self._head_bytes == 0:  # the deadline is fixed: later bytes do not move it
                self._reading.deadline = trio.current_time() + self._limits.read_timeout_s
            if self._head_bytes >= 0:
                self._head_bytes += len(data)
            await self._protocol.handle(RawData(data))

    async def _receive(self) -> bytes:
        """The next bytes, or none when the peer is gone, which a stalled one is too."""
        # h11 looks at its limit only between reads: read no head further than one byte past it.
        size = max(1, self._limits.request_head_bytes_max + 1 - self._head_bytes) if self._head_bytes >= 0 else MAX_RECV
        silence_s = self._limits.stall_s if self._protocol.connection.their_state is h11.SEND_BODY else inf
        with suppress(*GONE), trio.fail_after(silence_s):
            return await self._stream.receive_some(size)
        return b""

    async def _read_ahead(self) -> None:
        """See the peer go while h11 takes no input. One that sends too much ahead is as good as gone."""
        while len(self._ahead) <= MAX_RECV and (data := await self._receive()):
            self._ahead += data
        self._reading.cancel()

    async def _send(self, event: Event) -> None:
        """Do what H11Protocol asks for."""
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Closed):
            self._reading.cancel()
        elif isinstance(event, Updated) and event.idle:
            self._await_head(self._limits.keep_alive_s)
        elif isinstance(event, Updated):
            self._head_bytes, self._reading.deadline = -1, inf

    async def _write(self, data: bytes) -> None:
        """Write in the order of the calls; h11 has counted these bytes, so one that fails or is cut ends it all."""
        ahead, mine, complete = self._last_write, trio.Event(), False
        self._last_write = mine
        try:
            if ahead is not None and not ahead.is_set():
                await ahead.wait()
            with suppress(*GONE):  # the app hears it by receive(), and by its next send()
                for start in range(0, 0 if self._gone else len(data), SEND_BYTES_MAX):
                    with trio.fail_after(self._limits.stall_s):
                        await self._stream.send_all(memoryview(data)[start : start + SEND_BYTES_MAX])
                complete = True
        finally:
            if not complete:
                self._gone = True
                self._reading.cancel()
            mine.set()

    async def spawn_app(self, app: asgi.AppWrapper, config: Config, scope: asgi.Scope, send: _Send) -> _Put:
        """Start the app on one request; what is returned takes the body and the disconnect for it."""
        put, take = trio.open_memory_channel[asgi.ASGIReceiveEvent](RECEIVE_QUEUE_MESSAGES_MAX)

        async def deliver(message: asgi.ASGIReceiveEvent) -> None:
            if message["type"] == "http.disconnect":
                put.close()  # needs no room in the queue, frees who waits for some, and receive() can say it again
            else:
                with suppress(*GONE):
                    await put.send(message)

        async def receive() -> asgi.ASGIReceiveEvent:
            with suppress(trio.EndOfChannel):
                return await take.receive()
            return {"type": "http.disconnect"}

        async def reply(message: asgi.ASGISendEvent) -> None:
            if self._gone:
                raise PeerGone
            await send(message)

        async def run() -> None:
            try:
                await app(scope, receive, reply, trio.to_thread.run_sync, trio.from_thread.run)
            except* PeerGone:
                LOG.debug("nobody waits for this answer any more")
            except* Exception as errors:
                LOG.exception("a handler failed", exc_info=errors)
            await send(None)  # a 500 if there was no answer; then deliver() hears it and frees the reading task

        self.spawn(run)
        return deliver


class _PlainHTTP(H11Protocol):
    """HTTP/1 without its ways out to other protocols."""

    busy = False

    async def _check_protocol(self, event: h11.Request) -> None:
        """Do nothing, where Hypercorn would go over to HTTP/2."""

    async def _create_stream(self, request: h11.Request) -> None:
        method, target, version = request.method, request.target, request.http_version
        is_path = method != b"CONNECT" and target.startswith(b"/")
        refused = 503 if self.busy else 505 if version not in (b"1.0", b"1.1") else None if is_path else 400
        if refused:
            await self._send_error_response(refused)
            return await self.send(Closed())
        headers = [(name, value) for name, value in request.headers if name != b"upgrade"]
        if len(headers) < len(request.headers):  # no websockets; a server may ignore Upgrade (RFC 9110, 7.8)
            request = h11.Request(method=method, target=target, headers=headers, http_version=version)
        return await super()._create_stream(request)


class _ReadAhead(EventWrapper):
    """H11Protocol waits for this while h11 is paused by a pipelined request; stock would not see the peer go."""

    def __init__(self, read_ahead: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._read_ahead = read_ahead

    async def wait(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_ahead)
            await super().wait()
            nursery.cancel_scope.cancel()


def _prepare(sock: trio.socket.SocketType, stall_s: float) -> Peer | None:
    """Have the kernel say who is there, or on TCP end it when the peer takes nothing or its machine is gone."""
    if sock.family == socket.AF_UNIX:
        return Peer(*struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(stall_s)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(stall_s * 1000))
    return None
