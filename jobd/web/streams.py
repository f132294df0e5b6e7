"""The streams of the API, as plain ASGI beside Quart: events, log, files, frames and analysis.

Their back-pressure is real both ways, and each watches `receive`: a client that hangs up cancels what only served it.
"""

import json
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

import trio
from attrs import field, frozen

from jobd import plans
from jobd.core import Core
from jobd.delivery import Head, Sink
from jobd.errors import Invalid, JobdError, RangeNotSatisfiable, TooLarge
from jobd.web.doors import Door, decoded, named, problem
from jobd.web.events import watch
from schemas.api import AnalysisRequest
from schemas.ids import check_path

log = logging.getLogger(__name__)

Asgi = Callable[[Any, Any, Any], Awaitable[None]]

_JOB = r"/v1/users/(?P<user>[^/]+)/jobs/(?P<job>[^/]+)"
META_CHARS_MAX = 2000  # what is said beside the bytes of an answer is left out when it is longer
# What users' codes have written is data, never a page of ours.
FILE_HEADERS = [("x-content-type-options", "nosniff"), ("content-security-policy", "sandbox; default-src 'none'")]


@frozen
class Call:
    """One decoded request for a stream."""

    user: str
    job: str
    rest: dict[str, str]
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = field(repr=False)

    @property
    def serial(self) -> int | None:
        """The serial in the query; raises Invalid."""
        serial = self.number("serial")
        if serial == 0:
            raise Invalid("serial must be a positive integer.", field="serial")
        return serial

    def number(self, name: str) -> int | None:
        """A whole number of the query; raises Invalid."""
        text = self.query.get(name)
        if text is None:
            return None
        if not text.isdecimal() or len(text) > 15:
            raise Invalid(f"{name} must be a whole number.", field=name)
        return int(text)


class AsgiSink:
    """Sends an answer as an HTTP response, piece by piece as the client takes it."""

    def __init__(self, send: Callable[[dict[str, Any]], Awaitable[None]], status: int = 200) -> None:
        self._send = send
        self.status = status
        self.headers: list[tuple[str, str]] = []
        self.offset: int | None = None  # where the range begins that was asked for
        self.begun = False

    async def begin(self, head: Head) -> None:
        """Send status and headers; raises RangeNotSatisfiable."""
        if self.offset is not None and head.bytes == 0:
            raise RangeNotSatisfiable
        self.begun = True
        headers = [("content-type", head.type), ("jobd-serial", str(head.serial)), *self.headers]
        if head.bytes >= 0:
            headers.append(("content-length", str(head.bytes)))
        if self.offset is not None:
            self.status = 206
            # The file may be growing, so its whole length is not said.
            headers.append(("content-range", f"bytes {self.offset}-{self.offset + head.bytes - 1}/*"))
        meta = "" if head.meta is None else json.dumps(head.meta)  # ASCII, as a header must be
        if 0 < len(meta) <= META_CHARS_MAX:
            headers.append(("jobd-meta", meta))
        await self._start(self.status, headers)

    async def write(self, data: bytes) -> None:
        """Send a piece; returns when there is room for more."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """The body is complete."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def refuse(self, error: JobdError) -> None:
        """Answer with a problem document."""
        status, headers, document = problem(error)
        await self._start(status, headers)
        await self._send({"type": "http.response.body", "body": document, "more_body": False})

    async def _start(self, status: int, headers: list[tuple[str, str]]) -> None:
        raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})


def front(core: Core, door: Door, control: Asgi) -> Asgi:
    """The ASGI app of one door: streams here, the rest to the control app."""
    routes = [
        ("GET", re.compile(f"{_JOB}/events"), _events),
        ("GET", re.compile(f"{_JOB}/log"), _log),
        ("GET", re.compile(f"{_JOB}/files/(?P<path>.+)"), _file),
        ("GET", re.compile(f"{_JOB}/frames/(?P<view>[^/]+)/(?P<index>[^/]+)"), _frame),
        ("POST", re.compile(f"{_JOB}/analysis/(?P<method>[^/]+)"), _analysis),
    ]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            for method, pattern, serve in routes:
                match = pattern.fullmatch(scope["path"])
                if match and scope["method"] == method:
                    await _serve(core, door, serve, match.groupdict(), (scope, receive, send))
                    return
        await control(scope, receive, send)

    return app


async def _serve(core: Core, door: Door, serve: Any, parts: dict[str, str], asgi: tuple[Any, Any, Any]) -> None:
    scope, receive, send = asgi
    sink = AsgiSink(send)
    try:
        door.enter(scope["headers"])
        call = Call(
            parts.pop("user"),
            parts.pop("job"),
            parts,
            {key: values[-1] for key, values in parse_qs(scope["query_string"].decode("latin-1")).items()},
            {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]},
            await _body(core, receive),
        )
        named(user=call.user, job=call.job)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch_client, receive, nursery.cancel_scope)
            await _refusing(sink, serve(core, call, sink))
            nursery.cancel_scope.cancel(reason="answered")
    except JobdError as error:
        await sink.refuse(error)


async def _refusing(sink: AsgiSink, work: Awaitable[None]) -> None:
    """An error before the first byte is a problem document; after it, only cutting the connection is honest: an app
    that returns without the end of its body does that."""
    try:
        await work
    except JobdError as error:
        if not sink.begun:
            await sink.refuse(error)
        else:
            log.info("an answer was cut off: %s", error)
    except Exception:
        if sink.begun:
            raise
        log.exception("a request failed in jobd itself")
        await sink.refuse(JobdError())
    else:
        await sink.end()


async def _body(core: Core, receive: Any) -> bytes:
    pieces = bytearray()
    with trio.move_on_after(core.config.requests.deadline_s):
        while True:
            message = await receive()
            pieces += message.get("body", b"")
            if len(pieces) > core.config.http.body_bytes_max:
                raise TooLarge(limit=core.config.http.body_bytes_max)
            if not message.get("more_body"):
                break
    return bytes(pieces)


async def _watch_client(receive: Any, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel(reason="the client hung up")


# --- the streams ----------------------------------------------------------------------------------------------------


async def _events(core: Core, call: Call, sink: AsgiSink) -> None:
    last = call.headers.get("last-event-id", "")
    if last and (not last.isdecimal() or len(last) > 15):
        raise Invalid("Last-Event-ID must be an id that this stream sent.", field="last-event-id")
    sink.headers = [("cache-control", "no-store")]
    await watch(core, call.user, call.job, int(last) if last else None, sink, core.config.requests.events_s_max)


async def _log(core: Core, call: Call, sink: AsgiSink) -> None:
    sink.headers = FILE_HEADERS
    if call.query.get("follow") == "1":
        await _follow(core, call, None, sink)
    else:
        await _range(core, call, None, sink)


async def _file(core: Core, call: Call, sink: AsgiSink) -> None:
    path = call.rest["path"]
    try:
        check_path(path)
    except ValueError as error:
        raise Invalid(f"path {error}.", field="path") from None
    sink.headers = [*FILE_HEADERS, ("content-disposition", "attachment"), ("accept-ranges", "bytes")]
    if call.query.get("follow") == "1":
        await _follow(core, call, path, sink)
    else:
        await _range(core, call, path, sink)


async def _range(core: Core, call: Call, path: str | None, sink: AsgiSink) -> None:
    """A file from an offset: `Range: bytes=N-` or `bytes=N-M`; other ranges are served as the whole."""
    match = re.fullmatch(r"bytes=(\d{1,15})-(\d{1,15})?", call.headers.get("range", ""))
    offset = int(match[1]) if match else 0
    length = int(match[2]) - offset + 1 if match and match[2] else None
    if length is not None and length <= 0:
        raise Invalid("The range ends before it begins.", field="range")
    sink.offset = offset if match else None
    await _read(core, call, path, (offset, length, 0.0), sink)


async def _read(core: Core, call: Call, path: str | None, window: tuple[int, int | None, float], sink: Sink) -> None:
    plan = plans.read(core, call.user, call.job, call.serial, path, window, sink)
    await core.ask(plan, call.user, call.job, "read", core.config.requests.analysis_s)


async def _follow(core: Core, call: Call, path: str | None, sink: AsgiSink) -> None:
    """What is there, and what is appended until the run has ended."""
    offset, follow_s = call.number("offset") or 0, core.config.requests.follow_s
    tail = Tail(sink)
    while True:
        # Asked before the read: what a run that has ended wrote is complete.
        now = plans.status(core, call.user, call.job, None, 0.0)
        _, view = await core.ask(now, call.user, call.job, "status", core.config.requests.deadline_s)
        over = bool(view.end_confirmed) or (call.serial is not None and call.serial != view.serial)
        before = tail.sent
        await _read(core, call, path, (offset + tail.sent, None, 0.0 if over else follow_s), tail)
        if over and tail.sent == before:
            return


class Tail:
    """Joins the answers of many reads into one stream of unknown length."""

    def __init__(self, sink: AsgiSink) -> None:
        self._sink = sink
        self.sent = 0

    async def begin(self, head: Head) -> None:
        """The first one begins the response."""
        if not self._sink.begun:
            await self._sink.begin(Head(head.type, -1, head.serial))

    async def write(self, data: bytes) -> None:
        """Hand on and count."""
        self.sent += len(data)
        await self._sink.write(data)


async def _frame(core: Core, call: Call, sink: AsgiSink) -> None:
    index = call.rest["index"]
    if index != "latest" and (not index.isdecimal() or len(index) > 12):
        raise Invalid("index must be a whole number or 'latest'.", field="index")
    arguments: dict[str, Any] = {
        "view": call.rest["view"],
        "index": index if index == "latest" else int(index),
        "format": call.query.get("format", "json"),
    }
    if (width := call.number("width")) is not None:
        arguments["width"] = width
    sink.headers = FILE_HEADERS
    ask = AnalysisRequest(arguments, call.serial)
    plan = plans.analyse(core, call.user, call.job, "frame", ask, sink)
    await core.ask(plan, call.user, call.job, "frame", core.config.requests.analysis_s)


async def _analysis(core: Core, call: Call, sink: AsgiSink) -> None:
    ask = decoded(call.body, AnalysisRequest, core.config.http.body_bytes_max)
    sink.headers = FILE_HEADERS
    plan = plans.analyse(core, call.user, call.job, call.rest["method"], ask, sink)
    await core.ask(plan, call.user, call.job, "analysis", core.config.requests.analysis_s)
