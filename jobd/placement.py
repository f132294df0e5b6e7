"""Which host a run goes to, and which of its user's agents there gets it.

A user's agents are on one host where that is possible: files of earlier runs lie there, and warm agents are of use for
one user only. A place is fixed when a run is admitted.
"""

from attrs import frozen

from jobd.core import Core
from jobd.dispatch import Held, Situation
from jobd.hosts import RANK_HOST, Host
from jobd.job import Job, Run
from jobd.places import Place, parse
from schemas.records import RunRecord, Slots, UserRecord

NO_HOST = Situation("host_down", "waiting for a host that can be reached and is not drained")


def host_for(core: Core, run: Run, held: Held) -> Host | None:
    """The host in whose queue the run stands, or that it should go to now; None while none is open."""
    if run.record.is_batch:
        host = core.hosts.get(run.record.place)
        return host if host is not None and host.open else None
    amount = run.record.slots.cores, run.record.slots.memory_bytes
    ticket = held.at(RANK_HOST)
    if ticket is not None:
        stands = next(host for host in core.hosts if host.pool is ticket.pool)
        if ticket.granted or stands.open:
            return stands
    group = core.tier(run.user).hosts
    return core.hosts.choose(group, amount, [*_homes(core, run.user), *_lies(run.job)])


def place_on(core: Core, host: Host, run: Run) -> Place:
    """The place of this run on the host that has granted its slots: the first of the user's lanes that is free."""
    if host.enclosure is None:
        return Place(host.name)
    taken = {other.record.place for other in core.jobs.runs_of(run.user.id) if other is not run and _is_placed(other)}
    lane = 0
    while str(place := Place(host.name, "run", lane, run.record.image)) in taken:
        lane += 1
    return place


def questions(record: RunRecord) -> Place:
    """Where is asked about this run."""
    return parse(record.place).for_questions


def default_slots(core: Core, code: str) -> Slots:
    """What a run of this code occupies when the request does not say."""
    modes = core.codes[code].modes
    mode = modes.get("sequential") or next(iter(modes.values()))
    return Slots(mode.cores, mode.limits.memory_bytes)


def _homes(core: Core, user: UserRecord) -> list[str]:
    return [parse(agent.record.place).host for agent in core.fleet.of_user(user.id) if agent.record.awake]


def _lies(job: Job) -> list[str]:
    return [parse(place).host for place in reversed(job.record.places)]


def _is_placed(run: Run) -> bool:
    """Whether it has the slots of its place: it was admitted by this jobd, or ordered."""
    return run.agent is not None or run.admitted


@frozen
class Home:
    """Requirement: where a question of this user that is about no run is answered."""

    core: Core
    user: UserRecord
    image: str

    def ready(self) -> Place | None:
        """The place; None while no host is open."""
        host = self.core.hosts.choose(self.core.tier(self.user).hosts, (0, 0), _homes(self.core, self.user))
        if host is None:
            return None
        return Place(host.name) if host.enclosure is None else Place(host.name, "view", 0, self.image)

    async def wait(self) -> None:
        """Wait for news of any host."""
        await self.core.hosts.changed.wait()

    @property
    def situation(self) -> Situation:
        """What is waited for."""
        return NO_HOST


@frozen
class Open:
    """Requirement: a host of the user's tier that can be reached, is not drained, and is large enough."""

    core: Core
    run: Run
    held: Held

    def ready(self) -> Host | None:
        """The host."""
        return host_for(self.core, self.run, self.held)

    async def wait(self) -> None:
        """Wait for news of any host."""
        await self.core.hosts.changed.wait()

    @property
    def situation(self) -> Situation:
        """What is waited for."""
        return NO_HOST
