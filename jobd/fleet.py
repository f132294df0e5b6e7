"""The agents: one for each user and place, started when someone needs it, kept warm, found again after a restart.

Each agent is *tended* by one task (tending.py). Requests and runs never start agents themselves: they need `Connected`,
whose wait asks for tending. So a cancelled request never leaves a half-started agent behind, and an agent that is
started stays for the next request.
"""

import math
from collections.abc import Mapping

import attrs
import trio
from attrs import frozen

from backends.base import AgentSpec, Box
from jobd.agent import Agent
from jobd.codes import Image
from jobd.config import Config
from jobd.dispatch import Situation
from jobd.errors import AgentUnavailable, LoginNeeded
from jobd.gateway import Gateway
from jobd.hosts import Host, Hosts
from jobd.jobs import Jobs
from jobd.places import Place, parse
from jobd.scopes import Scope, outlive
from jobd.store import Store
from jobd.tending import Tending
from jobd.world import World
from schemas.link import End
from schemas.records import AgentRecord, Slots, UserRecord


class Fleet:
    """All agents, and the task that tends each. `images` are those of the codes, by name."""

    def __init__(
        self,
        config: Config,
        world: World,
        store: Store,
        jobs: Jobs,
        hosts: Hosts,
        images: Mapping[str, Image],
        gateway: Gateway,
        root: Scope,
    ) -> None:
        self.config = config
        self.world = world
        self.store = store
        self.jobs = jobs
        self.gateway = gateway
        self.root = root
        self.hosts = hosts
        self._images = images
        self._nursery: trio.Nursery | None = None
        self.agents: dict[tuple[str, str], Agent] = {}  # by user id and the text of the place
        self._by_id: dict[str, Agent] = {}
        self._by_user: dict[str, list[Agent]] = {}
        self._tended: set[str] = set()

    def restore(self, users: dict[str, UserRecord], records: tuple[AgentRecord, ...]) -> None:
        """Take up the agents that the store remembers."""
        for record in records:
            self._know(Agent(users[record.user], record, self.world.now()))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tend every agent that is wanted, and those that were awake before a restart."""
        async with trio.open_nursery() as self._nursery:
            for host in self.hosts:
                self._nursery.start_soon(host.watch, self.config.agents, name=f"watch of host {host.name}")
            task_status.started()
            for agent in list(self.agents.values()):
                if agent.record.awake or self.has_work(agent):
                    self._tend(agent)
            await trio.sleep_forever()

    def want(self, user: UserRecord, place: Place, slots: Slots | None = None) -> Agent:
        """The agent of this user at this place, with room for a run of these slots; its tending begins if it is not
        tended."""
        agent = self.agents.get((user.id, str(place)))
        if agent is None:
            record = AgentRecord(self.world.new_id("a"), user.id, str(place))
            agent = self._know(Agent(user, record, self.world.now()))
        agent.used = self.world.now().boot_s
        if slots is not None and slots != agent.slots:
            agent.slots = slots
            agent.changed.notify()
        self._tend(agent)
        return agent

    def of_id(self, agent: str | None) -> Agent | None:
        """The agent with this id."""
        return self._by_id.get(agent or "")

    def of_user(self, user: str) -> list[Agent]:
        """All agents of a user, by its id."""
        return self._by_user.get(user, [])

    def host(self, agent: Agent) -> Host:
        """The host that it is on."""
        return self.hosts[parse(agent.record.place).host]

    def is_remote(self, agent: Agent) -> bool:
        """Whether it is on a host that shares no disk with us: only then its token is good at the TLS port."""
        host = self.hosts.get(parse(agent.record.place).host)
        return host is not None and host.remote

    async def stop(self, agent: Agent) -> bool:
        """End its process now; whether none exists afterwards. Its runs go on, where they outlive it, and it starts
        again for who needs it."""
        if self.host(agent).by_login:
            self.dismiss(agent, "an operator ended it")
            return True  # a login node cannot be asked, but with its token gone it ends
        agent.used = -math.inf
        return await Tending(self, self.host(agent), agent).end()

    async def prove(self, agent: Agent, *, believed: bool) -> bool:
        """Whether its host proves now that no process of its run exists, whatever that takes; with `believed` the
        agent has said so itself. Only where agents are enclosed."""
        return await Tending(self, self.host(agent), agent).prove(believed=believed)

    def dismiss(self, agent: Agent, reason: str) -> int:
        """Tell it to end, and take its token for nothing from now on; its runs stay its own."""
        if agent.link is not None:
            agent.link.post(End(reason))
        agent.record = attrs.evolve(agent.record, awake=False, token_sha256="", handle="")
        agent.changed.notify()
        return self.store.put(agent.record)

    def forget(self, agent: Agent) -> int:
        """Take it for gone, on an operator's word; whatever is left of it is told to end should it call again."""
        if agent.link is not None:
            agent.link.close()
        agent.record = attrs.evolve(
            agent.record, generation=agent.record.generation + 1, awake=False, token_sha256="", handle=""
        )
        agent.used = -math.inf
        agent.changed.notify()
        return self.store.put(agent.record)

    def is_needed(self, agent: Agent) -> bool:
        """Whether someone needs it now, or may soon."""
        now = self.world.now().boot_s
        if agent.waiting or agent.ops or self.has_work(agent):
            agent.used = now
        return now - agent.used < self.config.agents.idle_s

    def has_work(self, agent: Agent) -> bool:
        """Open runs; or directories to remove that it was not told of (a Welcome does), though nobody may come back."""
        removals = self.jobs.removals.get(agent.user.id, {}).values() if agent.link is None else ()
        is_to_remove = any(agent.record.place in removal.places for removal in removals)
        return is_to_remove or bool(self.jobs.runs_on(agent.record.id))

    def make_room(self, host: Host, newcomer: Agent) -> bool:
        """Whether one more agent may be awake on this host; if not, the one that was idle for longest is culled."""
        awake = [
            agent
            for agent in self.agents.values()
            if agent.record.awake and agent is not newcomer and self.host(agent) is host
        ]
        if len(awake) < host.agents_max:
            return True
        idle = [agent for agent in awake if not (agent.waiting or agent.ops or self.has_work(agent))]
        if idle:
            longest = min(idle, key=lambda agent: agent.used)
            longest.used = -math.inf
            longest.changed.notify()
        return False

    def spec(self, agent: Agent, token: str = "") -> AgentSpec:
        """What the backend must know of it; with a token, for a new generation."""
        record, state, config = agent.record, self.config.directory, self.config.agents
        return AgentSpec(
            agent=record.id,
            generation=record.generation,
            user=record.user,
            user_number=agent.user.number,
            directory=state / "agents" / record.id,
            root=state / "runs" / record.user,
            token=token,
            lonely_s=config.lonely_s,
            silence_s=config.silence_s,
            box=self._box(agent),
        )

    def _box(self, agent: Agent) -> Box | None:
        place, docker = parse(agent.record.place), self.config.docker
        if place.role == "whole":
            return None
        image = self._images.get(place.image) or Image(place.image)  # a code may have been taken from the site
        is_run = place.role == "run"
        slots = agent.slots if is_run and agent.slots else Slots(1, 0)
        return Box(
            image=image.image,
            python=image.python,
            cores=float(slots.cores) if is_run else docker.view_cores,
            memory_bytes=slots.memory_bytes + docker.agent_memory_bytes if is_run else docker.view_memory_bytes,
            network=image.network if is_run else "",
            gpus=image.gpus if is_run else 0,
            gpu_ids=image.gpu_ids if is_run else (),
            shm_bytes=image.shm_bytes,
        )

    def _know(self, agent: Agent) -> Agent:
        self._by_id[agent.record.id] = self.agents[agent.user.id, agent.record.place] = agent
        self._by_user.setdefault(agent.user.id, []).append(agent)
        return agent

    def _tend(self, agent: Agent) -> None:
        host = self.hosts.get(parse(agent.record.place).host)
        if agent.record.id not in self._tended and host is not None and not host.by_login:
            assert self._nursery is not None, "the fleet runs before anything wants an agent"
            self._tended.add(agent.record.id)
            outlive(self._nursery, self._tending, agent, name=f"agent {agent.record.id}")

    async def _tending(self, agent: Agent) -> None:
        try:
            with self.root.group("user", agent.user.name).open("agent", agent.record.id) as scope:
                await Tending(self, self.host(agent), agent, scope).live()
        finally:
            agent.failure, agent.failures = "", 0  # the next one who wants it makes a fresh start
            self._tended.discard(agent.record.id)


@frozen
class Connected:
    """Requirement: the user's agent at this place has called home, and has room for a run of these slots, if any.

    A patient one (a run's) waits through failed starts until its own deadline; an impatient one (a person's question)
    is told at once why there is none.
    """

    fleet: Fleet
    user: UserRecord
    place: Place
    patient: bool = False
    slots: Slots | None = None

    def ready(self) -> Agent | None:
        """The agent, linked; raises AgentUnavailable."""
        agent = self._agent
        if agent is None or agent.link is None:
            if self._by_login and not self.patient:
                raise LoginNeeded(f"It is on '{self.place.host}'.")
            if agent is not None and agent.failure and not self.patient:
                raise AgentUnavailable(f"It could not be started: {agent.failure}", retry_after_s=5.0)
            return None
        return agent if self.slots is None or agent.fits(self.slots) else None

    async def wait(self) -> None:
        """Ask for it, and wait for news of it."""
        agent = self.fleet.want(self.user, self.place, self.slots)
        if self.ready() is not None:
            return  # another link than the one that was lost
        agent.waiting += 1
        try:
            await agent.changed.wait()
        finally:
            agent.waiting -= 1

    @property
    def situation(self) -> Situation:
        """The stage that its start has reached."""
        if self._by_login:
            return Situation("login", f"waiting for the user to log in to the cluster '{self.place.host}'")
        agent = self._agent
        stage = agent.stage if agent and agent.stage != "connected" else ""
        return Situation("agent", stage or "starting the agent")

    @property
    def _agent(self) -> Agent | None:
        return self.fleet.agents.get((self.user.id, str(self.place)))

    @property
    def _by_login(self) -> bool:
        host = self.fleet.hosts.get(self.place.host)
        return host is not None and host.by_login
