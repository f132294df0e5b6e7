"""One agent's connection: a reader, a writer and a heartbeat in one nursery; and the ops that wait for its answers.

Posting is a sync enqueue. Every order carries the store sequence that it depends on, and the writer lets it out only
when that is on disk. The writer is never cancelled in mid-message (that would corrupt a websocket for good): closing
the transport ends it. Everything that comes in is hostile input: the codec refuses it, or `take` acts on it for the
agent's own user only.
"""

import logging
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

import trio

from jobd.config import Agents
from jobd.scopes import Notice
from jobd.store import Store
from schemas import codec
from schemas.link import MESSAGE_BYTES_MAX, Answer, Beat, Drop, Fact, Order

log = logging.getLogger(__name__)


class LinkClosed(Exception):
    """The other side is gone, or spoke nonsense."""


class Transport(Protocol):
    """A connection that carries whole text messages."""

    async def send(self, text: str) -> None:
        """Send one message; raises LinkClosed."""

    async def receive(self) -> str:
        """The next message; raises LinkClosed."""

    async def aclose(self) -> None:
        """Close it, now."""


class Link:
    """A connection whose Hello was accepted. `take` is called with each fact, in order."""

    def __init__(self, transport: Transport, store: Store, config: Agents) -> None:
        self._transport = transport
        self._store = store
        self._config = config
        self._orders: deque[tuple[int, Order]] = deque()
        self._wake = Notice()
        self._gate = 0
        self._heard = trio.current_time()
        self.welcomed = False  # its Welcome, which waits for the disk, has left
        self.answered: float | None = None  # when it said its first word after that
        self.closed = False
        self.closing = False

    def post(self, order: Order, sequence: int = 0) -> None:
        """Queue an order that depends on this store sequence. On a closed link it goes nowhere: whoever needs it is
        asked again by the next Hello."""
        if self.closed:
            return
        if len(self._orders) >= self._config.orders_max:
            log.warning("link: %d orders wait, the agent does not read: closed", self._config.orders_max)
            self.close()
        elif isinstance(order, Beat):
            if self.welcomed:  # the first word is Welcome
                self._orders.appendleft((0, order))  # a heartbeat does not
        else:
            self._orders.append((sequence, order))
        self._wake.notify()

    def close(self) -> None:
        """End the link soon; sync, from wherever."""
        self.closing = True
        self._wake.notify()

    async def run(self, take: Callable[[Fact], None]) -> None:
        """Serve until the connection ends, for whatever reason; returns, never raises but Cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, take, nursery.cancel_scope)
                nursery.start_soon(self._beat)
                # The nursery is left by closing the transport, which ends reader and writer at a message's boundary.
                await self._write()
                nursery.cancel_scope.cancel(reason="the link is closed")
        finally:
            self.closed = True
            with trio.move_on_after(self._config.close_s, shield=True):
                await self._transport.aclose()

    async def _read(self, take: Callable[[Fact], None], scope: trio.CancelScope) -> None:
        try:
            while True:
                text = await self._transport.receive()
                self._heard = trio.current_time()
                take(codec.decode(text, Fact, MESSAGE_BYTES_MAX))
        except codec.CodecError as error:
            log.warning("link: a message was refused (%s): closed", error)
        except LinkClosed as closed:
            log.debug("link: %s", closed)
        self.close()

    async def _write(self) -> None:
        try:
            while not self.closing:
                if not self._may_send():
                    await self._wake.wait()
                    continue
                _, order = self._orders.popleft()
                with trio.move_on_after(self._config.send_s, shield=True) as patience:
                    await self._transport.send(codec.encode(order))
                if patience.cancelled_caught:
                    return
                self.welcomed = True
        except LinkClosed:
            return

    def _may_send(self) -> bool:
        if not self._orders:
            return False
        sequence = self._orders[0][0]
        if sequence > max(self._store.committed, self._gate):
            self._gate = sequence  # asked for once
            self._store.notify_at(sequence, self._wake)
        return sequence <= self._store.committed

    async def _beat(self) -> None:
        count = 0
        while trio.current_time() - self._heard <= self._config.silence_s:
            count += 1
            self.post(Beat(count))
            await trio.sleep(self._config.heartbeat_s)
        log.info("link: silent for %g s: closed", self._config.silence_s)
        self.close()


class Op:
    """One message that wants an answer. Leave it (`with op:`) and the agent is told that nobody waits any more."""

    def __init__(self, op: str, ops: dict[str, "Op"], link: Link) -> None:
        self.id = op
        self.answer: Answer | None = None
        self.stream: trio.abc.Stream | None = None  # where its bytes come, when the answer announces any
        self.lost = False  # the link ended before the answer
        self.over = trio.Event()
        self._ops = ops
        self._link = link
        self._notice = Notice()

    def answered(self, answer: Answer) -> None:
        """For the link's reader: the first answer counts."""
        if self.answer is None:
            self.answer = answer
            self._notice.notify()

    def connected(self, stream: trio.abc.Stream) -> None:
        """For the gateway: the agent has connected to send the bytes."""
        if self.stream is None:
            self.stream = stream
            self._notice.notify()

    def lose(self) -> None:
        """For the fleet: no answer will come."""
        self.lost = True
        self._notice.notify()

    async def wait_answer(self) -> Answer | None:
        """The answer; None when the link was lost first."""
        while self.answer is None and not self.lost:
            await self._notice.wait()
        return self.answer

    async def wait_stream(self) -> trio.abc.Stream | None:
        """The stream of its bytes; None when the link was lost first."""
        while self.stream is None and not self.lost:
            await self._notice.wait()
        return self.stream

    def __enter__(self) -> "Op":
        self._ops[self.id] = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._ops[self.id]
        self.over.set()
        if self.answer is None:
            self._link.post(Drop(self.id))
