"""The fake agents' host: what is on its disk, and the executions, which outlive the agents that started them."""

from collections import deque
from functools import partial
from math import inf

import trio
from attrs import define, evolve, field

from backends.base import AgentSpec
from backends.fake import Place
from jobd.agent import Agent
from jobd.facts import serve_link
from jobd.link import LinkClosed
from jobd.scopes import Notice
from schemas import codec
from schemas.link import MESSAGE_BYTES_MAX, Ended, Epoch, Order, Start, Started

from .life import Life
from .oracle import Oracle
from .truth import Execution
from .universe import Universe
from .wire import End, Wire

BEAT = '{"is":"Beat",'


class Refused(Exception):
    """The token is not valid."""


@define(eq=False)
class Journal:
    """An agent's journal and outbox, on its disk."""

    runs: dict[Epoch, str] = field(factory=dict)
    facts: deque[tuple[Started | Ended, float]] = field(factory=deque)  # not acknowledged, with their time
    last: int = 0

    def after(self, number: int) -> list[Started | Ended]:
        """The facts beyond this number, aged as of now."""
        now = trio.current_time()
        return [evolve(fact, age_s=now - at) for fact, at in self.facts if fact.number > number]

    def add(self, fact: Started | Ended) -> None:
        """One more durable fact."""
        self.last = fact.number
        self.facts.append((fact, trio.current_time()))

    def ack(self, number: int) -> None:
        """Let go of what jobd has."""
        self.last = max(self.last, number)
        while self.facts and self.facts[0][0].number <= number:
            fact, _ = self.facts.popleft()
            if isinstance(fact, Ended):
                self.runs.pop(fact.epoch, None)


@define(eq=False)
class Control:
    """The control directory of an epoch."""

    order: Start
    claimed: bool = False
    watched: bool = False  # its parent process lives
    began: float | None = None
    stop_grace_s: float | None = None
    end: Ended | None = None  # number 0: not yet a fact
    execution: Execution | None = None
    killed: trio.CancelScope = field(factory=trio.CancelScope)
    changed: Notice = field(factory=Notice)


@define(eq=False)
class Machine:
    """One host."""

    universe: Universe
    oracle: Oracle
    nursery: trio.Nursery
    place: Place = field(init=False)
    doors: dict[str, "Door"] = field(factory=dict)
    journals: dict[str, Journal] = field(factory=dict)
    controls: dict[Epoch, Control] = field(factory=dict)
    wires: list[Wire] = field(factory=list)

    def ails(self, spec: AgentSpec) -> str:
        """How this user's agents fail now, whatever is done; empty for the healthy."""
        ailment = self.universe.sick.get(self.oracle.users[spec.user], "")
        if not ailment or trio.current_time() < self.universe.sick_from:
            return ""
        self.universe.count(f"fault: {ailment} for ever")
        return ailment

    async def fall_ill(self) -> None:
        """What the sick user's agents have when their time comes is gone: they are killed, and come back as they do."""
        await trio.sleep(self.universe.sick_from)
        for process in list(self.place.processes.values()):
            if self.ails(process.spec):
                self.place.kill(process.handle)

    async def dial(self, spec: AgentSpec, token: str) -> End:
        """Call home; raises LinkClosed or Refused."""
        await trio.sleep(self.universe.up_to(self.universe.climate.latency_s))
        door = self.doors.get(spec.agent)
        if door is None or door.life.is_dead:
            raise LinkClosed("nobody listens")
        if not door.agent.accepts(token):
            raise Refused
        self.wires = [wire for wire in self.wires if not wire.over]
        wire = Wire(self.universe)
        self.wires.append(wire)
        if (ailment := self.ails(spec)) == "half-open":
            wire.half_open(self.universe.chance.choice([(True, True), (True, False), (False, True)]))
        elif ailment == "stalled":
            wire.stall(inf)
        door.connect(wire)
        return wire.agent

    def fork(self, epoch: Epoch, agent: str) -> None:
        """Claim the epoch, and start the parent of its run."""
        control = self.controls[epoch]
        assert not control.claimed, "the agent looks before it forks"
        control.claimed = control.watched = True
        self.nursery.start_soon(self._execute, epoch, control, agent)

    def stop(self, epoch: Epoch, grace_s: float) -> None:
        """A stop request on disk, and the signal."""
        control = self.controls[epoch]
        if control.stop_grace_s is None:
            control.stop_grace_s = grace_s
            control.changed.notify()

    def kill_parent(self, control: Control) -> None:
        """Whatever is left of the run dies with its parent, and there is no end record."""
        if control.watched:
            self.oracle.lost.add(control.order.epoch)
            control.killed.cancel()

    async def _execute(self, epoch: Epoch, control: Control, agent: str) -> None:
        try:
            with control.killed:
                await trio.sleep(self.universe.up_to(0.5))
                if control.stop_grace_s is not None:
                    control.end = Ended(0, epoch, "stopped", 0.0)
                    return
                control.execution = self.oracle.execution_began(epoch, agent)
                control.began = trio.current_time()
                control.changed.notify()
                outcome, exit_code = await self._run(control)
                self.oracle.execution_ended(control.execution, outcome, exit_code)
                await trio.sleep(self.universe.up_to(0.1))
                wall_s = trio.current_time() - control.began
                control.end = Ended(0, epoch, outcome, 0.0, wall_s=wall_s, exit_code=exit_code)  # type: ignore[arg-type]
        finally:
            if control.execution and not control.execution.outcome:
                self.oracle.execution_ended(control.execution, "lost", None)
            control.watched = False
            control.changed.notify()

    async def _run(self, control: Control) -> tuple[str, int | None]:
        chance = self.universe.chance
        ends = trio.current_time() + self.universe.up_to(chance.choice([0.0, 0.5, 5.0, 20.0, 60.0, 150.0]), 1)
        limit = trio.current_time() + control.order.limits.run_s
        exit_code = chance.choice([0, 0, 0, 1])
        stubborn = chance.random() < self.universe.climate.stubborn
        with trio.move_on_at(min(ends, limit)):
            while control.stop_grace_s is None:
                await control.changed.wait()
            await trio.sleep(control.stop_grace_s if stubborn else self.universe.up_to(control.stop_grace_s, 4))
            return "stopped", None
        return ("exited", exit_code) if ends < limit else ("wall_time", None)

    def reboot(self) -> None:
        """Every process of the machine dies, and its boot id changes."""
        self.universe.boots += 1
        for handle in list(self.place.processes):
            self.place.kill(handle)
        for control in self.controls.values():
            self.kill_parent(control)


class Door:
    """Where one agent calls home."""

    def __init__(self, gateway: "MemoryGateway", agent: Agent, nursery: trio.Nursery) -> None:
        self.agent = agent
        self.life = gateway.life
        self._gateway = gateway
        self._nursery = nursery

    def connect(self, wire: Wire) -> None:
        """A connection that has proved itself."""
        oracle, agent = self._gateway.machine.oracle, self.agent.record.id
        universe = self._gateway.machine.universe

        def sent(text: str) -> None:
            if not text.startswith(BEAT):
                universe.trace(f"to {agent} {text}")
                oracle.order_left(agent, codec.decode(text, Order, MESSAGE_BYTES_MAX))

        def received(text: str) -> None:
            if not text.startswith(BEAT):
                universe.trace(f"from {agent} {text}")

        wire.jobd.sent, wire.jobd.received = sent, received
        self.life.tie(wire, wire.jobd.close)
        self._nursery.start_soon(self._serve, wire)

    async def _serve(self, wire: Wire) -> None:
        try:
            await self._gateway.serve(self.agent, wire.jobd)
        except Exception as error:
            self._gateway.machine.universe.violate(f"a connection failed: {error!r}")
        finally:
            wire.jobd.close()
            self.life.untie(wire)


class MemoryGateway:
    """See jobd.gateway.Gateway."""

    def __init__(self, machine: Machine, life: Life) -> None:
        self.machine = machine
        self.life = life
        self.serve: partial[object] = partial(serve_link)

    def doors(self, agent: Agent) -> "_Doors":
        """Inside it, this agent can call home."""
        return _Doors(self, agent)


class _Doors:
    def __init__(self, gateway: MemoryGateway, agent: Agent) -> None:
        self._gateway = gateway
        self._agent = agent

    async def __aenter__(self) -> None:
        self._nurseries = trio.open_nursery()
        self._nursery = await self._nurseries.__aenter__()
        self._door = Door(self._gateway, self._agent, self._nursery)
        self._gateway.machine.doors[self._agent.record.id] = self._door

    async def __aexit__(self, *error: object) -> bool | None:
        doors = self._gateway.machine.doors
        if doors.get(self._agent.record.id) is self._door:
            del doors[self._agent.record.id]
        self._nursery.cancel_scope.cancel(reason="the doors are closed")
        return await self._nurseries.__aexit__(*error)  # type: ignore[arg-type]
