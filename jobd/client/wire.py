"""The two ways to HTTP: one that blocks the thread, one that awaits Trio. Both look the same to `Api`.

The methods of BlockingWire are coroutines that never suspend, so that a thread without an event loop can run them to
their end (sync.py).
"""

import json
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import httpx
import trio

T = TypeVar("T")

PIECE_BYTES = 256 * 1024
CONNECT_S = 5.0
Source = Path | bytes


class JobdClientError(Exception):
    """The root of what the client raises."""


class ProblemError(JobdClientError):
    """jobd refused: `code` is stable (docs/faults.md), `status` the HTTP status, `document` the whole problem."""

    def __init__(self, status: int, document: Mapping[str, Any]) -> None:
        self.status = status
        self.code = str(document.get("code", "unknown"))
        self.document = document
        field = f" (field: {document['field']})" if document.get("field") else ""
        title, detail = str(document.get("title", "The request failed.")), str(document.get("detail", ""))
        super().__init__(f"{title if detail.startswith(title) else f'{title} {detail}'.strip()}{field}")

    @classmethod
    def of(cls, status: int, body: bytes) -> "ProblemError":
        """From a reply."""
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            document = None
        return cls(status, document if isinstance(document, dict) else {"title": f"HTTP status {status}."})


class UnreachableError(JobdClientError):
    """jobd did not answer for `patience_s`. What was asked may have been done only where repeating it does no harm."""


class UncertainError(JobdClientError):
    """The connection was lost over a request that must not be repeated: it may have been done, or not."""


class Wire(Protocol):
    """What `Api` needs of HTTP, files and time."""

    async def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request (options of httpx's build_request); the body of the reply is still to be read."""

    def pieces(self, reply: httpx.Response) -> AsyncGenerator[bytes, None]:
        """The body as it comes, never decoded: a small body cannot grow here, and ranges count what was sent."""

    def content(self, source: Source) -> Any:
        """A body to send."""

    async def close_reply(self, reply: httpx.Response) -> None:
        """No more of it is wanted."""

    async def hop(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call what may block on a disk."""

    async def sleep(self, seconds: float) -> None:
        """Pause."""

    async def close(self) -> None:
        """End all connections."""


class BlockingWire:
    """See Wire."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    async def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self._http.send(self._http.build_request(method, path, **options), stream=True)

    async def pieces(self, reply: httpx.Response) -> AsyncGenerator[bytes, None]:
        for piece in reply.iter_raw():
            yield piece

    def content(self, source: Source) -> Any:
        return source if isinstance(source, bytes) else _read(source)

    async def close_reply(self, reply: httpx.Response) -> None:
        reply.close()

    async def hop(self, function: Callable[..., T], *arguments: Any) -> T:
        return function(*arguments)

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - there is no loop here that this could block

    async def close(self) -> None:
        self._http.close()


class TrioWire:
    """See Wire."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self._http.send(self._http.build_request(method, path, **options), stream=True)

    async def pieces(self, reply: httpx.Response) -> AsyncGenerator[bytes, None]:
        async with aclosing(cast(AsyncGenerator[bytes, None], reply.aiter_raw())) as pieces:
            async for piece in pieces:
                yield piece

    def content(self, source: Source) -> Any:
        return source if isinstance(source, bytes) else _read_in_threads(source)

    async def close_reply(self, reply: httpx.Response) -> None:
        with trio.move_on_after(CONNECT_S, shield=True):
            await reply.aclose()

    async def hop(self, function: Callable[..., T], *arguments: Any) -> T:
        return await trio.to_thread.run_sync(function, *arguments)

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def close(self) -> None:
        await self._http.aclose()


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


async def _read_in_threads(path: Path) -> AsyncGenerator[bytes, None]:
    async with await trio.open_file(path, "rb") as file:
        while piece := await file.read(PIECE_BYTES):
            yield piece
