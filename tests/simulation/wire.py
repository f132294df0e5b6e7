"""Connections in memory that carry whole text messages, and fail as networks do: cut, half-open, stalled, slow.

The two ends of a `Wire` implement jobd.link.Transport. What was sent before a polite close still arrives; what was in
flight when the wire was cut does not.
"""

from collections import deque
from collections.abc import Callable

import trio

from jobd.link import LinkClosed

from .universe import Universe

PIPE_MESSAGES_MAX = 200


class Pipe:
    """One direction."""

    def __init__(self, universe: Universe, latency_s: float) -> None:
        self._universe = universe
        self._latency_s = latency_s
        self._messages: deque[tuple[float, str]] = deque()
        self._changed = trio.lowlevel.ParkingLot()
        self._newest = 0.0
        self.ended = False  # politely: what was sent before still arrives
        self.broken = False
        self.swallows = False  # half-open: taken, and never seen again
        self.stalled_until = 0.0

    async def send(self, text: str) -> None:
        """Blocks while the pipe is full."""
        await trio.lowlevel.checkpoint()
        while len(self._messages) >= PIPE_MESSAGES_MAX and not (self.ended or self.broken):
            await self._changed.park()
        if self.ended or self.broken:
            raise LinkClosed("the connection is closed")
        if not self.swallows:
            delay_s = self._universe.up_to(self._latency_s)
            self._newest = max(self._newest, trio.current_time() + delay_s, self.stalled_until)
            self._messages.append((self._newest, text))
            self._changed.unpark_all()

    async def receive(self) -> str:
        """The next message, when it has arrived."""
        while True:
            await trio.lowlevel.checkpoint()
            if self.broken or (self.ended and not self._messages):
                raise LinkClosed("the connection is closed")
            if not self._messages:
                await self._changed.park()
                continue
            arrives = max(self._messages[0][0], self.stalled_until)
            if arrives > trio.current_time():
                with trio.move_on_at(arrives):
                    await self._changed.park()
                continue
            self._changed.unpark_all()
            return self._messages.popleft()[1]

    def end(self) -> None:
        """Close it politely; a half-open one says nothing to the other side."""
        if not self.swallows:
            self.ended = True
            self._changed.unpark_all()

    def cut(self) -> None:
        """Now, and what is in flight is lost."""
        self.broken = True
        self._messages.clear()
        self._changed.unpark_all()

    def wake(self) -> None:
        """Whoever waits looks again."""
        self._changed.unpark_all()


class End:
    """One side of a wire, as a Transport."""

    def __init__(self, inward: Pipe, outward: Pipe) -> None:
        self._inward = inward
        self._outward = outward
        self.closed = False
        self.sent: Callable[[str], None] = lambda _text: None
        self.received: Callable[[str], None] = lambda _text: None

    async def send(self, text: str) -> None:
        """Send one message; raises LinkClosed."""
        if self.closed:
            raise LinkClosed("closed here")
        await self._outward.send(text)
        self.sent(text)

    async def receive(self) -> str:
        """The next message; raises LinkClosed."""
        if self.closed:
            raise LinkClosed("closed here")
        text = await self._inward.receive()
        if self.closed:
            raise LinkClosed("closed here")
        self.received(text)
        return text

    async def aclose(self) -> None:
        """Close it, now."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Nothing is sent or received here any more; the other side notices, unless the wire is half-open."""
        self.closed = True
        self._outward.end()
        self._inward.ended = True
        self._inward.wake()


class Wire:
    """One connection between jobd and an agent."""

    def __init__(self, universe: Universe) -> None:
        latency_s = universe.climate.latency_s
        self._pipes = Pipe(universe, latency_s), Pipe(universe, latency_s)
        self.jobd = End(*self._pipes)
        self.agent = End(*reversed(self._pipes))

    @property
    def over(self) -> bool:
        """Both sides have left it."""
        return self.jobd.closed and self.agent.closed

    def cut(self) -> None:
        """Both sides notice at their next send or receive."""
        for pipe in self._pipes:
            pipe.cut()

    def half_open(self, directions: tuple[bool, bool]) -> None:
        """Swallow everything in these directions: to jobd, to the agent. Nobody is told."""
        for pipe, swallows in zip(self._pipes, directions, strict=True):
            pipe.swallows = pipe.swallows or swallows

    def stall(self, seconds: float) -> None:
        """Nothing arrives for so long; nothing is lost."""
        for pipe in self._pipes:
            pipe.stalled_until = trio.current_time() + seconds
