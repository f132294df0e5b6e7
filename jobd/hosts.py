"""The hosts on which agents are: their slots, whether they can be reached, and which one a run goes to.

A host that cannot be reached is set aside: nothing new goes there, and what is there is `unknown`, not dead. It is
tried again with back-off. A host that drains starts nothing new either, and what is there goes on to its end.
"""

import logging
from collections.abc import Iterable, Iterator

import trio

from backends.base import Backend, BackendError, Enclosure
from jobd.broker import Amount, Pool
from jobd.config import Agents, Config
from jobd.scopes import Notice
from schemas.records import HostRecord

log = logging.getLogger(__name__)

RANK_HOST = 3
SETTLE_S = 1.0  # an engine that is stopped ends its containers first, and is gone itself a moment later


class Host:
    """One host: the backend that reaches it, and the slots that runs may use."""

    def __init__(
        self,
        name: str,
        backend: Backend,
        capacity: Amount,
        *,
        group: str = "default",
        agents_max: int = 1000,
        remote: bool = False,
        by_login: bool = False,
    ) -> None:
        self.name = name
        self.by_login = by_login  # a cluster: agents are started there when their users log in (logins.py)
        self.remote = remote  # it shares no disk with jobd, so its agents call home over TLS
        self.group = group
        self.backend = backend
        self.enclosure = backend if isinstance(backend, Enclosure) else None
        self.pool = Pool("host" if name == "local" else f"host {name}", RANK_HOST, capacity)
        self.agents_max = agents_max
        self.draining = False
        # Why it is set aside; empty: it is not. A remote one needs a relay before anything can start there.
        self.failure = "it has not been looked at yet" if remote and not by_login else ""
        self.changed = Notice()
        self._lost_at: float | None = None  # when it last could not be reached
        self._back_at = 0.0  # and when it could again

    @property
    def open(self) -> bool:
        """Whether something new may start here."""
        return not self.failure and not self.draining

    @property
    def load(self) -> float:
        """How much of its slots is used or waited for, by the unit of which that is most."""
        return max(each / there for each, there in zip(self.pool.wanted, self.pool.capacity, strict=True))

    def lose(self, why: str) -> None:
        """It cannot be reached."""
        if not self.failure:
            log.warning("host %s is set aside: %s", self.name, why)
            self._lost_at = trio.current_time()
        self.failure = why
        self._tell()

    def found(self) -> None:
        """It can be reached."""
        if self.failure:
            log.info("host %s is back", self.name)
            self.failure, self._back_at = "", trio.current_time()
            self._tell()

    def drain(self, draining: bool) -> None:
        """On an operator's word: start nothing new here, or again."""
        self.draining = draining
        self._tell()

    async def was_lost(self, since: float) -> bool:
        """Whether it was out of reach at some time since then (of trio's clock), or will be in a moment."""
        with trio.move_on_after(SETTLE_S):
            while not self.failure:
                await self.changed.wait()
        return bool(self.failure) or (self._lost_at is not None and self._back_at >= since)

    async def watch(self, config: Agents) -> None:
        """Know for ever whether it can be reached. A host without an enclosure is this machine."""
        if self.enclosure is None:
            return
        backoff_s = config.backoff_s
        while True:
            began = trio.current_time()
            try:
                await self.enclosure.until_lost(self.found)
            except BackendError as error:
                self.lose(str(error))
            if trio.current_time() - began > config.backoff_s_max:
                backoff_s = config.backoff_s
            await trio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, config.backoff_s_max)

    def _tell(self) -> None:
        self.changed.notify()
        self.pool.disturb()  # who waits here may go elsewhere


class Hosts:
    """All hosts, by name."""

    def __init__(self, hosts: list[Host]) -> None:
        self._hosts = {host.name: host for host in hosts}
        self.changed = Notice()  # news of any of them
        for host in hosts:
            host.changed = self.changed

    def add(self, host: Host) -> None:
        """One more, before anything runs."""
        self._hosts[host.name] = host
        host.changed = self.changed

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts.values())

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def get(self, name: str) -> Host | None:
        """The host of this name, if the configuration still has it."""
        return self._hosts.get(name)

    def restore(self, records: Iterable[HostRecord]) -> None:
        """Take up what operators have said."""
        for record in records:
            if (host := self.get(record.id)) is not None:
                host.draining = record.draining

    def capacity(self, group: str) -> Amount:
        """The slots of the largest host that this group has, by each unit."""
        return max((host.pool.capacity for host in self.of_group(group)), default=(0, 0))

    def of_group(self, group: str) -> list[Host]:
        """The hosts that a tier may use."""
        return [host for host in self if host.group == group]

    def choose(self, group: str, amount: Amount, preferred: list[str]) -> Host | None:
        """Where a run of this size should go now: to the first of the preferred hosts that is open and large enough,
        or else to the least loaded one; None while none is open."""
        able = {host.name: host for host in self.of_group(group) if host.open and host.pool.fits(amount)}
        for name in preferred:
            if name in able:
                return able[name]
        return min(able.values(), key=lambda host: host.load, default=None)


def cluster_host(name: str, backend: Backend) -> Host:
    """A cluster: its scheduler gives out what it has, so there is no end of slots here."""
    capacity = 1 << 40, 1 << 60
    return Host(name, backend, capacity, group=f"cluster {name}", remote=True, by_login=True)


def this_machine(config: Config, backend: Backend) -> Hosts:
    """The only host, where agents are not in containers."""
    slots = config.host.cores, config.host.memory_bytes
    return Hosts([Host("local", backend, slots, agents_max=config.agents.agents_max)])
