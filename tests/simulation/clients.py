"""Users who never coordinate: each has tabs, does one deed after the other, some at once, and hangs up now and then."""

import trio

from jobd.errors import JobdError

from .account_tab import AccountTab
from .daemon import Unanswered
from .jobs_tab import JobsTab
from .tab import Deed, Tab, World


class Client:
    """One user."""

    def __init__(self, world: World, name: str, jobs: tuple[str, ...]) -> None:
        self._universe = world.universe
        self._name = name
        self._jobs = jobs
        tabs: list[Tab] = [JobsTab(world, name, jobs), AccountTab(world, name, jobs)]
        self._deeds = [deed for tab in tabs for deed in tab.deeds]

    async def live(self, until: float) -> None:
        """Deed after deed, some of them at once; some hang up."""
        chance = self._universe.chance
        weights, deeds = [weight for weight, _ in self._deeds], [deed for _, deed in self._deeds]
        async with trio.open_nursery() as nursery:
            while trio.current_time() < until:
                await trio.sleep(self._universe.about(self._universe.climate.pause_s))
                (deed,) = chance.choices(deeds, weights)
                patience_s = chance.random() * 10 if chance.random() < 0.15 else 1e9
                nursery.start_soon(self._do, deed, chance.choice(self._jobs), patience_s)

    async def _do(self, deed: Deed, job: str, patience_s: float) -> None:
        with trio.move_on_after(patience_s) as patience:
            try:
                await deed(job)
            except Unanswered:
                self._universe.count("unanswered")
            except JobdError as error:
                self._universe.trace(f"{self._name} {job} refused: {error.code}")
        if patience.cancelled_caught:
            self._universe.count("hung up")
