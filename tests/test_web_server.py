"""The HTTP worker against hostile peers and bad handlers, over real sockets.

Each hazard runs on our worker and on the stock one (hypercorn.trio.serve). There we assert that the harm is real: when
such a test fails after an upgrade of Hypercorn, upstream has mended it, and jobd/web/server.py may shrink.
"""

import logging
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import attrs
import h2.config
import h2.connection
import h11
import hypercorn.trio
import pytest
import quart_trio
import trio
from hypercorn.config import Config
from trio.testing import wait_all_tasks_blocked

from jobd.web.connection import Limits, Peer, PeerGone
from jobd.web.server import REFUSED_MAX, serve_http

GONE = (trio.BrokenResourceError, trio.ClosedResourceError)
WHILE_S = 0.5  # how long we look before we call a thing stuck, on the stock worker
GET = b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n"
both = pytest.mark.parametrize("kind", ["ours", "stock"])


# A client that can misbehave.


@attrs.define
class Client:
    stream: trio.SocketStream
    rest: bytes = b""

    async def get(self, target: bytes = b"/") -> "Answer":
        await self.stream.send_all(GET % target)
        return await self.answer()

    async def answer(self) -> "Answer":
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
        parser.send(h11.EndOfMessage())
        if self.rest:
            parser.receive_data(self.rest)
        head, body = None, b""
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                parser.receive_data(await self.stream.receive_some(65536))
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self.rest = parser.trailing_data[0]
                assert head
                return Answer(head.status_code, {name.decode(): value.decode() for name, value in head.headers}, body)

    async def rest_until_closed(self) -> bytes:
        data = b""
        with suppress(*GONE):
            while more := await self.stream.receive_some(65536):
                data += more
        return data


@attrs.frozen
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


# Handlers, good and bad.


async def say(send: Any, body: bytes = b"hello", status: int = 200, more: bool = False) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def hello(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await say(send)


def by_path(**handlers: Any) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await handlers.get(scope["path"].strip("/"), hello)(scope, receive, send)

    return app


async def stream_for_ever(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await say(send, b"x", more=True)
    while True:
        await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})


# The two servers.


@attrs.define
class Server:
    connect: Callable[[], Awaitable[Client]]
    stop: Callable[[], None]
    ended: trio.Event = attrs.field(factory=trio.Event)
    crash: BaseException | None = None

    async def is_up(self) -> bool:
        return (await (await self.connect()).get()).status == 200


@asynccontextmanager
async def serving(kind: str, app: Any, unix: str | None = None, **limits: Any) -> AsyncIterator[Server]:
    limits.setdefault("stop_grace_s", 0.2)
    clients: list[Client] = []
    where: list[Any] = []
    scope, stop_stock = trio.CancelScope(), trio.Event()

    async def connect() -> Client:
        sock = trio.socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        await sock.connect(where[0])
        clients.append(Client(trio.SocketStream(sock)))
        return clients[-1]

    async def run(server: Server, task_status: Any) -> None:
        try:
            with scope:
                if kind == "ours":
                    listener = await listen(unix)
                    where.append(listener.socket.getsockname())
                    await serve_http(app, [listener], Limits(**limits), task_status=task_status)
                else:
                    await stock(unix, app, Limits(**limits), where, stop_stock, task_status)
        except* Exception as errors:
            server.crash = errors
        finally:
            server.ended.set()

    def stop() -> None:
        stop_stock.set()  # the only way to its grace
        if kind == "ours":
            scope.cancel()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            server = Server(connect, stop)
            await nursery.start(partial(run, server))
            try:
                yield server
            finally:
                for client in clients:
                    await trio.aclose_forcefully(client.stream)
                scope.cancel()


async def listen(unix: str | None) -> trio.SocketListener:
    if unix is None:
        return (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    sock = trio.socket.socket(socket.AF_UNIX)
    await sock.bind(unix)
    sock.listen()
    return trio.SocketListener(sock)


async def stock(
    unix: str | None, app: Any, limits: Limits, where: list[Any], stop: trio.Event, task_status: Any
) -> None:
    config = Config()
    config.bind = [f"unix:{unix}" if unix else "127.0.0.1:0"]
    config.errorlog = logging.getLogger("stock")
    config.keep_alive_timeout = limits.keep_alive_s
    config.graceful_timeout = limits.stop_grace_s
    config.h11_max_incomplete_size = limits.request_head_bytes_max

    class Started:
        def started(self, binds: list[str]) -> None:
            where.append(unix or ("127.0.0.1", int(binds[0].rpartition(":")[2])))
            task_status.started()

    await hypercorn.trio.serve(app, config, shutdown_trigger=stop.wait, task_status=Started())  # type: ignore


async def happens(wait: Callable[[], Awaitable[object]], within_s: float) -> bool:
    with trio.move_on_after(within_s) as scope:
        await wait()
    return not scope.cancelled_caught


def patience(kind: str) -> float:
    """On ours a thing must happen, however slow the machine; on stock we only look for a while."""
    return 10 if kind == "ours" else WHILE_S


# 1: one request cannot end the daemon.


def http2(path: bytes) -> bytes:
    config = h2.config.H2Configuration(
        header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
    )
    peer = h2.connection.H2Connection(config)
    peer.initiate_connection()
    peer.send_headers(
        1, [(b":method", b"GET"), (b":path", path), (b":scheme", b"http"), (b":authority", b"x")], end_stream=True
    )
    return peer.data_to_send()


WEBSOCKET = (
    b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n"
)
POISON = {
    "a websocket extension that is not text": (WEBSOCKET % b"sec-websocket-extensions: \xff\r\n", 200),
    "cleartext HTTP/2 with a path that is not ASCII": (http2(b"/\xff"), 505),
    "an h2c upgrade with broken settings": (
        b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\nhttp2-settings: A\r\n\r\n",
        200,
    ),
}


@both
@pytest.mark.parametrize("poison", POISON)
async def test_one_request_cannot_end_the_daemon(kind: str, poison: str) -> None:
    request, status = POISON[poison]
    go = trio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await say(send, b"slow")

    async with serving(kind, by_path(slow=slow)) as server:
        bystander = await server.connect()
        await bystander.stream.send_all(GET % b"/slow")
        attacker = await server.connect()
        await attacker.stream.send_all(request)
        if kind == "stock":
            await server.ended.wait()
            assert server.crash
            return
        assert (await attacker.answer()).status == status
        go.set()
        assert (await bystander.answer()).body == b"slow"
        assert await server.is_up()


@both
async def test_a_handler_whose_answer_cannot_be_sent_ends_only_its_connection(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def bad(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 101, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with serving(kind, by_path(bad=bad)) as server:
        client = await server.connect()
        await client.stream.send_all(GET % b"/bad")
        await client.rest_until_closed()
        if kind == "stock":
            await server.ended.wait()
            assert server.crash
            return
        assert await server.is_up()
        assert "a connection failed" in caplog.text


async def test_websockets_and_http2_get_plain_answers() -> None:
    async with serving("ours", hello) as server:
        client = await server.connect()
        await client.stream.send_all(WEBSOCKET % b"")
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, b"hello")
        assert (await client.get()).status == 200, "the connection is still good for requests"
        await client.stream.send_all(GET.replace(b"host", b"upgrade: h2c\r\nhttp2-settings: AAMAAABk\r\nhost") % b"/")
        assert (await client.answer()).body == b"hello"


async def test_a_peer_that_resets_at_once_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async with serving("ours", hello) as server:
        client = await server.connect()
        for _ in range(10):
            with socket.create_connection(client.stream.socket.getpeername()) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert await server.is_up()
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# 2: a body that nobody reads.


async def answer_unread(scope: Any, receive: Any, send: Any) -> None:
    await trio.sleep(0.1)  # let the queue fill
    await say(send, b"no", status=413)


async def raise_unread(scope: Any, receive: Any, send: Any) -> None:
    await trio.sleep(0.1)  # let the queue fill
    raise RuntimeError("broken on purpose")


@both
@pytest.mark.parametrize(("path", "status"), [("answer", 413), ("raise", 500)])
async def test_a_handler_that_leaves_its_body_unread_frees_its_connection(kind: str, path: str, status: int) -> None:
    async with serving(kind, by_path(**{"answer": answer_unread, "raise": raise_unread})) as server:
        assert await server.is_up()
        await wait_all_tasks_blocked()
        before = trio.lowlevel.current_statistics().tasks_living
        client = await server.connect()
        await client.stream.send_all(b"POST /%s HTTP/1.1\r\nhost: x\r\n" % path.encode())
        await client.stream.send_all(b"content-length: 100000000\r\n\r\n")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pour, client.stream, 16 * 1024 * 1024)
            if kind == "ours":
                assert (await client.answer()).status == status, "the answer is not lost under the unread body"
            else:
                await trio.sleep(WHILE_S)
            nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(client.stream)
        freed = await happens(partial(until_tasks_are, before), patience(kind))
        assert freed == (kind == "ours")


async def test_an_early_answer_does_not_break_its_peers_upload() -> None:
    """Most clients read no answer before they have sent all; a close over unread bytes resets them."""
    size = 8 * 1024 * 1024
    async with serving("ours", by_path(answer=answer_unread), linger_s=20) as server:
        client = await server.connect()
        await client.stream.send_all(b"POST /answer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size)
        await client.stream.send_all(b"x" * size)
        answer = await client.answer()
        assert answer.status == 413
        assert answer.headers["connection"] == "close", "or the peer would send its next request into a closed door"


@both
async def test_a_small_answer_is_one_write(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[bytes] = []
    send_all = trio.SocketStream.send_all

    async def counted(self: trio.SocketStream, data: Any) -> None:
        if data[:4] != b"GET ":
            writes.append(bytes(data))
        await send_all(self, data)

    def counted_now(descriptor: int, data: bytes) -> int:
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode) and len(data) > 1:  # Trio wakes itself by single bytes
            writes.append(data)
        return write(descriptor, data)

    write = os.write
    monkeypatch.setattr(os, "write", counted_now)
    monkeypatch.setattr(trio.SocketStream, "send_all", counted)
    async with serving(kind, hello) as server:
        client = await server.connect()
        for _ in range(3):
            assert (await client.get()).body == b"hello"
    pieces = [write.rpartition(b"\r\n")[2] for write in writes if write]
    assert len(pieces) == 3 if kind == "ours" else len(pieces) > 3, writes


async def pour(stream: trio.SocketStream, size: int) -> None:
    with suppress(*GONE):
        for _ in range(size // 65536):
            await stream.send_all(b"x" * 65536)


async def until_tasks_are(count: int) -> None:
    while trio.lowlevel.current_statistics().tasks_living > count:
        await trio.sleep(0.01)


@both
async def test_a_handler_that_does_not_read_holds_its_peer_back(kind: str) -> None:
    """Both have this; the bound on memory is the kernel's buffers and RECEIVE_QUEUE_MESSAGES_MAX."""
    go, size = trio.Event(), 64 * 1024 * 1024

    async def late(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        got, more = 0, True
        while more:
            message = await receive()
            assert message["type"] == "http.request"
            assert len(message["body"]) <= 256 * 1024
            got, more = got + len(message["body"]), message["more_body"]
        await say(send, b"%d" % got)

    async with serving(kind, by_path(late=late)) as server:
        client = await server.connect()
        await client.stream.send_all(b"POST /late HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size)
        async with trio.open_nursery() as nursery:
            poured = trio.Event()

            async def pour_all() -> None:
                await pour(client.stream, size)
                poured.set()

            nursery.start_soon(pour_all)
            assert not await happens(poured.wait, WHILE_S)
            go.set()
            assert (await client.answer()).body == b"%d" % size


# 3: the peer is gone.


def go_away(stream: trio.SocketStream, how: str) -> None:
    if how == "close":
        stream.socket.close()
    else:
        stream.socket.shutdown(socket.SHUT_WR)


@both
@pytest.mark.parametrize("how", ["close", "half-close"])
async def test_a_handler_that_waits_hears_that_its_peer_has_gone(kind: str, how: str) -> None:
    heard: list[str] = []
    began, done = trio.Event(), trio.Event()

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        began.set()
        heard.append((await receive())["type"])  # the empty body
        heard.append((await receive())["type"])
        done.set()

    async with serving(kind, by_path(wait=wait)) as server:
        client = await server.connect()
        await client.stream.send_all(GET % b"/wait")
        await began.wait()
        go_away(client.stream, how)
        await done.wait()
        assert heard == ["http.request", "http.disconnect"]


@both
async def test_disconnect_is_said_again_to_whoever_asks_again(kind: str) -> None:
    began, done = trio.Event(), trio.Event()

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        began.set()
        for _ in range(3):
            await receive()
        assert await receive() == {"type": "http.disconnect"}
        done.set()

    async with serving(kind, by_path(wait=wait)) as server:
        client = await server.connect()
        await client.stream.send_all(GET % b"/wait")
        await began.wait()
        go_away(client.stream, "close")
        assert await happens(done.wait, patience(kind)) == (kind == "ours")


@both
@pytest.mark.parametrize("how", ["close", "half-close"])
async def test_a_handler_that_only_sends_is_told_that_its_peer_has_gone(
    kind: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    began, done = trio.Event(), trio.Event()
    errors: list[BaseException] = []

    async def send_only(scope: Any, receive: Any, send: Any) -> None:
        await say(send, b"x", more=True)
        began.set()
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
                await trio.sleep(0.001)
        except OSError as error:
            errors.append(error)
            done.set()
            raise

    async with serving(kind, by_path(send_only=send_only)) as server:
        client = await server.connect()
        await client.stream.send_all(GET % b"/send_only")
        await began.wait()
        go_away(client.stream, how)
        assert await happens(done.wait, patience(kind)) == (kind == "ours")
        if kind == "ours":
            assert isinstance(errors[0], PeerGone)
            assert await server.is_up()
            assert not [record for record in caplog.records if record.levelno >= logging.WARNING], "it is no failure"


@both
async def test_a_quart_stream_is_cancelled_when_its_peer_goes(kind: str) -> None:
    app = quart_trio.QuartTrio(__name__)
    began, cancelled = trio.Event(), trio.Event()

    @app.route("/")
    async def _stream() -> Any:
        async def body() -> AsyncIterator[bytes]:
            try:
                yield b"x"
                began.set()
                await trio.sleep_forever()
            except trio.Cancelled:
                cancelled.set()
                raise

        return body()

    async with serving(kind, app) as server:
        client = await server.connect()
        await client.stream.send_all(GET % b"/")
        await began.wait()
        go_away(client.stream, "close")
        await cancelled.wait()


@both
async def test_a_peer_is_seen_to_go_even_after_it_sent_its_next_request(kind: str) -> None:
    began, done = trio.Event(), trio.Event()

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        began.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        done.set()

    async with serving(kind, by_path(wait=wait)) as server:
        client = await server.connect()
        await client.stream.send_all(GET % b"/wait" + GET % b"/")
        await began.wait()
        go_away(client.stream, "close")
        assert await happens(done.wait, patience(kind)) == (kind == "ours")


async def test_a_peer_that_sends_too_much_ahead_is_as_good_as_gone() -> None:
    done = trio.Event()

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        done.set()

    async with serving("ours", by_path(wait=wait)) as server:
        client = await server.connect()
        await client.stream.send_all(GET % b"/wait" + GET % b"/")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pour, client.stream, 64 * 1024 * 1024)
            await done.wait()
            assert await server.is_up()


@both
async def test_requests_sent_ahead_are_answered_in_order(kind: str) -> None:
    async def number(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep(0.01)
        await say(send, scope["query_string"])

    async with serving(kind, by_path(number=number)) as server:
        client = await server.connect()
        await client.stream.send_all(GET % b"/number?0" + GET % b"/number?1" + b"GET /numb")
        await trio.sleep(0.005)
        await client.stream.send_all(b"er?2 HTTP/1.1\r\nhost: x\r\n\r\n" + GET % b"/number?3")
        assert [(await client.answer()).body for _ in range(4)] == [b"0", b"1", b"2", b"3"]


# 4: a reader that stalls.


@both
@pytest.mark.parametrize("door", ["tcp", "unix"])
async def test_a_stalled_reader_cannot_hold_shutdown(kind: str, door: str, tmp_path: Any) -> None:
    unix = str(tmp_path / "s") if door == "unix" else None
    async with serving(kind, by_path(stream=stream_for_ever), unix=unix, stop_grace_s=0.1) as server:
        client = await server.connect()
        await client.stream.send_all(GET % b"/stream")
        await trio.sleep(0.2)  # its buffers are full
        server.stop()
        assert await happens(server.ended.wait, patience(kind)) == (kind == "ours")


@both
async def test_a_stalled_reader_is_dropped(kind: str, tmp_path: Any) -> None:
    gone = trio.Event()

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        try:
            await stream_for_ever(scope, receive, send)
        finally:
            gone.set()

    async with serving(kind, by_path(stream=stream), unix=str(tmp_path / "s"), stall_s=0.2) as server:
        client = await server.connect()
        await client.stream.send_all(GET % b"/stream")
        assert await happens(gone.wait, patience(kind)) == (kind == "ours")


async def test_a_slow_reader_is_not_a_stalled_one() -> None:
    size = 4 * 1024 * 1024

    async def large(scope: Any, receive: Any, send: Any) -> None:
        await say(send, b"x" * size)

    async with serving("ours", by_path(large=large), stall_s=1) as server:
        client = await server.connect()
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        await client.stream.send_all(b"GET /large HTTP/1.0\r\n\r\n")
        got = 0
        while got < size:
            data = await client.stream.receive_some(128 * 1024)
            assert data, "cut off"
            got += len(data)
            await trio.sleep(0.05)


@both
async def test_after_a_write_was_cut_nothing_more_is_written(kind: str) -> None:
    size = 64 * 1024 * 1024
    outcome: list[object] = []
    done = trio.Event()

    async def give_up(scope: Any, receive: Any, send: Any) -> None:
        await say(send, b"x", more=True)
        with trio.move_on_after(0.2) as scope_:
            await send({"type": "http.response.body", "body": b"x" * size, "more_body": True})
        outcome.append(scope_.cancelled_caught)
        try:
            await send({"type": "http.response.body", "body": b"never"})
        except PeerGone:
            outcome.append("gone")
        outcome.extend([(await receive())["type"] for _ in range(2)])
        done.set()

    async with serving(kind, by_path(give_up=give_up)) as server:
        client = await server.connect()
        await client.stream.send_all(GET % b"/give_up")
        assert await happens(done.wait, patience(kind)) == (kind == "ours")
        if kind == "ours":
            assert outcome == [True, "gone", "http.request", "http.disconnect"]
            data = await client.rest_until_closed()
            assert len(data) < size
            assert data.endswith(b"xxxx"), "neither the next chunk nor a clean end"


async def test_two_tasks_of_a_handler_may_send_at_once() -> None:
    size = 1024 * 1024

    async def two(scope: Any, receive: Any, send: Any) -> None:
        await say(send, b"", more=True)
        async with trio.open_nursery() as nursery:
            for letter in (b"a", b"b"):
                message = {"type": "http.response.body", "body": letter * size, "more_body": True}
                nursery.start_soon(send, message)
        await send({"type": "http.response.body"})

    async with serving("ours", by_path(two=two)) as server:
        client = await server.connect()
        body = (await client.get(b"/two")).body
        assert body in (b"a" * size + b"b" * size, b"b" * size + b"a" * size)


async def test_the_kernel_ends_a_tcp_connection_whose_peer_is_silently_gone() -> None:
    async with serving("ours", hello, stall_s=7) as server:
        client = await server.connect()
        await client.get()
        options = [
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            for sock in our_tcp_sockets()
            if sock.getpeername() == client.stream.socket.getsockname()
        ]
        assert options == [7000]


def our_tcp_sockets() -> list[socket.socket]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            sock = socket.socket(fileno=os.dup(int(name)))
            sock.getpeername()
            found.append(sock)
    return found


# 5: slow peers, idle peers, too many peers.


@both
async def test_a_head_that_drips_is_closed_at_its_deadline(kind: str) -> None:
    """Stock has one deadline for this and for the silence between requests."""
    async with serving(kind, hello, read_timeout_s=0.3, keep_alive_s=20) as server:
        client = await server.connect()
        assert (await client.get()).status == 200

        async def drip() -> None:
            with suppress(*GONE):
                while True:
                    await client.stream.send_all(b"G")
                    await trio.sleep(0.05)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            closed = await happens(client.rest_until_closed, 10 if kind == "ours" else 1)
            nursery.cancel_scope.cancel()
        assert closed == (kind == "ours")


@both
async def test_a_peer_that_sends_nothing_at_all_is_closed(kind: str) -> None:
    async with serving(kind, hello, read_timeout_s=0.2, keep_alive_s=0.2 if kind == "stock" else 20) as server:
        assert await (await server.connect()).rest_until_closed() == b""


@both
async def test_a_body_that_stops_is_closed(kind: str) -> None:
    ended = trio.Event()

    async def body(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        ended.set()

    async with serving(kind, by_path(body=body), stall_s=0.2) as server:
        client = await server.connect()
        await client.stream.send_all(b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nx")
        assert await happens(ended.wait, patience(kind)) == (kind == "ours")


@both
async def test_an_idle_connection_is_closed_after_keep_alive_s(kind: str) -> None:
    async with serving(kind, hello, keep_alive_s=0.2) as server:
        client = await server.connect()
        assert (await client.get()).status == 200
        assert await client.rest_until_closed() == b""


async def test_a_request_in_service_has_no_deadline_of_ours() -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep(0.5)
        await say(send, b"slow")

    async with serving("ours", by_path(slow=slow), keep_alive_s=0.1, read_timeout_s=0.1, stall_s=0.1) as server:
        assert (await (await server.connect()).get(b"/slow")).body == b"slow"


@both
async def test_beyond_connections_max_the_answer_is_503_until_one_ends(kind: str) -> None:
    async with serving(kind, hello, connections_max=2) as server:
        inside = [await server.connect() for _ in range(2)]
        for client in inside:
            assert (await client.get()).status == 200
        outside = await server.connect()
        answer = await outside.get()
        if kind == "stock":
            assert answer.status == 200
            return
        assert answer.status == 503
        assert await outside.rest_until_closed() == b""
        await inside[0].stream.aclose()
        with trio.fail_after(10):
            while not await server.is_up():
                await trio.sleep(0.01)


async def test_far_beyond_connections_max_a_connection_is_just_closed() -> None:
    async with serving("ours", hello, connections_max=1) as server:
        assert (await (await server.connect()).get()).status == 200
        refused = [await server.connect() for _ in range(REFUSED_MAX)]
        assert await (await server.connect()).rest_until_closed() == b""
        assert (await refused[0].get()).status == 503


# 6: handlers that fail.


@both
async def test_a_handler_that_raises_is_a_500_and_nobody_else_notices(kind: str) -> None:
    go = trio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await say(send, b"slow")

    async def fail(scope: Any, receive: Any, send: Any) -> None:
        async with trio.open_nursery():
            raise RuntimeError("broken on purpose")

    async def forget(scope: Any, receive: Any, send: Any) -> None:
        pass

    async with serving(kind, by_path(slow=slow, fail=fail, forget=forget)) as server:
        bystander = await server.connect()
        await bystander.stream.send_all(GET % b"/slow")
        for path in (b"/fail", b"/forget"):
            answer = await (await server.connect()).get(path)
            assert answer.status == 500
        go.set()
        assert (await bystander.answer()).body == b"slow"
        assert await server.is_up()


async def test_an_answer_that_breaks_off_never_looks_whole() -> None:
    async def half(scope: Any, receive: Any, send: Any) -> None:
        await say(send, b"half", more=True)
        raise RuntimeError("broken on purpose")

    async with serving("ours", by_path(half=half)) as server:
        client = await server.connect()
        with pytest.raises(h11.RemoteProtocolError):
            await client.get(b"/half")


# What a request looks like, and what is no request.


@both
async def test_no_answer_tells_what_serves_it(kind: str) -> None:
    async with serving(kind, hello) as server:
        answer = await (await server.connect()).get()
        assert ("server" in answer.headers) == (kind == "stock")
        assert "date" in answer.headers


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no host
        (b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET http://x/ HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET / HTTP/3.0\r\nhost: x\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ],
)
async def test_what_is_no_request_is_refused_and_closed(request_: bytes, status: int) -> None:
    async def read(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async with serving("ours", read) as server:
        client = await server.connect()
        await client.stream.send_all(request_)
        assert (await client.answer()).status == status
        await client.rest_until_closed()
        assert server.crash is None


@both
async def test_a_request_head_has_a_size_limit(kind: str) -> None:
    """Stock looks at its limit only between reads, so what comes in one read may be larger."""
    async with serving(kind, hello, request_head_bytes_max=4096) as server:
        for size, allowed in [(4000, True), (4200, kind == "stock"), (100_000, False)]:
            client = await server.connect()
            await client.stream.send_all(b"GET / HTTP/1.1\r\nhost: x\r\nx: %s\r\n\r\n" % (b"x" * (size - 32)))
            assert (await client.answer()).status == (200 if allowed else 431)


async def test_a_peer_that_expects_100_continue_gets_it() -> None:
    async def read(scope: Any, receive: Any, send: Any) -> None:
        await say(send, (await receive())["body"])

    async with serving("ours", read) as server:
        client = await server.connect()
        await client.stream.send_all(b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n")
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            data += await client.stream.receive_some(1)
        assert data.startswith(b"HTTP/1.1 100 ")
        await client.stream.send_all(b"ok")
        assert (await client.answer()).body == b"ok"


async def test_each_door_has_its_app_and_tells_who_came_by_it(tmp_path: Any) -> None:
    scopes: dict[str, Any] = {}

    async def app(name: str, scope: Any, receive: Any, send: Any) -> None:
        scopes[name] = scope
        scope["state"]["scribble"] = name
        await say(send, name.encode())

    path = str(tmp_path / "admin")
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            public, admin = await listen(None), await listen(path)
            port = public.socket.getsockname()[1]
            for name, listener in (("public", public), ("admin", admin)):
                serve = partial(serve_http, partial(app, name), [listener], Limits(), state={"door": name})
                await nursery.start(serve)
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                assert (await Client(stream).get()).body == b"public"
                assert scopes["public"]["client"] == stream.socket.getsockname()
            for _ in range(2):
                async with await trio.open_unix_socket(path) as stream:
                    assert (await Client(stream).get()).body == b"admin"
                assert scopes["admin"]["state"] == {
                    "door": "admin",
                    "scribble": "admin",
                    "peer": Peer(os.getpid(), os.getuid(), os.getgid()),
                }
            assert scopes["public"]["state"] == {"door": "public", "peer": None, "scribble": "public"}
            assert scopes["admin"]["client"] is None
            nursery.cancel_scope.cancel()


# The end.


async def test_shutdown_lets_requests_in_flight_end_and_takes_no_new_ones() -> None:
    began, go = trio.Event(), trio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        began.set()
        await go.wait()
        await say(send, b"slow")

    async with serving("ours", by_path(slow=slow), stop_grace_s=60) as server:
        idle, fresh, client = await server.connect(), await server.connect(), await server.connect()
        await idle.get()
        await client.stream.send_all(GET % b"/slow")
        await began.wait()
        server.stop()
        assert await idle.rest_until_closed() == b""
        assert await fresh.rest_until_closed() == b""
        with pytest.raises(OSError):  # noqa: PT011 - which one is the kernel's choice
            await server.connect()
        assert not server.ended.is_set()
        go.set()
        assert (await client.answer()).body == b"slow"
        assert await client.rest_until_closed() == b"", "it is not kept alive"
        await server.ended.wait()
        assert server.crash is None


async def test_shutdown_answers_a_request_or_never_begins_it() -> None:
    for attempt in range(40):
        begun: list[Any] = []

        async def note(scope: Any, receive: Any, send: Any, begun: list[Any] = begun) -> None:
            begun.append(scope)
            await say(send)

        async with serving("ours", by_path(note=note)) as server:
            client = await server.connect()
            await client.get()
            server.stop()
            for _ in range(attempt % 5):  # the request comes in the same step of the loop as the stop, or beside it
                await trio.lowlevel.checkpoint()
            with suppress(OSError), socket.socket(fileno=os.dup(client.stream.socket.fileno())) as sock:
                sock.send(GET % b"/note")
            assert bool(await client.rest_until_closed()) == bool(begun)


async def test_a_handler_that_never_ends_cannot_hold_shutdown() -> None:
    began = trio.Event()

    async def never(scope: Any, receive: Any, send: Any) -> None:
        began.set()
        await trio.sleep_forever()

    async with serving("ours", by_path(never=never), stop_grace_s=0.1) as server:
        client = await server.connect()
        await client.stream.send_all(GET % b"/never")
        await began.wait()
        server.stop()
        await server.ended.wait()
        assert server.crash is None
        await client.rest_until_closed()


async def test_a_listener_that_breaks_is_not_hidden() -> None:
    listener = await listen(None)
    with trio.fail_after(10), pytest.RaisesGroup(trio.ClosedResourceError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_http, hello, [listener], Limits()))
            await listener.aclose()


async def test_a_start_that_is_cancelled_ends() -> None:
    listener = await listen(None)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.cancel()
            nursery.start_soon(serve_http, hello, [listener], Limits())
    with pytest.raises(OSError):  # noqa: PT011 - the listener is closed
        listener.socket.getsockname()
