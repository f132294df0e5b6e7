"""One request and its reply: what is repeated and for how long, and how a stream that broke goes on.

What is safe to repeat is repeated while jobd restarts. The rest is repeated only while it cannot have been heard (no
connection came about); after that nobody can tell whether it was done, and that is what UncertainError says.
"""

import hashlib
import json
import os
import secrets
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import attrs
import httpx
from attrs import define, frozen

from jobd.client.wire import (
    CONNECT_S,
    JobdClientError,
    ProblemError,
    Source,
    UncertainError,
    UnreachableError,
    Wire,
)
from schemas import codec

T = TypeVar("T")

RETRY_S = 0.1
RETRY_S_MAX = 2.0
ANSWER_S = 150.0  # jobd's own deadlines end before; an event stream says every 15 s that it is there
REPLY_BYTES_MAX = 64 << 20
ANSWER_BYTES_MAX = 256 << 20  # of an analysis worker
RESTARTING = ("shutting_down", "store_unavailable")
PROXYS = (502, 503, 504)  # said without a code of ours: jobd is behind a proxy, and down
OURS = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)  # the request cannot be sent at all
UNHEARD = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@frozen
class Reply:
    """A reply with all of its body."""

    status: int
    headers: httpx.Headers
    body: bytes = attrs.field(repr=False)


@frozen
class Answer:
    """What an analysis worker answered: JSON, or bytes of another type with something said beside them."""

    type: str
    content: bytes = attrs.field(repr=False)
    serial: int | None
    meta: Any = None

    def json(self) -> Any:
        """The answer as plain data."""
        with sound("answer"):
            return json.loads(self.content)


class Interrupted(Exception):
    """A stream broke off; it can go on where it ended."""


@define
class _Patience:
    """The pauses between the attempts of one request, from its first failure on."""

    wire: Wire
    left_s: float
    pause_s: float = RETRY_S
    since: float | None = None

    async def pause(self, reason: Exception) -> None:
        """Wait a little; raises UnreachableError when it has lasted too long."""
        now = time.monotonic()
        if self.since is None:
            self.since = now - (ANSWER_S if isinstance(reason, httpx.ReadTimeout) else 0.0)
        if now - self.since >= self.left_s:
            raise UnreachableError(f"jobd did not answer for {self.left_s:g} s: {reason!r}") from reason
        await self.wire.sleep(self.pause_s)
        self.pause_s = min(RETRY_S_MAX, 2 * self.pause_s)


class Exchange:
    """The ways to ask; `Api` has the words."""

    def __init__(self, wire: Wire, patience_s: float) -> None:
        self._wire = wire
        self._patience_s = patience_s

    def _patience(self) -> _Patience:
        return _Patience(self._wire, self._patience_s)

    async def _open(
        self, method: str, path: str, *, repeat: bool = True, source: Source | None = None, **options: Any
    ) -> httpx.Response:
        """A successful reply whose body is still to be read, and to be closed."""
        patience = self._patience()
        options.setdefault("timeout", timeout(ANSWER_S))
        while True:
            content = {} if source is None else {"content": self._wire.content(source)}
            try:
                reply = await self._wire.send(method, path, **options, **content)
                if reply.is_success or reply.status_code == httpx.codes.NOT_MODIFIED:
                    return reply
                problem = ProblemError.of(reply.status_code, (await self._whole(reply, REPLY_BYTES_MAX)).body)
            except OURS as error:
                raise JobdClientError(f"{method} {path} cannot be sent: {error}") from error
            except httpx.TransportError as error:
                if not repeat and not isinstance(error, UNHEARD):
                    raise _uncertain(method, path, error) from error
                await patience.pause(error)
            else:
                if not _restarting(problem):
                    raise problem
                if not repeat:  # it may have been under way when jobd began to stop
                    raise _uncertain(method, path, problem) from problem
                await patience.pause(problem)

    async def _ask(
        self, method: str, path: str, *, repeat: bool = True, bytes_max: int = REPLY_BYTES_MAX, **options: Any
    ) -> Reply:
        """A successful reply, whole."""
        patience = self._patience()
        while True:
            reply = await self._open(method, path, repeat=repeat, **options)
            try:
                return await self._whole(reply, bytes_max)
            except httpx.TransportError as error:
                if not repeat:
                    raise _uncertain(method, path, error) from error
                await patience.pause(error)

    async def _whole(self, reply: httpx.Response, bytes_max: int) -> Reply:
        """Read the body; raises JobdClientError when it is larger than this."""
        gathered = bytearray()
        try:
            async with aclosing(self._wire.pieces(reply)) as pieces:
                async for piece in pieces:
                    gathered += piece
                    if len(gathered) > bytes_max:
                        raise JobdClientError(f"jobd's reply is larger than {bytes_max} bytes")
        finally:
            await self._wire.close_reply(reply)
        return Reply(reply.status_code, reply.headers, bytes(gathered))

    async def _get(self, kind: type[T], method: str, path: str, **options: Any) -> T:
        """The reply as a class of schemas.views."""
        return decoded(await self._ask(method, path, **options), kind)

    async def _answer(self, method: str, path: str, **options: Any) -> Answer:
        reply = await self._ask(method, path, bytes_max=ANSWER_BYTES_MAX, **options)
        serial, meta = reply.headers.get("jobd-serial"), reply.headers.get("jobd-meta")
        kind = reply.headers.get("content-type", "")
        with sound("answer"):
            return Answer(kind, reply.body, int(serial) if serial else None, json.loads(meta) if meta else None)

    async def _pieces(self, path: str, **options: Any) -> AsyncGenerator[bytes, None]:
        """A body as it comes; raises Interrupted when it breaks off."""
        reply = await self._open("GET", path, **options)
        try:
            async with aclosing(self._wire.pieces(reply)) as pieces:
                async for piece in pieces:
                    yield piece
        except httpx.TransportError as error:
            await self._wire.sleep(RETRY_S)
            raise Interrupted from error
        finally:
            await self._wire.close_reply(reply)

    async def _download(self, path: str, to: Path, params: Mapping[str, Any]) -> int:
        """Write a body to a file, which appears when it is whole; returns its bytes."""
        part = to.with_name(f".{secrets.token_hex(8)}.part")  # of this download alone
        file = await self._wire.hop(open, part, "xb")
        try:
            async with aclosing(self._resumed(path, params)) as pieces:
                async for piece in pieces:
                    await self._wire.hop(file.write, piece)
            size: int = file.tell()
            await self._wire.hop(file.close)
            await self._wire.hop(os.replace, part, to)
        finally:
            file.close()
            part.unlink(missing_ok=True)
        return size

    async def _resumed(self, path: str, params: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        """A body over lost connections; of a file that grows, what was there at first."""
        got, total, tag, params, patience = 0, -1, None, dict(params), self._patience()
        while got != total:
            headers = {} if total < 0 else {"range": f"bytes={got}-{total - 1}"}
            reply = await self._open("GET", path, params=params, headers=headers)
            try:
                if total < 0:
                    total, tag = _length(reply), reply.headers.get("etag")
                    params |= given(serial=reply.headers.get("jobd-serial"))
                elif tag != reply.headers.get("etag") or not _goes_on(reply, got, total):
                    raise JobdClientError(f"{path} was replaced while it was downloaded")
                async with aclosing(self._wire.pieces(reply)) as pieces:
                    async for piece in pieces:
                        got, patience = got + len(piece), self._patience()
                        yield piece
            except httpx.TransportError as error:
                await patience.pause(error)
            finally:
                await self._wire.close_reply(reply)


def _restarting(problem: ProblemError) -> bool:
    return problem.code in RESTARTING or (problem.code == "unknown" and problem.status in PROXYS)


def _uncertain(method: str, path: str, error: Exception) -> UncertainError:
    return UncertainError(f"{method} {path} may have been done, or not: {error!r}")


def _length(reply: httpx.Response) -> int:
    """The bytes that the body is to have; raises JobdClientError."""
    with sound("download"):
        return int(reply.headers["content-length"])


def _goes_on(reply: httpx.Response, got: int, total: int) -> bool:
    """Whether this is the rest of a body: a server or proxy that knows no ranges answers with the whole."""
    span = reply.headers.get("content-range", "")
    return reply.status_code == httpx.codes.PARTIAL_CONTENT and span.startswith(f"bytes {got}-{total - 1}/")


@contextmanager
def sound(what: str) -> Iterator[None]:
    """What cannot be read in here is a JobdClientError."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise JobdClientError(f"jobd's {what} cannot be read: {error!r}") from None


def timeout(silence_s: float) -> httpx.Timeout:
    """Of a request that may be silent for so long."""
    return httpx.Timeout(silence_s, connect=CONNECT_S)


def given(**fields: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def decoded(reply: Reply, kind: type[T]) -> T:
    """The reply as `kind`; raises JobdClientError for what is none."""
    try:
        value: T = codec.decode(reply.body, kind, REPLY_BYTES_MAX)
    except codec.CodecError as error:
        raise JobdClientError(f"jobd's reply is no {kind.__name__}: {error}") from None
    return value


def digest(source: Source) -> str:
    """SHA-256 of what is to be sent."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
