"""One HTTP/1 connection: Hypercorn's H11Protocol (bytes to ASGI) with our own reading and writing. Invariants:

- HTTP/1.0 and 1.1 only: Upgrade is ignored (no websocket, no h2c), another version is 505; a target that is no path of
  ours, or two lengths, is 400.
- receive() says http.disconnect, as often as asked, once the peer is gone; then send() raises PeerGone. A half-close
  counts as gone. A peer goes unseen only while its handler leaves a full body queue unread.
- One message of the app is one write, and the head of an answer goes with the first piece of its body.
- A write that was cut is the last on its connection. Whatever a peer makes us wait for has a deadline.
"""

import logging
import os
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from math import inf
from typing import Any

import attrs
import h11
import trio
from hypercorn import typing as asgi
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.utils import parse_socket_addr

from jobd.web import quick
from jobd.web.http1 import PlainHTTP, ReadAhead

LOG = logging.getLogger(__name__)

MAX_RECV = 256 * 1024  # bytes a read; an upload is measurably slower with Hypercorn's 64 KiB
SEND_BYTES_MAX = 256 * 1024  # what has stall_s to go out: a slow reader of a large chunk is not a stalled one
SMALL_BYTES_MAX = 16 * 1024  # what is first offered to the kernel without asking whether it has room
RECEIVE_QUEUE_MESSAGES_MAX = 4  # of at most MAX_RECV each: a body's memory while its handler does not read
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


@attrs.define(eq=False)
class Service:
    """What all connections of one serve_http() share."""

    app: asgi.ASGIFramework
    limits: Limits
    state: Mapping[str, object]
    is_hot: Callable[[str], bool]  # whether a GET of this path is answered at once and in one piece
    connections: "set[Connection]" = attrs.field(factory=set)
    stopping: bool = False


class Connection(TaskGroup):
    """One accepted socket: its own task reads, the app's task writes. TaskGroup is Hypercorn's seam to start apps."""

    def __init__(self, service: Service, stream: trio.SocketStream, *, busy: bool) -> None:
        super().__init__()
        self._service, self._limits, self._stream = service, service.limits, stream
        self._reading = trio.CancelScope()  # its deadline is the head's, its cancel the end of input
        self._head_bytes = 0  # of an incomplete head; -1 while a request is served
        self._ahead = b""  # sent before the last request was answered
        self._gone = False  # nobody reads what the app sends, or a write was cut: never write again
        self._last_write: trio.Event | None = None  # the end of the queue of writes
        self._reply: list[Event] | None = None  # what one message of the app has come to, while it is gathered
        sock, head_max = stream.socket, service.limits.request_head_bytes_max
        config = Config.from_mapping(errorlog=None, include_server_header=False, h11_max_incomplete_size=head_max)
        config.keep_alive_max_requests = sys.maxsize
        state = asgi.ConnectionState({**service.state, "peer": _prepare(sock, service.limits.stall_s)})
        client, server = (parse_socket_addr(sock.family, name) for name in (sock.getpeername(), sock.getsockname()))
        app, context = ASGIWrapper(service.app), WorkerContext(None)
        self._protocol = PlainHTTP(app, config, context, self, state, False, client, server, self._send)
        self._protocol.busy = busy
        self._quick_scope: dict[str, object] = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
            "query_string": b"", "root_path": "", "client": client, "server": server, "state": state,
        }  # fmt: skip
        self._protocol.can_read = ReadAhead(self._read_ahead)

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
        """At shutdown: begin no further request."""
        if self._head_bytes >= 0:
            self._reading.cancel()

    def _await_head(self, patience_s: float) -> None:
        self._head_bytes, self._reading.deadline = 0, trio.current_time() + patience_s
        if self._service.stopping:
            self._reading.cancel()

    async def _read(self) -> None:
        data = b"-"
        while data:
            data, self._ahead = self._ahead or await self._receive(), b""
            if self._reading.cancel_called:  # begin no request that we would leave at once
                return
            if self._head_bytes == 0 and await self._answer_quickly(data):
                continue
            if self._head_bytes == 0:  # the deadline is fixed: later bytes do not move it
                self._reading.deadline = trio.current_time() + self._limits.read_timeout_s
            if self._head_bytes >= 0:
                self._head_bytes += len(data)
            await self._protocol.handle(RawData(data))

    async def _answer_quickly(self, data: bytes) -> bool:
        """Serve a request that quick.py knows, without h11, which stays as it was between two requests."""
        request = quick.parse(data)
        if request is None or not self._service.is_hot(request[0]) or not self._protocol.is_between_requests:
            return False
        scope: Any = {**self._quick_scope, "path": request[0], "headers": request[1]}
        self._head_bytes, self._reading.deadline = -1, inf
        answer = quick.Answer()
        await self._service.app(scope, _nothing_comes, answer.send)
        if not answer.encoded:
            raise RuntimeError("a hot handler gave no whole answer")
        await self._write(answer.encoded)
        self._await_head(self._limits.keep_alive_s)
        return True

    async def _receive(self) -> bytes:
        """The next bytes, or none when the peer is gone, which a stalled one is too."""
        # h11 looks at its limit only between reads: read no head further than one byte past it.
        size = max(1, self._limits.request_head_bytes_max + 1 - self._head_bytes) if self._head_bytes >= 0 else MAX_RECV
        is_body = self._protocol.connection.their_state is h11.SEND_BODY
        try:
            if not is_body:  # the head has a deadline of its own
                return await self._stream.receive_some(size)
            with trio.fail_after(self._limits.stall_s):
                return await self._stream.receive_some(size)
        except GONE:
            return b""

    async def _read_ahead(self) -> None:
        """See the peer go while h11 takes no input. One that sends too much ahead is as good as gone."""
        while len(self._ahead) <= MAX_RECV and (data := await self._receive()):
            self._ahead += data
        self._reading.cancel()

    async def _send(self, event: Event) -> None:
        """Do what H11Protocol asks for; what comes of one message of the app is gathered, to be one write."""
        if self._reply is not None:
            self._reply.append(event)
        elif isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Closed):
            self._reading.cancel()
        elif isinstance(event, Updated) and event.idle:
            # It comes after the write, and by then the next request may be on its way in.
            if self._protocol.connection.their_state is h11.IDLE:
                self._await_head(self._limits.keep_alive_s)
        elif isinstance(event, Updated):
            self._head_bytes, self._reading.deadline = -1, inf

    async def _send_reply(self, send: _Send, messages: Sequence[asgi.ASGISendEvent]) -> None:
        """Have these turned into bytes, which awaits nothing, and write them at once: h11 makes three pieces of a
        small answer, and a write costs as much as all the rest of it."""
        gathered: list[Event] = []
        self._reply = gathered
        try:
            for message in messages:
                await send(message)
        finally:
            self._reply = None
        if data := b"".join(event.data for event in gathered if isinstance(event, RawData)):
            await self._write(data)
        for event in gathered:
            if not isinstance(event, RawData):
                await self._send(event)

    def _head(self, message: asgi.HTTPResponseStartEvent) -> asgi.HTTPResponseStartEvent:
        """An answer before the end of the request's body is the last one of its connection, and has to say so."""
        if self._protocol.connection.their_state is h11.SEND_BODY:
            return {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        return message

    async def _write(self, data: bytes) -> None:
        """Write in the order of the calls; h11 has counted these bytes, so one that fails or is cut ends it all."""
        ahead = self._last_write
        if len(data) <= SMALL_BYTES_MAX and not self._gone and (ahead is None or ahead.is_set()):
            await trio.lowlevel.checkpoint_if_cancelled()
            data = data[self._write_now(data) :]
            if not data:
                return
        mine, complete = trio.Event(), False
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

    def _write_now(self, data: bytes) -> int:
        """Write what the kernel takes at once: for most answers that is all, for a tenth of the cost."""
        try:
            return os.write(self._stream.socket.fileno(), data)
        except OSError:  # no room, or nobody there: the slow way waits, or finds the same
            return 0

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

        head: list[asgi.ASGISendEvent] = []  # goes with the first piece of the body, as ASGI has it

        async def reply(message: asgi.ASGISendEvent) -> None:
            if self._gone:
                raise PeerGone
            if message["type"] == "http.response.start":
                head.append(self._head(message))
            else:
                messages = (*head, message)
                head.clear()
                await self._send_reply(send, messages)

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


async def _nothing_comes() -> asgi.ASGIReceiveEvent:
    """The `receive` of a request without a body, whose handler is done before its peer could be seen to go."""
    return {"type": "http.request", "body": b"", "more_body": False}


def _prepare(sock: trio.socket.SocketType, stall_s: float) -> Peer | None:
    """Have the kernel say who is there, or on TCP end it when the peer takes nothing or its machine is gone."""
    if sock.family == socket.AF_UNIX:
        return Peer(*struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(stall_s)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(stall_s * 1000))
    return None
