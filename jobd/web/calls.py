"""What every handler works with: a decoded call, its reply, and the route that says who may call and what is spoken.

The table of routes (routes.py) is the API. Quart serves most of it, the plain ASGI front the streams and the hottest
reads; both come through `enter`, so who may and what is checked is the same everywhere.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from jobd.core import Core
from jobd.errors import Invalid, JobdError
from jobd.web.doors import Door, Headers, May, Principal
from schemas import codec
from schemas.codec import dumps
from schemas.ids import check_name

if TYPE_CHECKING:
    from jobd.web.sink import AsgiSink

INTEGER_DIGITS_MAX = 15
SERIAL = "serial"  # the query parameter that names the run meant


@frozen
class Call:
    """One request, decoded and allowed."""

    principal: Principal
    parts: Mapping[str, str]  # of the path
    query: Mapping[str, str]
    headers: Mapping[str, str]  # lower case
    body: Any = None  # an instance of the route's request class
    pieces: AsyncIterator[bytes] | None = None  # of the body, where it is taken as it comes

    @property
    def user(self) -> str:
        """The user in the path."""
        return self.parts["user"]

    @property
    def job(self) -> str:
        """The job in the path."""
        return self.parts["job"]

    @property
    def actor(self) -> str:
        """Who is to be named in a cause."""
        return self.principal.actor(self.parts.get("user", ""))

    @property
    def serial(self) -> int | None:
        """The serial in the query; raises Invalid."""
        return self.number(SERIAL, least=1)

    def number(self, name: str, least: int = 0) -> int | None:
        """A whole number of the query; raises Invalid."""
        text = self.query.get(name)
        if text is None:
            return None
        number = whole_number(text)
        if number is None or number < least:
            raise Invalid(f"{name} must be a whole number, at least {least}.", field=name)
        return number

    def limit(self, most: int, default: int = 100) -> int:
        """How many items a page is to have; raises Invalid."""
        limit = self.number("limit", least=1) or min(default, most)
        if limit > most:
            raise Invalid(f"limit is at most {most}.", field="limit")
        return limit


def whole_number(text: str, digits_max: int = INTEGER_DIGITS_MAX) -> int | None:
    """The number that the text is, in ASCII digits alone; None for any other text."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= digits_max else None


@frozen
class Reply:
    """What a handler answers: an attrs instance, text of another type, or nothing."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(factory=dict)
    type: str = "application/json"

    def encoded(self) -> bytes:
        """The body's bytes."""
        if self.body is None:
            return b""
        if isinstance(self.body, bytes):
            return self.body
        return dumps(codec.to_data(self.body)).encode()


Serve = Callable[[Core, Call], Awaitable[Reply]]
Stream = Callable[[Core, Call, "AsgiSink"], Awaitable[None]]


@frozen
class Route:
    """One row of the API. What follows `stream` is what the documentation is made of, and `request` what is checked:
    `request` and `reply` are attrs classes, or media types of what is no JSON of ours."""

    method: str
    path: str
    may: May
    summary: str
    serve: Serve | None = None
    stream: Stream | None = None
    request: Any = None
    reply: Any = None
    query: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    statuses: tuple[int, ...] = (200,)
    hot: bool = False  # served without Quart
    takes_pieces: bool = False  # the body is taken as it comes


def enter(door: Door, route: Route, parts: Mapping[str, str], headers: Headers) -> Principal:
    """Who calls, before anything of the body is read; raises Unauthorized, Forbidden or Invalid."""
    if route.may == "anyone":
        return Principal("user")
    principal = door.enter(headers)
    for what, name in parts.items():
        if what in NAMES:
            try:
                check_name(name)
            except ValueError as error:
                raise Invalid(f"{what} {error}.", field=what) from None
    principal.check(route.may, parts.get("user"), parts.get("job"))
    return principal


NAMES = ("user", "job", "name", "code", "method", "view", "cluster", "host")


def decoded(body: bytes, kind: Any, bytes_max: int) -> Any:
    """A request's body as `kind`, an empty one as an empty object; raises Invalid that names the field."""
    try:
        return codec.decode((body or b"{}").decode(), kind, bytes_max)
    except UnicodeDecodeError:
        raise Invalid("The body is not UTF-8.", field="") from None
    except codec.CodecError as error:
        raise Invalid(f"{error}.", field=error.field) from None


def problem(error: JobdError) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers and body of an error's reply."""
    document: dict[str, Any] = {
        "type": f"urn:jobd:error:{error.code}",
        "title": error.sentence,
        "status": error.status,
        "code": error.code,
        "detail": error.detail or error.sentence,
        **error.fields,
    }
    headers = [("content-type", "application/problem+json")]
    if error.retry_after_s is not None:
        headers.append(("retry-after", str(math.ceil(error.retry_after_s))))
    if error.status == 401:
        headers.append(("www-authenticate", "Bearer"))
    return error.status, headers, dumps(document).encode()
