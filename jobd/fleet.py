"""The agents: one for each user and place, started when someone needs it, kept warm, found again after a restart.

Each agent is *tended* by one task: start it in stages with deadlines, wait until it calls home, watch while it is
linked, look for it while it is away, start its next generation when it has died, and cull it when nobody needs it.
Requests and runs never start agents themselves: they need `Connected`, whose wait asks for tending. So a cancelled
request never leaves a half-started agent behind, and an agent that is started stays for the next request.
"""

import hashlib
import logging
import math

import attrs
import trio
from attrs import frozen

from backends.base import AgentSpec, Backend, BackendError
from jobd.agent import Agent
from jobd.config import Config
from jobd.dispatch import Situation
from jobd.errors import AgentUnavailable
from jobd.gateway import Gateway
from jobd.jobs import Jobs
from jobd.scopes import Scope
from jobd.store import Store
from jobd.world import World
from schemas.link import End
from schemas.records import AgentRecord, UserRecord

log = logging.getLogger(__name__)


class Fleet:
    """All agents, and the task that tends each."""

    def __init__(
        self, config: Config, world: World, store: Store, jobs: Jobs, backend: Backend, gateway: Gateway, root: Scope
    ) -> None:
        self._config = config.agents
        self._state = config.directory
        self._world = world
        self._store = store
        self._jobs = jobs
        self._backend = backend
        self._gateway = gateway
        self._root = root
        self._nursery: trio.Nursery | None = None
        self.agents: dict[tuple[str, str], Agent] = {}  # by user id and place
        self._by_id: dict[str, Agent] = {}
        self._tended: set[str] = set()

    def restore(self, users: dict[str, UserRecord], records: tuple[AgentRecord, ...]) -> None:
        """Take up the agents that the store remembers."""
        for record in records:
            self._know(Agent(users[record.user], record, self._world.now()))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tend every agent that is wanted, and those that were awake before a restart."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            for agent in list(self.agents.values()):
                if agent.record.awake or self._has_work(agent):
                    self._tend(agent)
            await trio.sleep_forever()

    def want(self, user: UserRecord, place: str) -> Agent:
        """The agent of this user at this place; its tending begins if it is not tended."""
        agent = self.agents.get((user.id, place))
        if agent is None:
            record = AgentRecord(self._world.new_id("a"), user.id, place)
            agent = self._know(Agent(user, record, self._world.now()))
        agent.used = self._world.now().boot_s
        self._tend(agent)
        return agent

    def of_id(self, agent: str | None) -> Agent | None:
        """The agent with this id."""
        return self._by_id.get(agent or "")

    async def stop(self, agent: Agent) -> bool:
        """End its process now; whether none exists afterwards. Its runs go on, and it starts again for who needs it."""
        agent.used = -math.inf
        return await self._end(agent)

    def forget(self, agent: Agent) -> int:
        """Take it for gone, on an operator's word; whatever is left of it is told to end should it call again."""
        if agent.link is not None:
            agent.link.close()
        agent.record = attrs.evolve(
            agent.record, generation=agent.record.generation + 1, awake=False, token_sha256="", handle=""
        )
        agent.used = -math.inf
        agent.changed.notify()
        return self._store.put(agent.record)

    def _know(self, agent: Agent) -> Agent:
        self._by_id[agent.record.id] = self.agents[agent.user.id, agent.record.place] = agent
        return agent

    def _tend(self, agent: Agent) -> None:
        if agent.record.id not in self._tended:
            assert self._nursery is not None, "the fleet runs before anything wants an agent"
            self._tended.add(agent.record.id)
            self._nursery.start_soon(self._tending, agent)

    # --- the life of one agent --------------------------------------------------------------------------------------

    async def _tending(self, agent: Agent) -> None:
        try:
            with self._root.group("user", agent.user.name).open("agent", agent.record.id) as scope:
                while self._is_needed(agent) or agent.record.awake:
                    try:
                        await self._backend.prepare(self._spec(agent, ""))
                        async with self._gateway.doors(agent):
                            while self._is_needed(agent):
                                await self._one_round(agent, scope)
                            await self._retire(agent, scope)
                    except (BackendError, OSError) as error:
                        await self._back_off(agent, scope, f"its directory cannot be used: {error}")
        finally:
            agent.failure, agent.failures = "", 0  # the next one who wants it makes a fresh start
            self._tended.discard(agent.record.id)

    async def _one_round(self, agent: Agent, scope: Scope) -> None:
        """Have it running and linked, and watch until it is not; a failure waits for its back-off."""
        try:
            if not await self._is_alive(agent):
                await self._start(agent, scope)
            self._stage(agent, scope, "waiting for the agent to call home")
            with trio.move_on_after(self._config.call_home_s):
                await self._linked(agent)
            if agent.link is None:
                raise BackendError(f"it did not call home within {self._config.call_home_s:g} s")
            self._stage(agent, scope, "connected")
            await self._watch(agent)
        except (BackendError, OSError) as error:
            await self._end(agent)
            tail = await self._log_tail(agent)
            await self._back_off(agent, scope, f"{error}. The end of its log: {tail}" if tail else f"{error}.")

    async def _log_tail(self, agent: Agent) -> str:
        try:
            return await self._backend.log_tail(self._spec(agent, ""))
        except (BackendError, OSError):
            return ""

    async def _back_off(self, agent: Agent, scope: Scope, reason: str) -> None:
        agent.failures += 1
        agent.failure = reason
        log.warning("agent %s of %s: %s", agent.record.id, agent.user.name, reason)
        self._stage(agent, scope, "waiting to start the agent again")
        backoff_s = min(self._config.backoff_s_max, self._config.backoff_s * 2 ** min(agent.failures - 1, 20))
        await trio.sleep(backoff_s * (1 + self._world.jitter() / 2))

    async def _start(self, agent: Agent, scope: Scope) -> None:
        """A new generation: the intent first, durably, then the deed, then what came of it."""
        self._stage(agent, scope, "starting the agent")
        token = self._world.new_token()
        digest = hashlib.sha256(token.encode()).hexdigest()
        agent.record = attrs.evolve(
            agent.record, generation=agent.record.generation + 1, awake=True, token_sha256=digest, handle=""
        )
        await self._store.durable(self._store.put(agent.record))
        with trio.move_on_after(self._config.start_s):
            spec = self._spec(agent, token)
            await self._backend.prepare(spec)
            handle = await self._backend.start(spec)
            agent.record = attrs.evolve(agent.record, handle=handle)
            self._store.put(agent.record)
            return
        raise BackendError(f"it did not start within {self._config.start_s:g} s")

    async def _watch(self, agent: Agent) -> None:
        """Return when it is dead or culled; raise BackendError when it lives but stays away."""
        away_since: float | None = None
        while self._is_needed(agent):
            with trio.move_on_after(self._config.poll_s):
                await agent.changed.wait()
            if agent.link is not None:
                away_since = None
                continue
            if not await self._is_alive(agent):
                return
            away_since = away_since or trio.current_time()
            if trio.current_time() - away_since > self._config.away_s:
                raise BackendError(f"it was away for {self._config.away_s:g} s")

    async def _retire(self, agent: Agent, scope: Scope) -> None:
        """Nobody needs it: tell it to end and see that it is gone. Its token dies with it; its record stays."""
        if agent.link is not None:
            agent.link.post(End("idle"))
            with trio.move_on_after(self._config.stop_s):
                while agent.link is not None:
                    await agent.changed.wait()
        if await self._end(agent):
            agent.record = attrs.evolve(agent.record, awake=False, token_sha256="", handle="")
            self._store.put(agent.record)
        else:
            await self._back_off(agent, scope, "it could not be ended")

    async def _end(self, agent: Agent) -> bool:
        """Whether no process of it exists afterwards; where that cannot be had, the log says why."""
        if agent.link is not None:
            agent.link.close()
        try:
            with trio.fail_after(self._config.stop_s * 2):
                handle = agent.record.handle or await self._backend.adopt(self._spec(agent, ""))
                if handle:
                    await self._backend.stop(handle)
        except (BackendError, OSError, trio.TooSlowError) as error:
            log.warning("agent %s could not be ended: %s", agent.record.id, error)
            return False
        return True

    async def _is_alive(self, agent: Agent) -> bool:
        if not agent.record.handle:
            # jobd may have died between the deed and its record.
            handle = await self._backend.adopt(self._spec(agent, "")) if agent.record.awake else None
            if handle is None:
                return False
            agent.record = attrs.evolve(agent.record, handle=handle)
            self._store.put(agent.record)
        return await self._backend.alive(agent.record.handle)

    async def _linked(self, agent: Agent) -> None:
        while agent.link is None:
            with trio.move_on_after(self._config.poll_s) as pause:
                await agent.changed.wait()
            if pause.cancelled_caught and not await self._is_alive(agent):
                raise BackendError("it ended before it called home")

    def _is_needed(self, agent: Agent) -> bool:
        now = self._world.now().boot_s
        if agent.waiting or agent.ops or self._has_work(agent):
            agent.used = now
        return now - agent.used < self._config.idle_s

    def _has_work(self, agent: Agent) -> bool:
        """Open runs; or directories to remove that it was not told of (a Welcome does), though nobody may come back."""
        is_to_remove = agent.link is None and agent.user.id in self._jobs.removals
        return is_to_remove or bool(self._jobs.runs_on(agent.record.id))

    def _stage(self, agent: Agent, scope: Scope, stage: str) -> None:
        scope.doing = agent.stage = stage
        agent.changed.notify()

    def _spec(self, agent: Agent, token: str) -> AgentSpec:
        record = agent.record
        return AgentSpec(
            agent=record.id,
            generation=record.generation,
            user=record.user,
            user_number=agent.user.number,
            directory=self._state / "agents" / record.id,
            root=self._state / "runs" / record.user,
            token=token,
            lonely_s=self._config.lonely_s,
            silence_s=self._config.silence_s,
        )


@frozen
class Connected:
    """Requirement: the user's agent at this place has called home.

    A patient one (a run's) waits through failed starts until its own deadline; an impatient one (a person's question)
    is told at once why there is none.
    """

    fleet: Fleet
    user: UserRecord
    place: str
    patient: bool = False

    def ready(self) -> Agent | None:
        """The agent, linked; raises AgentUnavailable."""
        agent = self._agent
        if agent is None or agent.link is None:
            if agent is not None and agent.failure and not self.patient:
                raise AgentUnavailable(f"It could not be started: {agent.failure}", retry_after_s=5.0)
            return None
        return agent

    async def wait(self) -> None:
        """Ask for it, and wait for news of it."""
        agent = self.fleet.want(self.user, self.place)
        if agent.link is not None:
            return  # another link than the one that was lost
        agent.waiting += 1
        try:
            await agent.changed.wait()
        finally:
            agent.waiting -= 1

    @property
    def situation(self) -> Situation:
        """The stage that its start has reached."""
        agent = self._agent
        stage = agent.stage if agent and agent.stage != "connected" else ""
        return Situation("agent", stage or "starting the agent")

    @property
    def _agent(self) -> Agent | None:
        return self.fleet.agents.get((self.user.id, self.place))
