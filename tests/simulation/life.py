"""One incarnation of jobd, as the world outside sees it: alive or dead, and what dies with it."""

from collections.abc import Callable
from typing import Any, TypeVar

import trio

from schemas.ids import new_id
from schemas.records import Instant

from .universe import Universe

T = TypeVar("T")


class Life:
    """From a start of jobd to its end. A killed one has no effect on anything any more, whatever its tasks still do."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.dead = trio.Event()
        self.ending = trio.Event()  # asked to stop cleanly
        self._dies_with: dict[object, Callable[[], None]] = {}

    @property
    def is_dead(self) -> bool:
        """Killed."""
        return self.dead.is_set()

    def kill(self) -> None:
        """As SIGKILL does it."""
        if not self.is_dead:
            self.dead.set()
            self.scope.cancel(reason="killed")
            for end in list(self._dies_with.values()):
                end()

    def tie(self, thing: object, end: Callable[[], None]) -> None:
        """Call `end` if this jobd is killed while it has this thing."""
        self._dies_with[thing] = end

    def untie(self, thing: object) -> None:
        """It has it no more."""
        self._dies_with.pop(thing, None)


class SimWorld:
    """See jobd.world.World. A hop is inline; what it takes is virtual, before and after the call."""

    def __init__(self, universe: Universe, life: Life) -> None:
        self._universe = universe
        self._life = life
        self.hop_s = 0.0  # the longest that a hop takes

    def now(self) -> Instant:
        """This moment."""
        return self._universe.now()

    async def hop(self, function: Callable[..., T], *arguments: Any) -> T:
        """Like a thread: a cancel waits for it. Death does not."""
        climate = self._universe.climate
        most = climate.commit_s if getattr(function, "__name__", "") == "write" else climate.read_s
        await self._pause(most)
        result = function(*arguments)
        await self._pause(most / 2)
        return result

    async def _pause(self, most: float) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()
        if most and not self._universe.calm:
            with trio.move_on_after(self._universe.up_to(most), shield=True):
                await self._life.dead.wait()
        if self._life.is_dead:
            await trio.sleep_forever()  # the kill has cancelled us

    def new_id(self, kind: str) -> str:
        """A fresh id."""
        return new_id(kind, self._universe.chance.getrandbits(45))

    def new_token(self) -> str:
        """A fresh secret."""
        return f"token-{self._universe.chance.getrandbits(64):x}"

    def jitter(self) -> float:
        """To spread retries."""
        return 0.0 if self._universe.climate.tick_s else self._universe.chance.random()
