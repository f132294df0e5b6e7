"""One incarnation of jobd after another, and the way to ask the one that is there."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import trio
from attrs import define, field

from backends.base import BackendError
from backends.fake import FakeBackend
from jobd.codes import Analysis, Code, CodeMode, ModeLimits
from jobd.config import Agents, Config, Host, Requests, Tier
from jobd.core import SHUTDOWN, Core
from jobd.dispatch import Plan
from jobd.errors import JobdError
from jobd.facts import serve_link
from jobd.hosts import this_machine
from jobd.supervisor import running

from .disk import FakeDisk, Platter
from .fairness import FairPool
from .life import Life, SimWorld
from .machine import Machine, MemoryGateway
from .universe import Universe

T = TypeVar("T")

MEMORY_BYTES = 1 << 30
ANSWER_SLACK_S = 15.0  # beyond a request's deadline: shielded writes, the settling of a cancel

STOP_GRACE_S = 3.0

LIMITS = ModeLimits(queue_s=600.0, start_s=60.0, run_s=100.0, heartbeat_s=60.0, grace_s=3.0, memory_bytes=MEMORY_BYTES)
CODES = {
    "sim": Code(
        "sim",
        "The simulated code",
        "1",
        {
            "sequential": CodeMode(("sim", "{cores}"), limits=LIMITS),
            "parallel": CodeMode(("sim", "{cores}"), cores_max=3, cores=2, limits=LIMITS),
        },
        analysis=Analysis(("worker",), methods=("frame",), compute=("square",)),
    )
}


class Unanswered(Exception):
    """jobd is not there, or died before it answered."""


def configuration(universe: Universe) -> Config:
    """Small numbers, so that limits are met."""
    return Config(
        state="/simulated",
        codes="/simulated/codes",
        tiers={
            "default": Tier(sequential=2, parallel=1, pending_max=6, library_files=3),
            "small": Tier(sequential=1, parallel=0, pending_max=2, library_files=2),
            "large": Tier(sequential=3, parallel=2, pending_max=9, library_files=4),
        },
        # Runs whose end nobody can prove keep their slots: who falls ill with runs must leave the others theirs.
        host=Host(13, 9 * MEMORY_BYTES) if universe.sick and universe.sick_from else Host(4, 4 * MEMORY_BYTES),
        agents=Agents(
            start_s=20.0, call_home_s=20.0, backoff_s_max=8.0, heartbeat_s=10.0, silence_s=25.0, away_s=30.0,
            idle_s=60.0, poll_s=4.0, lonely_s=200.0, ops_max=4,
        ),
        requests=Requests(jobs_cached_max=universe.chance.choice([2, 5, 100]), tokens_per_user_max=4),
    )  # fmt: skip


@define(eq=False)
class Daemon:
    """jobd's place in the universe."""

    universe: Universe
    config: Config
    platter: Platter
    machine: Machine
    life: Life | None = None
    core: Core | None = None
    down_s: float = 0.0  # how long the next one takes to come up
    idle: trio.Event = field(factory=trio.Event)

    async def run(self) -> None:
        """One after another, for ever."""
        while True:
            life = Life()
            core = self._compose(life)
            with life.scope:
                async with running(core, core.store.disk.load()):
                    self.life, self.core = life, core
                    self.machine.oracle.up_at = trio.current_time()
                    self.universe.trace("jobd is up")
                    await life.ending.wait()
                    core.root.cancel(SHUTDOWN)
                    self.life = self.core = None
                    await trio.sleep(self.universe.up_to(STOP_GRACE_S, 1))  # the doors close
            self.life = self.core = None
            self.universe.trace("jobd is down")
            self.universe.check(not life.scope.cancelled_caught or life.is_dead, lambda: "jobd ended by itself")
            life.kill()
            await trio.sleep(self.down_s)

    def _compose(self, life: Life) -> Core:
        gateway = MemoryGateway(self.machine, life)
        backend = FakeBackend(self.machine.place, partial(self._mishap, life))
        disk = FakeDisk(self.platter, self.universe, life)
        hosts = this_machine(self.config, backend)
        hosts["local"].pool = FairPool(self.universe, hosts["local"].pool)
        core = Core(self.config, CODES, SimWorld(self.universe, life), disk, hosts, gateway)
        gateway.serve = partial(serve_link, core)
        return core

    async def _mishap(self, life: Life, deed: str) -> None:
        universe = self.universe
        await trio.lowlevel.checkpoint()
        if universe.climate.deed_s and not universe.calm:
            await trio.sleep(universe.up_to(universe.climate.deed_s))
        if life.is_dead:
            await trio.sleep_forever()
        if universe.happens(universe.climate.deed_fails):
            universe.count(f"fault: backend failed at {deed}")
            raise BackendError(f"{deed} failed")

    async def ask(self, plan: Callable[[Core], Plan[T]], user: str, job: str, what: str, deadline_s: float) -> T:
        """Ask the jobd that is there; raises JobdError or Unanswered."""
        return await self.call(lambda core: core.ask(plan(core), user, job, what, deadline_s), what, deadline_s)

    async def call(self, request: Callable[[Core], Any], what: str, deadline_s: float) -> Any:
        """Any way of asking."""
        life, core, began = self.life, self.core, trio.current_time()
        if life is None or core is None:
            raise Unanswered
        self.universe.count(f"asked: {what}")
        with trio.CancelScope() as connection:
            life.tie(connection, connection.cancel)
            try:
                answer = await request(core)
            except JobdError as error:
                self.universe.count(f"refused: {error.code}")
                if life.is_dead:
                    raise Unanswered from None
                raise
            except Exception as error:
                self.universe.violate(f"{what} failed: {error!r}")
                raise
            finally:
                life.untie(connection)
                took = trio.current_time() - began
                self.universe.check(took <= deadline_s + ANSWER_SLACK_S, lambda: f"C8: {what} took {took:.1f} s")
            if not life.is_dead:
                return answer
        raise Unanswered

    def kill(self, down_s: float) -> None:
        """SIGKILL."""
        if self.life is not None:
            self.universe.trace("jobd is killed")
            self.down_s = down_s
            life, self.life, self.core = self.life, None, None
            life.kill()

    def stop(self, down_s: float) -> None:
        """SIGTERM."""
        if self.life is not None:
            self.universe.trace("jobd is to stop")
            self.down_s = down_s
            self.life.ending.set()
