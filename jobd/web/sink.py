"""An answer as an HTTP response, piece by piece as the client takes it."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from jobd.delivery import Head
from jobd.errors import JobdError, RangeNotSatisfiable
from jobd.web.calls import problem

META_CHARS_MAX = 2000  # what is said beside the bytes of an answer is left out when it is longer


class AsgiSink:
    """Sends an answer as an HTTP response, piece by piece as the client takes it."""

    def __init__(self, send: Callable[[dict[str, Any]], Awaitable[None]], status: int = 200) -> None:
        self._send = send
        self.status = status
        self.headers: list[tuple[str, str]] = []
        self.offset: int | None = None  # where the range begins that was asked for
        self.begun = self.ended = False
        self._head: tuple[int, list[tuple[str, str]]] | None = None  # goes with the first piece

    async def begin(self, head: Head) -> None:
        """Status and headers; raises RangeNotSatisfiable. Until the first piece comes it can still be refused."""
        if self.offset is not None and head.bytes == 0:
            raise RangeNotSatisfiable
        headers = [*self.headers]
        if head.type:
            headers.append(("content-type", head.type))
        if head.serial:
            headers.append(("jobd-serial", str(head.serial)))
        if head.bytes >= 0 and self.status != 304:
            headers.append(("content-length", str(head.bytes)))
        if self.offset is not None:
            self.status = 206
            # The file may be growing, so its whole length is not said.
            headers.append(("content-range", f"bytes {self.offset}-{self.offset + head.bytes - 1}/*"))
        meta = "" if head.meta is None else json.dumps(head.meta)  # ASCII, as a header must be
        if 0 < len(meta) <= META_CHARS_MAX:
            headers.append(("jobd-meta", meta))
        self._head = self.status, headers
        if head.bytes < 0:
            await self.write(b"")  # what follows may take its time

    async def write(self, data: bytes) -> None:
        """Send a piece; returns when there is room for more."""
        await self._flush()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """The body is complete."""
        self.ended = True
        await self._flush()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def refuse(self, error: JobdError) -> None:
        """Answer with a problem document."""
        status, headers, document = problem(error)
        await self.whole(status, headers, document)

    async def whole(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """The answer in one piece."""
        if status not in (204, 304):
            headers.append(("content-length", str(len(body))))
        self.ended = True
        await self._start(status, headers)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _flush(self) -> None:
        if self._head is not None:
            await self._start(*self._head)

    async def _start(self, status: int, headers: list[tuple[str, str]]) -> None:
        self.begun, self.status, self._head = True, status, None
        raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})
