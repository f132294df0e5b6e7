"""What every plan works with: the parts of the daemon, and the way in for a decoded request.

The simulation enters here, at `ask`, with the real parts, a fake backend, fake agents and virtual time.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TypeVar
from weakref import WeakValueDictionary

import trio

from jobd.broker import Pool
from jobd.clusters import Site
from jobd.codes import Code
from jobd.config import Config, Tier
from jobd.dispatch import Plan, Request, dispatch
from jobd.errors import Canceled, DeadlineExceeded, JobdError, QueueFull, ShuttingDown
from jobd.files import Files
from jobd.fleet import Fleet
from jobd.gateway import Gateway
from jobd.hosts import RANK_HOST, Hosts
from jobd.job import Run
from jobd.jobs import Jobs
from jobd.library import Library
from jobd.logins import Logins
from jobd.scopes import Scope
from jobd.store import Disk, Store
from jobd.tokens import Tokens
from jobd.world import World
from schemas.records import Cause, RunRecord, UserRecord

T = TypeVar("T")

DEADLINE = Cause("deadline", "The answer did not come in time.")
SHUTDOWN = Cause("shutdown", "jobd is stopping; what runs goes on.")

# The pools' one total order; the hosts' pools are the last in it.
RANK_USER_RUNS, RANK_DIRECTORY = 1, 2
assert RANK_DIRECTORY < RANK_HOST


class Broker:
    """Every pool by what it guards. Pools of users and jobs exist while someone has a ticket."""

    def __init__(self, hosts: Hosts, sites: Mapping[str, Site]) -> None:
        self._hosts = hosts
        self._sites = sites
        self._users: WeakValueDictionary[tuple[str, str, str], Pool] = WeakValueDictionary()
        self._directories: WeakValueDictionary[str, Pool] = WeakValueDictionary()

    @property
    def pools(self) -> list[Pool]:
        """Every pool that somebody uses, and the hosts'."""
        return [*(host.pool for host in self._hosts), *self._users.values(), *self._directories.values()]

    def user_runs(self, user: UserRecord, mode: str, tier: Tier, cluster: str = "") -> Pool:
        """How many runs of this mode, on this cluster, the user's tier lets be active."""
        capacity = self._runs_max(mode, tier, cluster)
        name = f"{mode} runs of {user.name}{cluster and f' on {cluster}'}"
        pool = _get(self._users, (user.id, mode, cluster), lambda: Pool(name, RANK_USER_RUNS, capacity))
        if pool.capacity != capacity:
            pool.resize(capacity)
        return pool

    def retier(self, user: UserRecord, tier: Tier) -> None:
        """The user's pools follow the tier at once."""
        for (owner, mode, cluster), pool in list(self._users.items()):
            if owner == user.id:
                pool.resize(self._runs_max(mode, tier, cluster))

    def _runs_max(self, mode: str, tier: Tier, cluster: str) -> tuple[int]:
        most: int = getattr(tier, mode)
        return (min(most, self._sites[cluster].cluster.runs_max) if cluster in self._sites else most,)

    def directory(self, job: str) -> Pool:
        """The job's run directory: one run at a time, until its end is proved."""
        return _get(self._directories, job, lambda: Pool("run directory", RANK_DIRECTORY, (1,)))


K = TypeVar("K")


def _get(pools: "WeakValueDictionary[K, Pool]", key: K, make: Callable[[], Pool]) -> Pool:
    pool = pools.get(key)
    if pool is None:
        pool = pools[key] = make()
    return pool


class Core:
    """The parts, composed. `begin` is set by the supervisor: it starts the life of an accepted run."""

    def __init__(
        self,
        config: Config,
        codes: dict[str, Code],
        world: World,
        disk: Disk,
        hosts: Hosts,
        gateway: Gateway,
        sites: Mapping[str, Site] | None = None,
    ) -> None:
        self.config = config
        self.codes = codes
        self.sites = sites or {}  # the clusters, by name
        self.world = world
        self.root = Scope("jobd", "jobd")
        self.store = Store(disk, world, config.store)
        self.jobs = Jobs(self.store, world, config.requests.jobs_cached_max)
        self.hosts = hosts
        self.broker = Broker(hosts, self.sites)
        self.tokens = Tokens(self.store, world, config.requests.tokens_per_user_max)
        self.library = Library(self.store, world)
        self.files = Files(config.directory / "library", world)
        images = {code.docker.image: code.docker for code in codes.values() if code.docker}
        self.fleet = Fleet(config, world, self.store, self.jobs, hosts, images, gateway, self.root)
        self.logins = Logins(self.fleet, self.root)
        self.begin: Callable[[Run], None]
        self._asking: Counter[str] = Counter()  # requests by user

    def code_of(self, record: RunRecord) -> Code | None:
        """The code of a run as it is at the run's place."""
        site = self.sites.get(record.place) if record.is_batch else None
        return (site.codes if site else self.codes).get(record.code)

    def tier(self, user: UserRecord | None) -> Tier:
        """What the user may have, as things are now; a new user has the tier `default`."""
        return self.config.tier(self.tier_name(user))

    def tier_name(self, user: UserRecord | None) -> str:
        """The name of the user's tier."""
        current = self.jobs.users.get(user.name) if user else None
        return current.tier if current else "default"

    async def ask(self, plan: Plan[T], user: str, job: str, what: str, deadline_s: float) -> T:
        """Dispatch one request in a scope of its own below user and job (empty: it is about none); raises JobdError."""
        limit = self.config.requests.per_user_max
        if self._asking[user] >= limit and user:
            raise QueueFull(f"{limit} requests of this user are open.", limit=limit, retry_after_s=1.0)
        self._asking[user] += 1
        try:
            return await self._ask(plan, user, job, f"{what} {self.world.new_id('o')}", deadline_s)
        finally:
            self._asking[user] -= 1
            if not self._asking[user]:
                del self._asking[user]

    async def _ask(self, plan: Plan[T], user: str, job: str, name: str, deadline_s: float) -> T:
        above = self.root
        for kind, each in (("user", user), ("job", job)):
            above = above.group(kind, each) if each else above
        request = Request(above.open("request", name))
        with request.held, request.scope as scope:
            scope.expire(deadline_s, DEADLINE)
            return await dispatch(plan, request)
        raise self._why(request)

    def _why(self, request: Request) -> JobdError:
        cause = request.scope.cause
        assert cause is not None, "a request's scope ends by itself or by a cause"
        if cause is DEADLINE:
            waited = f"It waited for: {request.situation.text}." if request.situation else ""
            return DeadlineExceeded(waited, retry_after_s=1.0)
        if cause is SHUTDOWN:
            return ShuttingDown(retry_after_s=1.0)
        return Canceled(cause.text, cause=cause.code)


async def gated(core: Core, sequence: int, value: T) -> T:
    """A reply that says what the store must have committed first."""
    await core.store.durable(sequence)
    return value


async def nothing() -> None:
    """The act of a plan whose commit is all there is to do."""
    await trio.lowlevel.checkpoint()
