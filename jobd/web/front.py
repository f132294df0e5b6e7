"""The ASGI app of one door: streams and the hottest reads are served here, the rest goes on to Quart.

Back-pressure is real both ways, and a client that hangs up cancels what only served it. Cross-origin pages of the
configured origins may call; tokens travel in a header that no browser sends by itself, so there is nothing to forge.
"""

import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

import trio

from jobd.core import Core
from jobd.errors import DeadlineExceeded, Invalid, JobdError, TooLarge, TornUpload, Unauthorized
from jobd.metrics import REQUESTS
from jobd.web.calls import Call, Route, decoded, enter
from jobd.web.doors import Door, Headers, Principal
from jobd.web.sink import AsgiSink

log = logging.getLogger(__name__)

Asgi = Callable[[Any, Any, Any], Awaitable[None]]

QUERY_FIELDS_MAX = 32
HUNG_UP = 499  # for the metrics: the client was gone before its answer began
EXPIRY_GRACE_S = 1.0  # an event stream ends by itself, and cleanly, when its token does
CORS_HEADERS = (
    (b"access-control-allow-methods", b"GET, HEAD, PUT, POST, DELETE"),
    (b"access-control-allow-headers", b"authorization, content-type, if-none-match, last-event-id, prefer, range"),
    (b"access-control-expose-headers", b"etag, jobd-serial, jobd-meta, retry-after, content-range"),
    (b"access-control-max-age", b"600"),
)


def hot_paths(routes: tuple[Route, ...]) -> Callable[[str], bool]:
    """Whether a GET of a path is one of the hottest reads."""
    patterns = [_pattern(route.path) for route in routes if route.hot]
    return lambda path: any(pattern.fullmatch(path) for pattern in patterns)


def front(core: Core, door: Door, routes: tuple[Route, ...], control: Asgi) -> Asgi:
    """The app: what is not served here goes on to `control`."""
    ours = [(route, _pattern(route.path)) for route in routes if route.stream or route.hot]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            if (origin := _allowed_origin(core, scope["headers"])) is not None:
                if scope["method"] == "OPTIONS":
                    await _preflight(send, origin)
                    return
                send = _with_origin(send, origin)
            for route, pattern in ours:
                if scope["method"] == route.method and (match := pattern.fullmatch(scope["path"])):
                    await _serve(core, door, route, match.groupdict(), (scope, receive, send))
                    return
        await control(scope, receive, send)

    return app


def _pattern(path: str) -> "re.Pattern[str]":
    """A route's path as a regular expression: {path} is the rest of it, every other part ends at a slash."""
    return re.compile(re.sub(r"\{(\w+)\}", lambda part: f"(?P<{part[1]}>{_shape(part[1])})", path))


def _shape(part: str) -> str:
    return ".+" if part == "path" else "[^/]+"


async def _serve(core: Core, door: Door, route: Route, parts: dict[str, str], asgi: tuple[Any, Any, Any]) -> None:
    scope, receive, send = asgi
    sink = AsgiSink(send)
    try:
        call = await _call(core, door, route, parts, (scope, receive))
    except JobdError as error:
        await sink.refuse(error)
    else:
        work = route.stream(core, call, sink) if route.stream else _answer(core, route, call, sink)
        if route.takes_pieces or (route.hot and "prefer" not in call.headers):
            await _refusing(sink, work)
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_watch_client, receive, nursery.cancel_scope)
                if call.principal.digest:
                    nursery.start_soon(_watch_token, core, call.principal, nursery.cancel_scope)
                await _refusing(sink, work)
                nursery.cancel_scope.cancel(reason="answered")
            if not sink.begun and call.principal.digest and core.tokens.find(call.principal.digest) is None:
                await sink.refuse(Unauthorized())
    status = sink.status if sink.begun else HUNG_UP
    REQUESTS.labels(f"{route.method} {route.path}", status).inc()


async def _call(core: Core, door: Door, route: Route, parts: dict[str, str], asgi: tuple[Any, Any]) -> Call:
    scope, receive = asgi
    principal = enter(door, route, parts, scope["headers"])
    pieces, body = None, None
    if route.takes_pieces:
        pieces = _pieces(receive)
    elif route.request is not None:
        body = decoded(await _body(core, receive), route.request, core.config.http.body_bytes_max)
    headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
    return Call(principal, parts, query_of(scope["query_string"]), headers, body, pieces)


def query_of(raw: bytes) -> dict[str, str]:
    """The query, the last of each name; raises Invalid."""
    try:
        return dict(parse_qsl(raw.decode("latin-1"), keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX))
    except ValueError:
        raise Invalid(f"The query has more than {QUERY_FIELDS_MAX} fields.", field="query") from None


async def _answer(core: Core, route: Route, call: Call, sink: AsgiSink) -> None:
    assert route.serve is not None, "a route serves or streams"
    reply = await route.serve(core, call)
    headers = [*reply.headers.items()]
    data = reply.encoded()
    if data:
        headers.append(("content-type", reply.type))
    await sink.whole(reply.status, headers, data)


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
        if not sink.ended:
            await sink.end()


async def _body(core: Core, receive: Any) -> bytes:
    gathered, limit = bytearray(), core.config.http.body_bytes_max
    with trio.move_on_after(core.config.requests.deadline_s):
        async for piece in _pieces(receive):
            gathered += piece
            if len(gathered) > limit:
                raise TooLarge(f"It takes {limit} bytes.", limit=limit)
        return bytes(gathered)
    raise DeadlineExceeded("The body did not come.")


async def _pieces(receive: Any) -> AsyncGenerator[bytes, None]:
    """The body as it comes; raises TornUpload when the client is gone before its end."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise TornUpload
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body"):
            return


async def _watch_client(receive: Any, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel(reason="the client hung up")


async def _watch_token(core: Core, principal: Principal, scope: trio.CancelScope) -> None:
    """What a token has opened ends with it: expired, or revoked because it was stolen."""
    while core.tokens.find(principal.digest) is not None:
        with trio.move_on_after(principal.expires_wall_s - core.world.now().wall_s + EXPIRY_GRACE_S):
            await core.tokens.changed.wait()
    scope.cancel(reason="the token is over")


# --- other origins --------------------------------------------------------------------------------------------------


def _allowed_origin(core: Core, headers: Headers) -> bytes | None:
    for name, value in headers:
        if name == b"origin" and value.decode("latin-1") in core.config.http.origins:
            return value
    return None


async def _preflight(send: Any, origin: bytes) -> None:
    headers = [(b"access-control-allow-origin", origin), (b"vary", b"origin"), *CORS_HEADERS]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _with_origin(send: Any, origin: bytes) -> Any:
    async def sending(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            allowed = [(b"access-control-allow-origin", origin), (b"vary", b"origin"), CORS_HEADERS[2]]
            message = {**message, "headers": [*message["headers"], *allowed]}
        await send(message)

    return sending
