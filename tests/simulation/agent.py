"""The fake agent, true to schemas/link.py and to what the real one keeps on disk over its death."""

import contextlib

import trio
from attrs import define, evolve, field

from backends.base import AgentSpec
from jobd.link import LinkClosed
from jobd.scopes import Notice
from schemas.link import (
    PROTOCOL,
    PROTOCOL_MIN,
    Ended,
    Epoch,
    Fact,
    Held,
    Hello,
    Progress,
    Removed,
    Start,
    Started,
    Stop,
    Taken,
)

from .connection import Connection
from .machine import Control, Journal, Machine, Refused

REDIAL_S_MAX = 2.0


class Leave(Exception):
    """The agent exits; its runs go on."""


async def live(machine: Machine, spec: AgentSpec) -> None:
    """One agent process."""
    universe = machine.universe
    universe.trace(f"agent {spec.agent} generation {spec.generation} begins")
    await trio.sleep(universe.up_to(universe.climate.deed_s))
    if machine.ails(spec) == "stillborn":
        return
    agent = FakeAgent(machine, spec, machine.journals.setdefault(spec.agent, Journal()))
    await agent.live()
    universe.trace(f"agent {spec.agent} generation {spec.generation} leaves")


@define(eq=False)
class FakeAgent:
    """One process; what must survive it is in its journal and in the machine's control directories."""

    machine: Machine
    spec: AgentSpec
    journal: Journal
    tended: set[Epoch] = field(factory=set)  # runs of this process that have not ended
    grown: Notice = field(factory=Notice)
    up: Notice = field(factory=Notice)
    connection: Connection | None = None
    nursery: trio.Nursery = field(init=False)

    async def live(self) -> None:
        """Until jobd says End, or loneliness does."""
        async with trio.open_nursery() as self.nursery:
            for epoch, state in list(self.journal.runs.items()):
                if state != "ended":
                    self._tend(epoch, recovered=True)
            with contextlib.suppress(Leave):
                await self._stay()
            self.nursery.cancel_scope.cancel()

    async def _stay(self) -> None:
        alone_since = trio.current_time()
        pause_s = 0.05
        while True:
            try:
                # The real one reads its token at each dialling.
                wire = await self.machine.dial(self.spec, self.machine.place.setups[self.spec.agent].token)
            except LinkClosed:
                pause_s = min(REDIAL_S_MAX, 2 * pause_s)
            except Refused:
                raise Leave from None
            else:
                connection = Connection(self, wire)
                try:
                    await connection.live()
                finally:
                    wire.close()
                    self.connection = None
                if connection.welcomed:
                    alone_since, pause_s = trio.current_time(), 0.05
                if connection.ended:
                    raise Leave
            if not self.tended and trio.current_time() - alone_since > self.spec.lonely_s:
                raise Leave
            await trio.sleep(pause_s / 2 + self.machine.universe.up_to(pause_s, 1))

    def hello(self) -> Hello:
        """What it holds, runs that are just being journaled included."""
        held = [Held(epoch, state) for epoch, state in self.journal.runs.items()]  # type: ignore[arg-type]
        held += [Held(epoch, "taken") for epoch in sorted(self.tended, key=str) if epoch not in self.journal.runs]
        return Hello(
            PROTOCOL,
            PROTOCOL_MIN,
            self.spec.agent,
            self.spec.generation,
            self.machine.universe.boot,
            "3.11",
            1,
            self.journal.last,
            tuple(held),
        )

    # --- orders

    def obey(self, order: Start | Stop) -> None:
        """Act on an order; the work goes on in a task of its own."""
        epoch = order.epoch
        if isinstance(order, Stop):
            self.stop(epoch, order.grace_s)
        elif epoch in self.tended:
            if epoch in self.journal.runs:
                self.post(Taken(epoch))
        elif epoch in self.machine.controls and self.machine.controls[epoch].claimed:
            self.machine.universe.violate(f"C2: Start was sent for {epoch}, which was claimed before")
        else:
            self.machine.controls[epoch] = Control(order)
            self.machine.oracle.directories.add(epoch)
            self._tend(epoch, recovered=False)

    async def remove(self, upto: Epoch) -> None:
        """Delete run directories, and say so; what is refused or fails jobd asks again at the next Welcome."""
        universe, directories = self.machine.universe, self.machine.oracle.directories
        if any(each.job == upto.job and each.serial <= upto.serial for each in self.tended):
            return
        await self._fsync()
        if universe.happens(universe.climate.removal_fails):
            universe.count("fault: removal failed")
            return
        gone = {each for each in directories if each.job == upto.job and each.serial <= upto.serial}
        directories -= gone
        self.post(Removed(upto))

    def stop(self, epoch: Epoch, grace_s: float) -> None:
        """Have a run ended."""
        if epoch in self.tended:
            self.machine.stop(epoch, grace_s)

    def post(self, fact: Fact) -> None:
        """Say what need not arrive."""
        if self.connection is not None:
            self.connection.queue(fact)

    # --- runs

    def _tend(self, epoch: Epoch, *, recovered: bool) -> None:
        self.tended.add(epoch)
        self.nursery.start_soon(self._live_run, epoch, self.machine.controls[epoch], recovered)

    async def _live_run(self, epoch: Epoch, control: Control, recovered: bool) -> None:
        if not recovered:
            await self._fsync()
            self.journal.runs[epoch] = "taken"
            self.post(Taken(epoch))
        if not control.claimed:
            if recovered:
                while self.connection is None:
                    await self.up.wait()
            await self._fsync()  # fetch the inputs
            if control.stop_grace_s is None:
                self.machine.fork(epoch, self.spec.agent)
            else:
                control.claimed = True
                control.end = Ended(0, epoch, "stopped", 0.0)
        while control.watched and control.began is None:
            await control.changed.wait()
        if control.began is not None and self.journal.runs[epoch] == "taken":
            await self._fsync()
            self.journal.add(Started(self.journal.last + 1, epoch, 0.0))
            self.journal.runs[epoch] = "running"
            self.grown.notify()
        await self._until_ended(epoch, control)
        await self._fsync()
        end = control.end or Ended(0, epoch, "lost", 0.0)
        self.journal.add(evolve(end, number=self.journal.last + 1))
        self.journal.runs[epoch] = "ended"
        self.tended.discard(epoch)
        self.grown.notify()
        self._lie()

    async def _until_ended(self, epoch: Epoch, control: Control) -> None:
        chance = self.machine.universe.chance
        while control.watched:
            with trio.move_on_after(20 + self.machine.universe.up_to(20.0, 1)):
                await control.changed.wait()
                continue
            metrics = {"energy": chance.random(), "step": 1.0 * chance.randrange(9)}
            self.post(Progress(epoch, chance.random(), "so far", {"view": chance.randrange(9)}, metrics))

    def _lie(self) -> None:
        universe = self.machine.universe
        if universe.happens(universe.climate.lies):
            epoch = universe.chance.choice(list(self.machine.controls))
            if epoch not in self.journal.runs and epoch not in self.tended:
                universe.count("fault: a lie about another run")
                number = self.journal.last + 1
                lies = Started(number, epoch, 0.0), Ended(number, epoch, "exited", 0.0, exit_code=0)
                self.journal.add(universe.chance.choice(lies))
                self.grown.notify()

    async def _fsync(self) -> None:
        await trio.sleep(self.machine.universe.up_to(self.machine.universe.climate.journal_s))
