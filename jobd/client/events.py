"""Server-sent events, as jobd sends them."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from attrs import frozen

from jobd.client.exchange import sound
from jobd.client.wire import JobdClientError
from schemas import codec
from schemas.views import RunView

EVENT_BYTES_MAX = 8 << 20


@frozen
class Event:
    """One server-sent event. A `stage` has a number, counted over all runs of the job, and is sent exactly once;
    a `status` is a RunView, the latest."""

    name: str
    number: int | None
    data: Any

    @property
    def status(self) -> RunView | None:
        """The status, if it is one."""
        with sound("event"):
            return codec.from_data(self.data, RunView) if self.name == "status" else None


async def parse(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[Event, None]:
    """Server-sent events (WHATWG HTML 9.2) as jobd sends them: lines end with LF, one `data` line each."""
    fields: dict[str, str] = {}
    rest = b""
    async with aclosing(pieces):
        async for piece in pieces:
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line:
                    name, _, value = line.decode(errors="replace").partition(":")
                    fields[name] = value.removeprefix(" ")
                elif "data" in fields:
                    with sound("event"):
                        event = _event(fields)
                    yield event
                    fields = {}
            if len(rest) + sum(map(len, fields.values())) > EVENT_BYTES_MAX:
                raise JobdClientError(f"an event is larger than {EVENT_BYTES_MAX} bytes")


def _event(fields: dict[str, str]) -> Event:
    number = fields.get("id")
    return Event(fields.get("event", ""), int(number) if number else None, json.loads(fields["data"]))
