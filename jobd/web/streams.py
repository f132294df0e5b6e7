"""The handlers of streams: events, log, files, frames, analysis and compute, answered piece by piece."""

import re
from typing import Any

from jobd import plans
from jobd.core import Core
from jobd.delivery import Head, Sink
from jobd.errors import Invalid
from jobd.web.calls import Call, whole_number
from jobd.web.events import watch
from jobd.web.sink import AsgiSink
from schemas.api import AnalysisRequest
from schemas.ids import check_path

FRAME_DIGITS_MAX = 12

# What users' codes have written is data, never a page of ours.
FILE_HEADERS = [("x-content-type-options", "nosniff"), ("content-security-policy", "sandbox; default-src 'none'")]


async def events(core: Core, call: Call, sink: AsgiSink) -> None:
    """GET events."""
    said = call.headers.get("last-event-id", "")
    last = whole_number(said)
    if said and last is None:
        raise Invalid("Last-Event-ID must be an id that this stream sent.", field="last-event-id")
    sink.headers = [("cache-control", "no-store")]
    left_s = call.principal.expires_wall_s - core.world.now().wall_s  # a token's streams end with it
    seconds_max = min(left_s, core.config.requests.events_s_max)
    await watch(core, call.user, call.job, last, sink, seconds_max)


async def log(core: Core, call: Call, sink: AsgiSink) -> None:
    """GET log."""
    sink.headers = FILE_HEADERS
    await _content(core, call, None, sink)


async def file(core: Core, call: Call, sink: AsgiSink) -> None:
    """GET files/{path}."""
    path = call.parts["path"]
    try:
        check_path(path)
    except ValueError as error:
        raise Invalid(f"path {error}.", field="path") from None
    sink.headers = [*FILE_HEADERS, ("content-disposition", "attachment"), ("accept-ranges", "bytes")]
    await _content(core, call, path, sink)


async def _content(core: Core, call: Call, path: str | None, sink: AsgiSink) -> None:
    """A file or the log: as it grows, or from `Range: bytes=N-` or `bytes=N-M`; other ranges are the whole."""
    if call.query.get("follow") == "1":
        await _follow(core, call, path, sink)
        return
    asked = byte_range(call)
    offset, length = asked or (0, None)
    sink.offset = offset if asked else None
    await _read(core, call, path, (offset, length, 0.0), sink)


def byte_range(call: Call) -> tuple[int, int | None] | None:
    """Offset and length of `Range: bytes=N-` or `bytes=N-M`; None for every other; raises Invalid."""
    match = re.fullmatch(r"bytes=(\d{1,15})-(\d{1,15})?", call.headers.get("range", ""), re.ASCII)
    if match is None:
        return None
    offset = int(match[1])
    length = int(match[2]) - offset + 1 if match[2] else None
    if length is not None and length <= 0:
        raise Invalid("The range ends before it begins.", field="range")
    return offset, length


async def _read(core: Core, call: Call, path: str | None, window: tuple[int, int | None, float], sink: Sink) -> None:
    plan = plans.read(core, call.user, call.job, call.serial, path, window, sink)
    await core.ask(plan, call.user, call.job, "read", core.config.requests.analysis_s)


async def _follow(core: Core, call: Call, path: str | None, sink: AsgiSink) -> None:
    """What is there, and what is appended until the run has ended."""
    offset, follow_s, limit = call.number("offset") or 0, core.config.requests.follow_s, core.config.requests.deadline_s
    tail = Tail(sink)
    while True:
        # Asked before the read: what a run that has ended wrote is complete.
        over = await core.ask(plans.is_over(core, call.user, call.job, call.serial), call.user, call.job, "log", limit)
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


async def frame(core: Core, call: Call, sink: AsgiSink) -> None:
    """GET frames."""
    index = call.parts["index"]
    number = whole_number(index, FRAME_DIGITS_MAX)
    if index != "latest" and number is None:
        raise Invalid("index must be a whole number or 'latest'.", field="index")
    arguments: dict[str, Any] = {
        "view": call.parts["view"],
        "index": index if number is None else number,
        "format": call.query.get("format", "json"),
    }
    if (width := call.number("width")) is not None:
        arguments["width"] = width
    sink.headers = FILE_HEADERS
    ask = AnalysisRequest(arguments, call.serial)
    plan = plans.analyse(core, call.user, call.job, "frame", ask, sink)
    await core.ask(plan, call.user, call.job, "frame", core.config.requests.analysis_s)


async def analysis(core: Core, call: Call, sink: AsgiSink) -> None:
    """POST analysis."""
    sink.headers = FILE_HEADERS
    plan = plans.analyse(core, call.user, call.job, call.parts["method"], call.body, sink)
    await core.ask(plan, call.user, call.job, "analysis", core.config.requests.analysis_s)


async def compute(core: Core, call: Call, sink: AsgiSink) -> None:
    """POST compute."""
    sink.headers = FILE_HEADERS
    plan = plans.compute(core, call.user, call.parts["code"], call.parts["method"], call.body, sink)
    await core.ask(plan, call.user, "", "compute", core.config.requests.analysis_s)
