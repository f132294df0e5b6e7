"""The operators: they stop agents, forget some for good, and list what everybody does."""

import trio

from jobd import plans
from jobd.errors import JobdError
from jobd.store import Selection
from schemas.api import ForgetRequest

from .answers import Glance
from .daemon import Unanswered
from .tab import DEADLINE_S, World


class Operator:
    """At the admin socket."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._universe = world.universe
        self._forgets = self._universe.chance.random() < 0.5  # whether this one ever does

    async def live(self, until: float) -> None:
        """Deed after deed."""
        deeds = [self.stop_agent, self.stop_agent, self.list_all] + [self.forget_agent] * self._forgets
        while trio.current_time() < until:
            await trio.sleep(self._universe.about(20.0))
            try:
                await self._universe.chance.choice(deeds)()
            except Unanswered:
                self._universe.count("unanswered")
            except JobdError as error:
                self._universe.trace(f"operator refused: {error.code}")

    async def stop_agent(self) -> None:
        """POST stop: none of the processes that there were is left."""
        if (agent := self._agent()) is None:
            return
        processes = self._world.daemon.machine.place.processes
        before = {process.handle for process in processes.values() if process.spec.agent == agent}
        await self._world.daemon.ask(lambda core: plans.stop_agent(core, agent), "", "", "stop an agent", DEADLINE_S)
        left = before & processes.keys()
        self._universe.check(not left, lambda: f"{agent} was said to be stopped, and {left} are there")

    async def forget_agent(self) -> None:
        """POST forget: its runs end on our word."""
        if (agent := self._agent()) is None:
            return
        self._world.oracle.forgets.add(self._world.oracle.agents[agent])
        ask = ForgetRequest("it burnt")
        view = await self._world.daemon.ask(
            lambda core: plans.forget_agent(core, agent, ask, "operator"), "", "", "forget an agent", DEADLINE_S
        )
        self._universe.check(view.id == agent, lambda: f"{agent} was forgotten, and the answer is {view}")

    async def list_all(self) -> None:
        """GET admin/jobs: everybody's."""
        selection = Selection(limit=self._universe.chance.choice([1, 100]))
        page = await self._world.daemon.ask(
            lambda core: plans.listing(core, None, selection), "", "", "list all", DEADLINE_S
        )
        ids = [self._world.oracle.ids[view.user, view.job] for view in page.jobs]
        self._universe.check(ids == sorted(set(ids)), lambda: f"the list is out of order: {ids}")
        for view in page.jobs:
            self._world.answers.answered(view, Glance({}, 0), newest=True)

    def _agent(self) -> str | None:
        agents = list(self._world.oracle.agents)
        return self._universe.chance.choice(agents) if agents else None
