"""The reads that are answered without h11: the same answers, and never a request that h11 would not have seen there."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from jobd.web import quick
from jobd.web.connection import Limits
from jobd.web.server import serve_http

WHOLE = b"GET /hot/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\n\r\n"


@attrs.define
class App:
    """Answers with what it was asked."""

    paths: list[str] = attrs.field(factory=list)
    waits: trio.Event | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        if self.waits is not None:
            await self.waits.wait()
        body = repr((scope["method"], scope["path"], scope["query_string"], sorted(scope["headers"]))).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving(app: App, *, quickly: bool = True, **limits: Any) -> AsyncIterator[Any]:
    taken: list[bytes] = []
    real = quick.parse

    def counted(data: bytes) -> Any:
        request = real(data) if quickly else None
        if request and request[0].startswith("/hot"):
            taken.append(data)
        return request

    with trio.fail_after(30), pytest.MonkeyPatch.context() as patch:
        patch.setattr(quick, "parse", counted)
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with trio.open_nursery() as nursery:
            hot = {"is_hot": lambda path: path.startswith("/hot")}
            await nursery.start(lambda **start: serve_http(app, [listener], Limits(**limits), **hot, **start))

            async def connect() -> trio.SocketStream:
                return await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])

            connect.taken = taken  # type: ignore[attr-defined]
            yield connect
            nursery.cancel_scope.cancel()


async def ask(connect: Any, *pieces: bytes, until: int = 1) -> bytes:
    """Everything that comes back until so many answers have, or the connection is closed."""
    got = b""
    async with await connect() as stream:
        for piece in pieces:
            await stream.send_all(piece)
            await trio.sleep(0.02)
        with contextlib.suppress(trio.BrokenResourceError), trio.move_on_after(5):
            while got.count(b"HTTP/1.1 ") < until or not got.endswith(b")"):
                piece = await stream.receive_some(65536)
                if not piece:
                    break
                got += piece
    return b"\r\n".join(line for line in got.split(b"\r\n") if not line.lower().startswith(b"date:"))


REQUESTS = {
    "whole": (WHOLE,),
    "no space after a colon": (b"GET /hot/a HTTP/1.1\r\nHost:x\r\nAccept:*/*\r\n\r\n",),
    "much space": (b"GET /hot/a HTTP/1.1\r\nHost: \t x \t\r\n\r\n",),
    "a header twice": (b"GET /hot/a HTTP/1.1\r\nHost: x\r\nA: 1\r\na: 2\r\n\r\n",),
}


@pytest.mark.parametrize("pieces", REQUESTS.values(), ids=REQUESTS)
async def test_the_answer_is_that_of_the_slow_way(pieces: tuple[bytes, ...]) -> None:
    answers = []
    for quickly in (True, False):
        async with serving(App(), quickly=quickly) as connect:
            answers.append(await ask(connect, *pieces))
            assert bool(connect.taken) is quickly
    assert answers[0] == answers[1]
    assert answers[0].startswith(b"HTTP/1.1 200")


# What is not of the one shape is h11's, which answers or refuses it.
OTHERS = {
    "cold": b"GET /cold HTTP/1.1\r\nHost: x\r\n\r\n",
    "query": b"GET /hot/a?x=1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "escape": b"GET /hot/%61 HTTP/1.1\r\nHost: x\r\n\r\n",
    "long poll": b"GET /hot/a HTTP/1.1\r\nHost: x\r\nPrefer: wait=5\r\n\r\n",
    "old": b"GET /hot/a HTTP/1.0\r\nHost: x\r\n\r\n",
    "body": b"GET /hot/a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
    "empty body": b"GET /hot/a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    "chunked": b"GET /hot/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "close": b"GET /hot/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "upgrade": b"GET /hot/a HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\n\r\n",
    "no host": b"GET /hot/a HTTP/1.1\r\nA: x\r\n\r\n",
    "two hosts": b"GET /hot/a HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "folded": b"GET /hot/a HTTP/1.1\r\nHost: x\r\n  y\r\n\r\n",
    "space before the colon": b"GET /hot/a HTTP/1.1\r\nHost : x\r\n\r\n",
    "bare LF": b"GET /hot/a HTTP/1.1\nHost: x\n\n",
    "control character": b"GET /hot/a HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n",
    "bare CR": b"GET /hot/a HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n",
    "large": b"GET /hot/a HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 5000 + b"\r\n\r\n",
    "another method": b"HEAD /hot/a HTTP/1.1\r\nHost: x\r\n\r\n",
    "two at once": WHOLE * 2,
    "unfinished": WHOLE[:-2],
}


@pytest.mark.parametrize("request_", OTHERS.values(), ids=OTHERS)
def test_every_other_shape_is_left_to_h11(request_: bytes) -> None:
    known = quick.parse(request_)
    assert known is None or known[0] == "/cold"


@given(st.binary(max_size=200), st.integers(0, len(WHOLE)), st.integers(0, 8))
def test_no_bytes_break_the_parser(garbage: bytes, at: int, cut: int) -> None:
    data = WHOLE[:at] + garbage + WHOLE[at + cut :]
    request = quick.parse(data)
    if request is not None:
        assert data.count(b"\r\n\r\n") == 1
        assert data.endswith(b"\r\n\r\n")
        assert sum(name == b"host" for name, _ in request[1]) == 1


async def test_the_rest_of_an_unfinished_head_is_no_request_of_its_own() -> None:
    """A header of the first request whose value looks like a request: who took it for one would be led astray."""
    app = App()
    async with serving(app) as connect:
        answer = await ask(connect, b"GET /cold HTTP/1.1\r\nHost: x\r\nA: ", b"b\r\nB: c\r\n\r\n" + WHOLE, until=2)
        assert answer.count(b"HTTP/1.1 200") == 2
        assert app.paths == ["/cold", "/hot/a"]
        app.paths.clear()
        answer = await ask(connect, b"GET /cold HTTP/1.1\r\nHost: x\r\n", WHOLE)
        assert answer.startswith(b"HTTP/1.1 400")
        assert app.paths == []


async def test_the_rest_of_a_body_is_no_request() -> None:
    app = App()
    async with serving(app) as connect:
        head = b"POST /cold HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(WHOLE)
        await ask(connect, head, WHOLE)
    assert app.paths == ["/cold"]


async def test_after_a_pipelined_beginning_the_next_bytes_are_its_rest() -> None:
    app = App()
    async with serving(app) as connect:
        answer = await ask(connect, b"GET /cold HTTP/1.1\r\nHost: x\r\n\r\nGET /cold HTTP/1.1\r\nHo", WHOLE, until=2)
    assert app.paths[0] == "/cold"
    assert "/hot/a" not in app.paths, answer


async def test_quick_and_slow_reads_take_turns_on_one_connection() -> None:
    async with serving(App()) as connect, await connect() as stream:
        for path in (b"/hot/a", b"/cold", b"/hot/b", b"/hot/b", b"/cold"):
            await stream.send_all(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
            got = b""
            while not got.endswith(b")"):
                got += await stream.receive_some(65536)
            assert path in got
        assert len(connect.taken) == 3


async def test_shutdown_lets_a_quick_read_end() -> None:
    app = App(waits=trio.Event())
    async with serving(app) as connect, await connect() as stream:
        await stream.send_all(WHOLE)
        while not app.paths:
            await trio.sleep(0.01)
        app.waits.set()  # type: ignore[union-attr]
        assert (await stream.receive_some(65536)).startswith(b"HTTP/1.1 200")


async def test_an_idle_connection_is_closed_after_a_quick_read_too() -> None:
    async with serving(App(), keep_alive_s=0.1) as connect, await connect() as stream:
        await stream.send_all(WHOLE)
        while await stream.receive_some(65536):
            pass
