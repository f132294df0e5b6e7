"""One request and its reply: what is repeated and for how long, and how a stream that broke goes on.

What is safe to repeat is repeated while jobd restarts. The rest is repeated only while it cannot have been heard (no
connection came about); after that nobody can tell whether it was done, and that is what UncertainError says.
"""

import hashlib
import json
import os
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
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
RESTARTING = ("shutting_down", "store_unavailable")
UNHEARD = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@frozen
class Answer:
    """What an analysis worker answered: JSON, or bytes of another type with something said beside them."""

    type: str
    content: bytes = attrs.field(repr=False)
    serial: int | None
    meta: Any = None

    def json(self) -> Any:
        """The answer as plain data."""
        return json.loads(self.content)


class Interrupted(Exception):
    """A stream broke off; it can go on where it ended."""


@define
class _Patience:
    """The pauses between the attempts of one request."""

    wire: Wire
    left_s: float
    pause_s: float = RETRY_S
    began: float = attrs.field(factory=time.monotonic)

    async def pause(self, reason: Exception) -> None:
        """Wait a little; raises UnreachableError when it has lasted too long."""
        if time.monotonic() - self.began > self.left_s:
            raise UnreachableError(f"jobd did not answer for {self.left_s:g} s: {reason}") from reason
        await self.wire.sleep(self.pause_s)
        self.pause_s = min(RETRY_S_MAX, 2 * self.pause_s)


class Exchange:
    """The ways to ask; `Api` has the words."""

    def __init__(self, wire: Wire, patience_s: float) -> None:
        self._wire = wire
        self._patience_s = patience_s

    async def _open(
        self, method: str, path: str, *, repeat: bool = True, source: Source | None = None, **options: Any
    ) -> httpx.Response:
        """A successful reply whose body is still to be read, and to be closed."""
        patience = _Patience(self._wire, self._patience_s)
        options.setdefault("timeout", timeout(ANSWER_S))
        while True:
            content = {} if source is None else {"content": self._wire.content(source)}
            try:
                reply = await self._wire.send(method, path, **options, **content)
                if reply.is_success or reply.status_code == httpx.codes.NOT_MODIFIED:
                    return reply
                problem = ProblemError.of(reply.status_code, await self._wire.read(reply))
            except httpx.TransportError as error:
                if not repeat and not isinstance(error, UNHEARD):
                    raise UncertainError(f"{method} {path} may have been done, or not: {error!r}") from error
                await patience.pause(error)
            else:
                if not repeat or problem.code not in RESTARTING:
                    raise problem
                await patience.pause(problem)

    async def _ask(self, method: str, path: str, *, repeat: bool = True, **options: Any) -> httpx.Response:
        """A successful reply, whole."""
        patience = _Patience(self._wire, self._patience_s)
        while True:
            reply = await self._open(method, path, repeat=repeat, **options)
            try:
                await self._wire.read(reply)
            except httpx.TransportError as error:
                if not repeat:
                    raise UncertainError(f"the answer to {method} {path} was lost: {error!r}") from error
                await patience.pause(error)
            else:
                return reply

    async def _get(self, kind: type[T], method: str, path: str, **options: Any) -> T:
        """The reply as a class of schemas.views."""
        return decoded(await self._ask(method, path, **options), kind)

    async def _answer(self, method: str, path: str, **options: Any) -> Answer:
        reply = await self._ask(method, path, **options)
        serial, meta = reply.headers.get("jobd-serial"), reply.headers.get("jobd-meta")
        kind = reply.headers.get("content-type", "")
        return Answer(kind, reply.content, int(serial) if serial else None, json.loads(meta) if meta else None)

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
        part = to.with_name(f"{to.name}.part")
        file = await self._wire.hop(open, part, "wb")
        try:
            async with aclosing(self._resumed(path, params)) as pieces:
                async for piece in pieces:
                    await self._wire.hop(file.write, piece)
            await self._wire.hop(file.close)
            await self._wire.hop(os.replace, part, to)
        finally:
            file.close()
            part.unlink(missing_ok=True)
        return to.stat().st_size

    async def _resumed(self, path: str, params: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        """A body over lost connections; of a file that grows, what was there at first."""
        got, total, tag, params = 0, None, None, dict(params)
        while total is None or got < total:
            headers = given(range=None if total is None else f"bytes={got}-{total - 1}")
            reply = await self._open("GET", path, params=params, headers=headers)
            try:
                if total is None:
                    total, tag = int(reply.headers["content-length"]), reply.headers.get("etag")
                    params |= given(serial=reply.headers.get("jobd-serial"))
                elif tag != reply.headers.get("etag"):
                    raise JobdClientError(f"{path} was replaced while it was downloaded")
                async with aclosing(self._wire.pieces(reply)) as pieces:
                    async for piece in pieces:
                        got += len(piece)
                        yield piece
            except httpx.TransportError:
                await self._wire.sleep(RETRY_S)
            finally:
                await self._wire.close_reply(reply)


def timeout(silence_s: float) -> httpx.Timeout:
    """Of a request that may be silent for so long."""
    return httpx.Timeout(silence_s, connect=CONNECT_S)


def given(**fields: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def decoded(reply: httpx.Response, kind: type[T]) -> T:
    """The reply as `kind`; raises JobdClientError for what is none."""
    try:
        value: T = codec.decode(reply.content, kind, REPLY_BYTES_MAX)
    except codec.CodecError as error:
        raise JobdClientError(f"jobd's reply is no {kind.__name__}: {error}") from None
    return value


def digest(source: Source) -> str:
    """SHA-256 of what is to be sent."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
