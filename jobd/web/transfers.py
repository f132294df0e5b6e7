"""The handlers of library files: up and down, as a stream, with back-pressure from end to end."""

import re
from contextlib import aclosing

from jobd import plans
from jobd.core import Core
from jobd.delivery import Head
from jobd.errors import RangeNotSatisfiable, TooLarge
from jobd.web.calls import Call, Reply
from jobd.web.sink import AsgiSink
from jobd.web.streams import FILE_HEADERS, byte_range
from schemas.views import FileView

ETAG = re.compile(r'(?:W/)?"([0-9a-f]{64})"')


async def upload(core: Core, call: Call, sink: AsgiSink) -> None:
    """PUT library/{name}: the name changes only when the content is whole and on the disk."""
    assert call.pieces is not None, "the route takes pieces"
    name, most = call.parts["name"], core.config.http.upload_bytes_max
    deadline_s = core.config.requests.deadline_s
    # What the quota does not allow is not even taken: a content that no name stands for would stay for good.
    room = await core.ask(plans.room(core, call.user, name), call.user, "", "upload", deadline_s)
    try:
        with core.library.receiving(call.user):
            stored = await core.files.receive(call.pieces, min(room, most))
    except TooLarge:
        if room >= most:
            raise
        raise plans.overfull(core.tier(core.jobs.users.get(call.user))) from None
    view = await core.ask(plans.shelve(core, call.user, name, stored), call.user, "", "upload", deadline_s)
    reply = Reply(view)
    await sink.whole(reply.status, [("content-type", reply.type), ("etag", f'"{view.sha256}"')], reply.encoded())


async def download(core: Core, call: Call, sink: AsgiSink) -> None:
    """GET library/{name}: the content that the name stands for now, whole or from an offset."""
    view = await _found(core, call, sink)
    if sink.status == 304:
        await sink.begin(Head("", 0))
        return
    asked = byte_range(call)
    offset, length = asked or (0, None)
    if asked and offset >= view.bytes:
        raise RangeNotSatisfiable
    left = view.bytes - offset if length is None else min(length, view.bytes - offset)
    sink.offset = offset if asked else None
    await sink.begin(Head("application/octet-stream", left))
    async with aclosing(core.files.read(view.sha256, offset, left)) as pieces:
        async for piece in pieces:
            await sink.write(piece)


async def look(core: Core, call: Call, sink: AsgiSink) -> None:
    """HEAD library/{name}."""
    view = await _found(core, call, sink)
    await sink.begin(Head("application/octet-stream", 0 if sink.status == 304 else view.bytes))


async def _found(core: Core, call: Call, sink: AsgiSink) -> FileView:
    plan = plans.find(core, call.user, call.parts["name"])
    view = await core.ask(plan, call.user, "", "download", core.config.requests.deadline_s)
    sink.headers = [
        *FILE_HEADERS,
        ("content-disposition", "attachment"),
        ("accept-ranges", "bytes"),
        ("etag", f'"{view.sha256}"'),
        ("cache-control", "no-cache"),
    ]
    if view.sha256 in ETAG.findall(call.headers.get("if-none-match", "")):
        sink.status = 304
    return view
