"""A browser tab: one way of one user to ask jobd, through the door that the web server uses."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
from attrs import define

from jobd.core import Core
from jobd.dispatch import Plan

from .answers import Answers
from .belongings import Belongings
from .daemon import Daemon
from .oracle import Oracle
from .universe import Universe

T = TypeVar("T")
Deed = Callable[[str], Awaitable[None]]

DEADLINE_S = 30.0


@define(eq=False)
class World:
    """What all who ask have in common."""

    universe: Universe
    oracle: Oracle
    answers: Answers
    belongings: Belongings
    daemon: Daemon


class Tab:
    """One user's; its deeds take the name of a job."""

    def __init__(self, world: World, user: str, jobs: tuple[str, ...]) -> None:
        self.universe = world.universe
        self.oracle = world.oracle
        self.answers = world.answers
        self.belongings = world.belongings
        self.daemon = world.daemon
        self.user = user
        self.jobs = jobs

    @property
    def deeds(self) -> list[tuple[float, Deed]]:
        """What may be done here, with weights; called once, so each universe weighs anew."""
        raise NotImplementedError

    async def ask(
        self, plan: Callable[[Core], Plan[T]], job: str, what: str, deadline_s: float = DEADLINE_S
    ) -> tuple[T, float]:
        """The answer, and when it was asked for; raises JobdError or Unanswered."""
        asked = trio.current_time()
        return await self.daemon.ask(plan, self.user, job, what, deadline_s), asked
