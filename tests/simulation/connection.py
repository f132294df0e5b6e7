"""One connection of a fake agent, from Hello to its loss: a reader, a writer, the durable facts, and the silence."""

import contextlib
from collections import deque
from typing import TYPE_CHECKING

import trio

from jobd.link import LinkClosed
from jobd.scopes import Notice
from schemas import codec
from schemas.link import (
    MESSAGE_BYTES_MAX,
    Ack,
    Analyse,
    Answer,
    Beat,
    Compute,
    Drop,
    End,
    Fact,
    Order,
    Remove,
    Start,
    Stop,
    Welcome,
)

from .wire import End as WireEnd

if TYPE_CHECKING:
    from .agent import FakeAgent

HANDSHAKE_S_MAX = 10.0


class Connection:
    """One connection, from Hello to its loss."""

    def __init__(self, agent: "FakeAgent", wire: WireEnd) -> None:
        self.welcomed = False
        self.ended = False
        self._agent = agent
        self._wire = wire
        self._outward: deque[Fact] = deque()
        self._wake = Notice()
        self._heard = 0.0
        self._ops: dict[str, trio.CancelScope] = {}

    async def live(self) -> None:
        """Returns when it is lost."""
        with contextlib.suppress(LinkClosed, trio.TooSlowError):
            with trio.fail_after(HANDSHAKE_S_MAX):
                await self._wire.send(codec.encode(self._agent.hello()))
                order = await self._receive()
            if isinstance(order, End):
                self.ended = True
                return
            universe = self._agent.machine.universe
            if not isinstance(order, Welcome):
                universe.violate(f"jobd began with {order}")
                return
            await self._converse(order)

    async def _converse(self, welcome: Welcome) -> None:
        agent = self._agent
        self.welcomed, agent.connection, self._heard = True, self, trio.current_time()
        agent.journal.ack(welcome.acked)
        for epoch in welcome.stop:
            agent.stop(epoch, 0.0)
        agent.up.notify()
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._write)
            self._nursery.start_soon(self._send_facts, welcome.acked)
            self._nursery.start_soon(self._watch_silence)
            with contextlib.suppress(LinkClosed):
                while not self.ended:
                    self._take(await self._receive())
            self._nursery.cancel_scope.cancel()

    def queue(self, fact: Fact) -> None:
        """To be sent, in order."""
        self._outward.append(fact)
        self._wake.notify()

    def _take(self, order: Order) -> None:
        if isinstance(order, Beat):
            self._heard = trio.current_time()
            self.queue(order)
        elif isinstance(order, Ack):
            self._agent.journal.ack(order.number)
        elif isinstance(order, End):
            self.ended = True
        elif isinstance(order, Drop):
            if order.op in self._ops:
                self._ops[order.op].cancel()
        elif isinstance(order, Analyse | Compute):
            self._nursery.start_soon(self._answer, order)
        elif isinstance(order, Remove):
            self._agent.nursery.start_soon(self._agent.remove, order.epoch)
        elif isinstance(order, Start | Stop):
            self._agent.obey(order)
        else:
            self._agent.machine.universe.violate(f"jobd sent {order} to an agent that was welcomed")

    async def _answer(self, op: Analyse | Compute) -> None:
        chance = self._agent.machine.universe.chance
        with trio.CancelScope() as self._ops[op.op]:
            await trio.sleep(self._agent.machine.universe.up_to(chance.choice([0.0, 0.1, 1.0, 60.0]), 1))
            if isinstance(op, Compute):
                self.queue(Answer(op.op, [self._agent.spec.user, op.arguments]))
            elif op.epoch in self._agent.machine.oracle.directories:
                self.queue(Answer(op.op, [op.epoch.job, op.epoch.serial, op.arguments]))
            else:
                self.queue(Answer(op.op, error="no_frame", text="there is none"))
        del self._ops[op.op]

    async def _receive(self) -> Order:
        order: Order = codec.decode(await self._wire.receive(), Order, MESSAGE_BYTES_MAX)
        return order

    async def _write(self) -> None:
        with contextlib.suppress(LinkClosed):
            while True:
                if not self._outward:
                    await self._wake.wait()
                    continue
                await self._wire.send(codec.encode(self._outward.popleft()))

    async def _send_facts(self, sent: int) -> None:
        universe, journal = self._agent.machine.universe, self._agent.journal
        while True:
            for fact in journal.after(sent):
                self.queue(fact)
                sent = fact.number
                if universe.happens(universe.climate.duplicates):
                    universe.count("fault: a fact twice")
                    again = [each for each in journal.after(0) if each.number <= sent]
                    self.queue(universe.chance.choice(again or [fact]))
            await self._agent.grown.wait()

    async def _watch_silence(self) -> None:
        while (silence_s := trio.current_time() - self._heard) < self._agent.spec.silence_s:
            await trio.sleep(self._agent.spec.silence_s - silence_s + 0.01)  # virtual time must move
        self._wire.close()
