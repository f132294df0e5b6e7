"""What goes wrong, one thing after another; each seed has its own kinds."""

from collections.abc import Callable

import trio
from attrs import define, field

from .daemon import Daemon
from .disk import Platter
from .machine import Machine
from .universe import Universe
from .wire import Wire


@define(eq=False)
class Faults:
    """The driver."""

    universe: Universe
    machine: Machine
    daemon: Daemon
    platter: Platter
    kinds: list[Callable[[], bool]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        every = [
            self.cut, self.half_open, self.stall, self.kill_agent, self.kill_parent, self.kill_jobd, self.restart_jobd,
            self.store_outage, self.reboot, self.clock_jump, self.garbage,
        ]  # fmt: skip
        chance = self.universe.chance
        self.kinds = [kind for kind in every if chance.random() < 0.5]

    async def run(self, until: float) -> None:
        """Until all is to be calm."""
        chance = self.universe.chance
        while self.kinds and trio.current_time() < until:
            await trio.sleep(self.universe.about(self.universe.climate.fault_s))
            kind = chance.choice(self.kinds)
            if kind():
                self.universe.count(f"fault: {kind.__name__.replace('_', ' ')}")
                self.universe.trace(f"fault: {kind.__name__}")

    def cut(self) -> bool:
        """A connection is reset."""
        if wire := self._wire():
            wire.cut()
        return wire is not None

    def half_open(self) -> bool:
        """A connection swallows everything, in one direction or both."""
        if wire := self._wire():
            wire.half_open(self.universe.chance.choice([(True, True), (True, False), (False, True)]))
        return wire is not None

    def stall(self) -> bool:
        """A connection stands still for a while."""
        if wire := self._wire():
            wire.stall(self.universe.up_to(40.0, 1))
        return wire is not None

    def kill_agent(self) -> bool:
        """An agent is killed; its runs go on."""
        handles = list(self.machine.place.processes)
        if handles:
            self.machine.place.kill(self.universe.chance.choice(handles))
        return bool(handles)

    def kill_parent(self) -> bool:
        """A run is killed with its parent."""
        controls = [control for control in self.machine.controls.values() if control.watched]
        if controls:
            self.machine.kill_parent(self.universe.chance.choice(controls))
        return bool(controls)

    def kill_jobd(self) -> bool:
        """SIGKILL, and a new start."""
        self.daemon.kill(self._down_s())
        return True

    def restart_jobd(self) -> bool:
        """SIGTERM, and a new start."""
        self.daemon.stop(self._down_s())
        return True

    def store_outage(self) -> bool:
        """No commit succeeds for a while."""
        self.platter.fails_until = self.universe.now().boot_s + self.universe.up_to(30.0, 2)
        return True

    def reboot(self) -> bool:
        """The machine restarts: every process on it is gone."""
        self.daemon.kill(self._down_s())
        self.machine.reboot()
        return True

    def clock_jump(self) -> bool:
        """The wall clock is set."""
        self.universe.set_clock(self.universe.chance.choice([-3600.0, 3600.0, 1e6]))
        return True

    def garbage(self) -> bool:
        """An agent says what is no fact."""
        wire = self._wire()
        if wire is not None:
            self.machine.nursery.start_soon(
                self._say, wire, self.universe.chance.choice(['{"is":"Beat"}', "\x00", "[]"])
            )
        return wire is not None

    async def _say(self, wire: Wire, text: str) -> None:
        try:
            await wire.agent.send(text)
        except Exception:
            return

    def _wire(self) -> Wire | None:
        wires = [wire for wire in self.machine.wires if not wire.over]
        return self.universe.chance.choice(wires) if wires else None

    def _down_s(self) -> float:
        return self.universe.up_to(self.universe.chance.choice([0.0, 1.0, 20.0, 150.0]), 1)
