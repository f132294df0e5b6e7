"""Hypercorn's H11Protocol as we serve it: HTTP/1 alone, and a peer that goes is seen in any state."""

from collections.abc import Awaitable, Callable

import h11
import trio
from hypercorn.events import Closed
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.worker_context import EventWrapper


class PlainHTTP(H11Protocol):
    """HTTP/1 without its ways out to other protocols."""

    busy = False

    @property
    def is_between_requests(self) -> bool:
        """Whether the next byte begins a request: nothing of one has come yet, which h11 would hold."""
        machine = self.connection
        return not self.busy and machine.their_state is h11.IDLE and not machine.trailing_data[0]

    async def _check_protocol(self, event: h11.Request) -> None:
        """Do nothing, where Hypercorn would go over to HTTP/2."""

    async def _create_stream(self, request: h11.Request) -> None:
        method, target, version = request.method, request.target, request.http_version
        is_path = method != b"CONNECT" and target.startswith(b"/") and not target.startswith(b"//")
        # Two lengths are two opinions of where the next request begins: somebody else's can be smuggled in between.
        is_framed = not {b"content-length", b"transfer-encoding"} <= {name for name, _ in request.headers}
        is_ours = is_path and is_framed
        refused = 503 if self.busy else 505 if version not in (b"1.0", b"1.1") else None if is_ours else 400
        if refused:
            await self._send_error_response(refused)
            return await self.send(Closed())
        headers = [(name, value) for name, value in request.headers if name != b"upgrade"]
        if len(headers) < len(request.headers):  # no websockets; a server may ignore Upgrade (RFC 9110, 7.8)
            request = h11.Request(method=method, target=target, headers=headers, http_version=version)
        return await super()._create_stream(request)


class ReadAhead(EventWrapper):
    """H11Protocol waits for this while h11 is paused by a pipelined request; stock would not see the peer go."""

    def __init__(self, read_ahead: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._read_ahead = read_ahead

    async def wait(self) -> None:
        """Until h11 goes on."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_ahead)
            await super().wait()
            nursery.cancel_scope.cancel()
