"""What the client makes of replies that jobd would not send, and of newer ones; and what a canceled call leaves."""

import contextlib
import gzip
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import pytest
import trio
from asking import WAITS
from realdaemon import Daemon, wait_until
from talking import Liar, Speaker, reply

from jobd import client
from jobd.client import Client, JobdClientError, ProblemError, TrioClient, UnreachableError

BOTH = pytest.mark.parametrize("kind", ["threads", "trio"])
VIEW = {"user": "alice", "job": "j", "state": "missing"}
EVENTS = {"content_type": "text/event-stream"}


def as_json(data: object) -> bytes:
    return json.dumps(data).encode()


GARBAGE = {
    "nothing": b"",
    "no JSON": b"<html>It works!</html>",
    "half": as_json(VIEW)[:-5],
    "a list": b"[]",
    "null": b"null",
    "not UTF-8": b'{"user": "\xff"}',
    "a lone surrogate": b'{"user": "\\ud800", "job": "j", "state": "missing"}',
    "NaN": b'{"user": "alice", "job": "j", "state": "running", "serial": NaN}',
    "a wrong type": as_json({**VIEW, "serial": "1"}),
    "an unknown state": as_json({**VIEW, "state": "dreaming"}),
    "too little": as_json({"user": "alice"}),
    "deep": b'{"user": ' * 100_000,
    "gzip that nobody asked for": gzip.compress(as_json(VIEW)),
}


@BOTH
@pytest.mark.parametrize("body", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_an_error_of_the_client(kind, body):
    headers = {"content_encoding": "gzip"} if body.startswith(b"\x1f\x8b") else {}
    liar = Liar(reply(body, **headers))
    with pytest.raises(JobdClientError, match="jobd's reply is no RunView"):
        Speaker(kind, liar.url).status("alice", "j")
    assert len(liar.asked) == 1
    liar.close()


@BOTH
def test_a_newer_daemon_is_understood(kind):
    stage = {"number": 7, "at": "", "state": "", "name": "", "text": "", "mood": "good"}
    newer = {**VIEW, "state": "completed", "end_confirmed": True, "timeline": [stage], "colour": {"deep": [1]}}
    liar = Liar(reply(as_json(newer), etag='"1"'))
    jobd = Speaker(kind, liar.url)
    assert jobd.result("alice", "j").timeline[0].number == 7
    liar.close()
    said = b"event: weather\ndata: 1\n\n: a comment\nretry: 5\nevent: status\ndata: " + as_json(newer) + b"\n\n"
    liar = Liar(reply(said, **EVENTS))
    weather, status = Speaker(kind, liar.url).events("alice", "j", until=lambda event: event.name == "status")
    assert (weather.name, weather.data, weather.status) == ("weather", 1, None)
    assert status.status.state == "completed"
    liar.close()


@BOTH
@pytest.mark.parametrize(
    ("status", "body", "code", "says"),
    [
        ("409 Conflict", as_json({"code": "run_active", "title": "T.", "detail": "D."}), "run_active", "T. D."),
        ("422 Unprocessable", as_json({"code": "invalid", "title": "T.", "field": "f"}), "invalid", "T. (field: f)"),
        ("404 Not Found", b"<html>", "unknown", "HTTP status 404."),
        ("404 Not Found", b"", "unknown", "HTTP status 404."),
        ("404 Not Found", b"[" * 100_000, "unknown", "HTTP status 404."),
        ("400 Bad Request", as_json({"code": 7, "title": 1, "detail": [2]}), "7", "1 [2]"),
        ("302 Found", b"", "unknown", "HTTP status 302."),
    ],
)
def test_a_refusal_is_read_as_far_as_it_can_be(kind, status, body, code, says):
    liar = Liar(reply(body, status, location="http://127.0.0.1:1/"))
    with pytest.raises(ProblemError) as refused:
        Speaker(kind, liar.url).status("alice", "j")
    assert (refused.value.status, refused.value.code, str(refused.value)) == (int(status[:3]), code, says)
    liar.close()


@BOTH
@pytest.mark.parametrize("body", [as_json({"code": "shutting_down"}), b"<h1>Bad Gateway</h1>"])
def test_a_daemon_or_a_proxy_that_is_not_ready_is_asked_again(kind, body):
    status = "503 Service Unavailable" if b"code" in body else "502 Bad Gateway"
    liar = Liar(reply(body, status), reply(body, status), reply(as_json(VIEW)))
    assert Speaker(kind, liar.url).status("alice", "j").state == "missing"
    assert len(liar.asked) == 3
    liar.close()
    liar = Liar(reply(body, status), reply(as_json(VIEW)))
    with pytest.raises(JobdClientError, match="may have been done"):
        Speaker(kind, liar.url).cancel("alice", "j")
    assert len(liar.asked) == 1
    liar.close()


def silence() -> Iterator[bytes]:
    time.sleep(4)
    yield b""


@BOTH
def test_a_daemon_that_hears_and_says_nothing_is_given_up_once_patience_is_over(kind, monkeypatch):
    monkeypatch.setattr(client.exchange, "ANSWER_S", 1.0)
    liar = Liar(silence())
    began = time.monotonic()
    with pytest.raises(UnreachableError):
        Speaker(kind, liar.url, patience_s=0.9).status("alice", "j")
    assert time.monotonic() - began < 1.9, "it was silent for longer than patience lasts"
    assert "accept-encoding: identity" in liar.asked[0].lower(), "a proxy is not to compress what ranges count"
    liar.close()


HEAD = b"HTTP/1.1 200 OK\r\nconnection: close\r\n"


@BOTH
@pytest.mark.parametrize("head", [b"content-length: 104857600\r\n", b""])
def test_a_body_of_100_mb_is_not_taken(kind, head):
    liar = Liar([HEAD + head + b"\r\n", *itertools.repeat(bytes(1 << 20), 100)])
    with pytest.raises(JobdClientError, match="larger than 67108864 bytes"):
        Speaker(kind, liar.url).status("alice", "j")
    wait_until(lambda: liar.asked)
    assert liar.sent < 90 << 20
    liar.close()


@BOTH
@pytest.mark.parametrize("line", [b"data: ", b"e"])
def test_an_event_without_an_end_is_not_taken(kind, line):
    liar = Liar([HEAD + b"\r\n" + line, *itertools.repeat(b"x" * (1 << 20), 100)])
    with pytest.raises(JobdClientError, match="event is larger"):
        Speaker(kind, liar.url).events("alice", "j")
    assert liar.sent < 40 << 20
    liar.close()


@BOTH
@pytest.mark.parametrize(
    "said",
    [
        b"event: stage\nid: one\ndata: {}\n\n",
        b"event: stage\nid: 1\ndata: {\n\n",
        b"event: stage\ndata: \xff\n\n",
        b"event: status\ndata: 7\n\n",
        b'event: status\ndata: {"timeline": {}}\n\n',
    ],
)
def test_an_event_that_is_none_is_an_error_of_the_client(kind, said):
    liar = Liar(reply(said, **EVENTS))
    with pytest.raises(JobdClientError, match="event cannot be read"):
        Speaker(kind, liar.url).events("alice", "j", until=lambda event: event.status)
    liar.close()


@BOTH
def test_what_is_said_beside_an_answer_may_be_garbage_too(kind):
    for headers in ({"jobd_serial": "x"}, {"jobd_meta": "{"}):
        liar = Liar(reply(b"abc", **headers))
        with pytest.raises(JobdClientError, match="answer cannot be read"):
            Speaker(kind, liar.url).analysis("alice", "j", "m")
        liar.close()
    liar = Liar(reply(b"abc"), reply(as_json({**VIEW, "state": "running"})))
    answer = Speaker(kind, liar.url).analysis("alice", "j", "m")
    assert answer.content == b"abc"
    with pytest.raises(JobdClientError, match="answer cannot be read"):
        answer.json()
    with pytest.raises(JobdClientError, match="no ETag"):
        Speaker(kind, liar.url).result("alice", "j")
    liar.close()


# --- what a call leaves at the server ---------------------------------------------------------------------------------


async def consume(items: AsyncIterator[object]) -> None:
    async with aclosing(items) as each:  # type: ignore[type-var]
        async for _ in each:
            pass


CALLS: dict[str, Callable[[TrioClient, str], Awaitable[object]]] = {
    "analysis": lambda jobd, job: jobd.analysis("alice", job, "sleep", {"s": 2}),
    "status": lambda jobd, job: jobd.result("alice", job),
    "events": lambda jobd, job: consume(jobd.events("alice", job)),
    "read": lambda jobd, job: consume(jobd.log("alice", job, follow=True)),
}


@pytest.fixture(scope="module")
def busy(daemon: Daemon):
    """A run that goes on."""
    daemon.run("alice", "busy", WAITS)
    daemon.until("alice", "busy", lambda now: now.get("progress"))
    yield "busy"
    with daemon.client() as client:
        client.cancel("alice", "busy")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("call", CALLS)
async def test_a_canceled_trio_call_ends_its_request_at_once(daemon, busy, call):
    async with TrioClient(daemon.url, token=daemon.token) as jobd:
        await jobd.status("alice", busy)  # a connection that is there already
        async with trio.open_nursery() as nursery:
            nursery.start_soon(CALLS[call], jobd, busy)
            with trio.fail_after(10):
                while not any(name.startswith(call) for name in await trio.to_thread.run_sync(daemon.tree, "request")):
                    await trio.sleep(0.02)
            nursery.cancel_scope.cancel()
        with trio.fail_after(2):
            while await trio.to_thread.run_sync(daemon.tree, "request"):
                await trio.sleep(0.02)
        assert (await jobd.status("alice", busy)).state == "running"  # the client is as good as before


def test_an_iterator_that_is_left_ends_its_request_at_once(daemon, busy):
    with Client(daemon.url, token=daemon.token) as jobd:
        for _ in jobd.events("alice", busy):
            break
        wait_until(lambda: not daemon.tree("request"), "it left the tree", 2)
        assert jobd.status("alice", busy).state == "running"


async def test_a_canceled_download_leaves_nothing(daemon, tmp_path):
    async with TrioClient(daemon.url, token=daemon.token) as jobd:
        await jobd.upload("alice", "f", bytes(4 << 20))
        with trio.move_on_after(0.005):
            while True:
                await jobd.download("alice", "f", tmp_path / "to")
                (tmp_path / "to").unlink()
        assert {path.name for path in tmp_path.iterdir()} <= {"to"}


# --- shared -----------------------------------------------------------------------------------------------------------


def test_threads_share_a_client_also_when_each_watches(daemon, busy):
    """More streams than httpx has connections by default, and a call that needs one more."""
    with Client(daemon.url, token=daemon.token) as jobd, contextlib.ExitStack() as stack:
        for _ in range(100):
            stream = stack.enter_context(contextlib.closing(jobd.events("alice", busy)))
            assert next(stream).status.state == "running"
        with ThreadPoolExecutor(8) as threads:
            states = list(threads.map(lambda _: jobd.status("alice", busy).state, range(16)))
    assert states == ["running"] * 16


async def test_tasks_share_a_client(daemon, busy):
    async with TrioClient(daemon.url, token=daemon.token) as jobd, trio.open_nursery() as nursery:
        states = []

        async def ask() -> None:
            states.append((await jobd.status("alice", busy)).state)

        for _ in range(16):
            nursery.start_soon(ask)
    assert states == ["running"] * 16
