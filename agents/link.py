"""The link: one websocket to jobd at a time, dialled again for as long as the agent lives.

The runs do not notice whether it is up. What must arrive is in the outbox and is sent again on the next connection;
what is posted without a connection is dropped, because the Hello of the next one says the same. An op lives in its
connection and dies with it. Per connection there is one reader, which never waits for work, and one writer; a
connection is never closed politely, because after a cancelled send only closing the stream is right.
"""

import logging
import random
import typing
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio
import trio_websocket

from agents.dial import Way
from agents.outbox import Outbox
from schemas import codec
from schemas.link import (
    ALPN_LINK,
    MESSAGE_BYTES_MAX,
    PROTOCOL,
    PROTOCOL_MIN,
    Ack,
    Analyse,
    Answer,
    Beat,
    Compute,
    Drop,
    End,
    Fact,
    Hello,
    List,
    Order,
    Read,
    Welcome,
)
from schemas.setups import AgentSetup

RESOURCE = "/v1/agent"
HANDSHAKE_S_MAX = 10.0
RECONNECT_S_MIN = 0.05
MESSAGES_QUEUED_MAX = 256
OPS_MAX = 100

log = logging.getLogger(__name__)

Op = Analyse | Compute | Read | List  # the orders that are answered


class RefusedError(Exception):
    """jobd does not want this agent: its token is not valid (any more)."""


class LinkLostError(Exception):
    """This connection cannot go on; the next may."""


class Owner(Protocol):
    """Whoever the link brings orders to: the agent."""

    def hello(self) -> Hello:
        """The first message of a connection, as of now."""

    def welcomed(self, welcome: Welcome) -> None:
        """A connection is up."""

    def obey(self, order: Order) -> None:
        """Take an order that is not an op; must not block."""

    async def serve(self, op: Op) -> None:
        """Work on an op; cancelled when nobody waits for it any more."""


class Link:
    """Keeps a connection to jobd."""

    def __init__(self, setup: AgentSetup, way: Way, outbox: Outbox, owner: Owner) -> None:
        self.down_since: float | None = trio.current_time()  # None while it is up
        self._setup = setup
        self._way = way
        self._outbox = outbox
        self._owner = owner
        self._connection: Connection | None = None
        self._up = trio.Event()

    async def stay(self) -> End:
        """Dial, and dial again, until jobd says End; raises RefusedError when it does not know us."""
        pause_s = RECONNECT_S_MIN
        while True:
            try:
                stream = await self._way.dial(ALPN_LINK)
            except (OSError, trio.TooSlowError) as error:
                log.debug("no jobd: %s", error)
            else:
                connection = Connection(stream, self._setup, self._outbox, self._owner)
                async with stream:
                    cause = await connection.live(self._way.token(), self._went_up)
                if self._went_down():
                    pause_s = RECONNECT_S_MIN
                if isinstance(cause, End):
                    return cause
                if isinstance(cause, RefusedError):
                    raise cause
                log.info("link lost: %s", cause)
            await trio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause_s = min(2 * pause_s, self._setup.reconnect_s_max)

    async def wait_up(self) -> None:
        """Until there is a connection that jobd has welcomed."""
        while self._connection is None:
            await self._up.wait()

    def post(self, fact: Fact) -> None:
        """Send a fact that need not arrive."""
        if self._connection is not None:
            self._connection.post(fact)

    async def answer(self, answer: Answer) -> None:
        """Send the answer to an op, from the op's own task."""
        if self._connection is not None:
            await self._connection.send(answer)

    def _went_up(self, connection: "Connection") -> None:
        self._connection = connection
        self.down_since = None
        self._up.set()

    def _went_down(self) -> bool:
        was_up = self._connection is not None
        if was_up:
            self._connection = None
            self._up = trio.Event()
            self.down_since = trio.current_time()
        return was_up


class Connection:
    """One connection from its handshake to its loss."""

    def __init__(self, stream: trio.abc.Stream, setup: AgentSetup, outbox: Outbox, owner: Owner) -> None:
        self._stream = stream
        self._setup = setup
        self._outbox = outbox
        self._owner = owner
        self._cause: End | Exception = LinkLostError("it was cancelled")
        self._silence = trio.CancelScope()  # its deadline moves on with every Beat
        self._ops: dict[str, trio.CancelScope] = {}
        self._queue, self._queued = trio.open_memory_channel[str](MESSAGES_QUEUED_MAX)

    async def live(self, token: str, went_up: Callable[["Connection"], None]) -> End | Exception:
        """The whole life; returns why it ended."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._contain, lambda: self._converse(token, went_up))
        return self._cause

    async def send(self, fact: Fact) -> None:
        """Queue a fact, waiting while the queue is full."""
        await self._queue.send(codec.encode(fact))

    def post(self, fact: Fact) -> None:
        """Queue a fact, or drop it if jobd does not read."""
        try:
            self._queue.send_nowait(codec.encode(fact))
        except (trio.WouldBlock, trio.BrokenResourceError):
            log.debug("dropped a %s", type(fact).__name__)

    def start_soon(self, task: Callable[[], Awaitable[object]]) -> None:
        """Run a part of this connection; trio_websocket starts its reader so, taking us for a nursery."""
        self._nursery.start_soon(self._contain, task)

    async def _contain(self, task: Callable[[], Awaitable[object]]) -> None:
        """Whatever part ends, ends the connection; the first cause counts."""
        cause: End | Exception = LinkLostError("the connection was closed")
        try:
            await task()
        except trio_websocket.ConnectionRejected as error:
            refused = error.status_code in (401, 403)
            cause = (RefusedError if refused else LinkLostError)(f"jobd answered {error.status_code}")
        except (trio_websocket.ConnectionClosed, trio_websocket.HandshakeError, OSError) as error:
            cause = LinkLostError(repr(error))
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            cause = LinkLostError(repr(error))
        except codec.CodecError as error:
            cause = LinkLostError(f"jobd sent a malformed order: {error}")
        except (LinkLostError, _EndedByJobd) as error:
            cause = error.end if isinstance(error, _EndedByJobd) else error
        if not self._nursery.cancel_scope.cancel_called:
            self._cause = cause
            self._nursery.cancel_scope.cancel()

    async def _converse(self, token: str, went_up: Callable[["Connection"], None]) -> None:
        with trio.fail_after(HANDSHAKE_S_MAX):
            self._websocket = await trio_websocket.wrap_client_stream(
                typing.cast(trio.Nursery, self),
                typing.cast(trio.SocketStream, self._stream),
                "jobd",
                RESOURCE,
                extra_headers=[(b"Authorization", b"Bearer " + token.encode())],
                max_message_size=MESSAGE_BYTES_MAX,
                receive_buffer_size=65536,
            )
            await self._websocket.send_message(codec.encode(self._owner.hello()))
            order = await self._receive()
        if isinstance(order, End):
            raise _EndedByJobd(order)
        if not isinstance(order, Welcome):
            raise LinkLostError(f"jobd began with {type(order).__name__}")
        if not PROTOCOL_MIN <= order.protocol <= PROTOCOL:
            raise LinkLostError(f"jobd wants protocol {order.protocol}")
        self._silence.deadline = trio.current_time() + self._setup.silence_s
        self._outbox.ack(order.acked)
        went_up(self)
        self._owner.welcomed(order)
        for part in (self._write, lambda: self._send_facts(order.acked), self._watch_silence):
            self.start_soon(part)
        while True:
            self._dispatch(await self._receive())

    async def _receive(self) -> Order:
        message = await self._websocket.get_message()
        order: Order = codec.decode(message, Order, MESSAGE_BYTES_MAX)
        return order

    def _dispatch(self, order: Order) -> None:
        if isinstance(order, Beat):
            self._silence.deadline = trio.current_time() + self._setup.silence_s
            self.post(order)
        elif isinstance(order, Ack):
            self._outbox.ack(order.number)
        elif isinstance(order, Drop):
            if order.op in self._ops:
                self._ops[order.op].cancel()
        elif isinstance(order, End):
            raise _EndedByJobd(order)
        elif isinstance(order, Op):
            self._begin_op(order)
        else:
            self._owner.obey(order)

    def _begin_op(self, op: Op) -> None:
        if op.op in self._ops:
            return  # it was sent again
        if len(self._ops) >= OPS_MAX:
            self.post(Answer(op.op, error="busy", text="the agent has too much to answer"))
            return
        self._ops[op.op] = trio.CancelScope()
        self._nursery.start_soon(self._serve, op)

    async def _serve(self, op: Op) -> None:
        with self._ops[op.op]:
            await self._owner.serve(op)
        del self._ops[op.op]

    async def _write(self) -> None:
        async for message in self._queued:
            await self._websocket.send_message(message)

    async def _send_facts(self, sent: int) -> None:
        while True:
            grown = self._outbox.grown
            for fact in self._outbox.after(sent):
                await self.send(fact)
                sent = fact.number
            await grown.wait()

    async def _watch_silence(self) -> None:
        with self._silence:
            await trio.sleep_forever()
        raise LinkLostError(f"no heartbeat for {self._setup.silence_s:g} s")


class _EndedByJobd(Exception):
    def __init__(self, end: End) -> None:
        super().__init__(end.reason)
        self.end = end
