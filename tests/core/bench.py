"""A core on a bench: real parts, an inline world, a disk in memory, and an agent that is a transport we hold."""

import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio
from attrs import define, field

from backends.base import AgentSpec
from backends.fake import FakeBackend, Place
from jobd.agent import Agent
from jobd.clusters import Site
from jobd.codes import Analysis, Code, CodeMode, ModeLimits
from jobd.config import Config, Host, Requests, Tier
from jobd.core import Core
from jobd.dispatch import Request, dispatch
from jobd.facts import serve_link
from jobd.gateway import Gateway
from jobd.hosts import this_machine
from jobd.link import LinkClosed
from jobd.store import Blob, Memory, Write
from schemas import codec
from schemas.api import Input, RunRequest
from schemas.ids import new_id
from schemas.link import MESSAGE_BYTES_MAX, Beat, Fact, Hello, Order, Start, Welcome
from schemas.records import AgentRecord, Ended, Instant, JobRecord, RunRecord, UserRecord

T = TypeVar("T")

CODE = Code(
    "sim",
    "A code",
    "1",
    {"sequential": CodeMode(("sim",), cores_max=4, limits=ModeLimits(memory_bytes=1 << 20))},
    analysis=Analysis(("worker",), methods=("frame",), compute=("square",)),
)


@define
class InlineWorld:
    """Virtual time, inline hops, seeded chance."""

    chance: random.Random = field(factory=lambda: random.Random(1))

    def now(self) -> Instant:
        return Instant(1e9 + trio.current_time(), trio.current_time(), "boot")

    async def hop(self, function: Callable[..., T], *arguments: Any) -> T:
        await trio.lowlevel.checkpoint()
        return function(*arguments)

    def new_id(self, kind: str) -> str:
        return new_id(kind, self.chance.getrandbits(45))

    def new_token(self) -> str:
        return f"token {self.chance.random()}"

    def jitter(self) -> float:
        return 0.0


@define
class MemoryDisk:
    """A disk that fails while `fails`, and keeps what was committed, batch by batch."""

    batches: list[list[Write]] = field(factory=list)
    fails: bool = False
    is_scarce: bool = False

    def write(self, batch: Sequence[Write]) -> None:
        if self.fails:
            raise OSError("the disk is full")
        self.batches.append(list(batch))

    def of(self, kind: type[T]) -> list[T]:
        found = {_key(each): each for batch in self.batches for each in batch if isinstance(each, kind)}
        return list(found.values())

    def look_for_room(self) -> None:
        self.is_scarce = False

    def load(self) -> Memory:
        runs = [run for run in self.of(RunRecord) if not isinstance(run.state, Ended)]
        jobs = tuple(job for job in self.of(JobRecord) if any(run.job == job.id for run in runs))
        return Memory(tuple(self.of(UserRecord)), tuple(self.of(AgentRecord)), jobs, tuple(runs), 0)

    def job(self, user: str, name: str) -> tuple[JobRecord, RunRecord | None] | None:
        for job in self.of(JobRecord):
            if (job.user, job.name) == (user, name):
                return job, self.runs(job.id)[-1]
        return None

    def runs(self, job: str) -> tuple[RunRecord, ...]:
        return tuple(run for run in self.of(RunRecord) if run.job == job)

    def blob(self, sha256: str) -> bytes | None:
        return next((blob.content for blob in self.of(Blob) if blob.sha256 == sha256), None)


@define(eq=False)
class Wire:
    """The agent's end of a link: what jobd has sent, and a way to say something."""

    orders: list[Order] = field(factory=list)
    closed: bool = False
    swallows: bool = False  # half-open: what is sent on it goes nowhere, and no error says so
    answers: Callable[[Order], Fact | None] = lambda _order: None
    _facts: Any = field(factory=lambda: trio.open_memory_channel[str](100))

    def say(self, fact: Fact) -> None:
        self._facts[0].send_nowait(codec.encode(fact))

    def take(self, kind: type[T]) -> list[T]:
        taken = [order for order in self.orders if isinstance(order, kind)]
        self.orders = [order for order in self.orders if not isinstance(order, kind)]
        return taken

    def assert_empty(self) -> None:
        assert not [order for order in self.orders if not isinstance(order, Beat | Welcome)]

    async def send(self, text: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.closed:
            raise LinkClosed
        if self.swallows:
            return
        order = codec.decode(text, Order, MESSAGE_BYTES_MAX)
        self.orders.append(order)
        answer = order if isinstance(order, Beat) else self.answers(order)
        if answer:
            self.say(answer)

    async def receive(self) -> str:
        try:
            text: str = await self._facts[1].receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise LinkClosed from None
        return text

    async def aclose(self) -> None:
        self.closed = True
        self._facts[1].close()
        await trio.lowlevel.checkpoint()


class NoDoors(Gateway):
    """Nobody calls home by itself."""

    @asynccontextmanager
    async def doors(self, agent: Agent) -> AsyncGenerator[None, None]:
        yield


@define(eq=False)
class Bench:
    """A core whose runs are only noted when they begin."""

    core: Core
    disk: MemoryDisk
    nursery: trio.Nursery
    chance: random.Random
    begun: list[Any] = field(factory=list)

    async def ask(self, plan: Any, request: Request | None = None) -> Any:
        """Dispatch a plan, with a request of one's own if wanted."""
        request = request or self.request()
        with request.held, request.scope:
            return await dispatch(plan, request)

    def request(self) -> Request:
        """A request of its own."""
        return Request(self.core.root.open("request", self.core.world.new_id("o")))

    async def link(self, user: UserRecord, wire: Wire | None = None, place: str = "local", **hello: Any) -> Wire:
        """The user's agent at this place calls home."""
        key = user.id, place
        if key not in self.core.fleet.agents:
            record = AgentRecord(self.core.world.new_id("a"), user.id, place, awake=True)
            self.core.fleet.restore({user.id: user}, (record,))
            self.core.store.put(record)
        agent, wire = self.core.fleet.agents[key], wire or Wire()
        wire.say(Hello(1, 1, agent.record.id, agent.record.generation, "boot", "3.11", 1, agent.record.fact, **hello))
        self.nursery.start_soon(serve_link, self.core, agent, wire)
        await trio.testing.wait_all_tasks_blocked()
        return wire


@asynccontextmanager
async def bench(
    disk: Any = None, sites: Mapping[str, Site] | None = None, **config: Any
) -> AsyncGenerator[Bench, None]:
    """A bench, its store running."""
    disk = disk or MemoryDisk()
    async with trio.open_nursery() as nursery:
        backend = FakeBackend(Place(nursery, _live))
        world = InlineWorld()
        settings = configuration(**config)
        core = Core(settings, {"sim": CODE}, world, disk, this_machine(settings, backend), NoDoors(), sites)
        built = Bench(core, disk, nursery, world.chance)
        core.begin = built.begun.append
        nursery.start_soon(core.store.run)
        nursery.start_soon(core.fleet.run)
        yield built
        nursery.cancel_scope.cancel()


async def _live(_spec: AgentSpec) -> None:
    await trio.sleep_forever()


def configuration(**config: Any) -> Config:
    """Small numbers."""
    requests = Requests(jobs_cached_max=config.pop("jobs_cached_max", 100))
    tiers = {"default": Tier(sequential=2, parallel=1, pending_max=5), "large": Tier(sequential=9)}
    return Config("/bench", "/bench/codes", tiers=tiers, host=Host(4, 1 << 30), requests=requests, **config)


def run_request(text: str = "1", **fields: Any) -> RunRequest:
    """A run with this input."""
    return RunRequest("sim", "sequential", {"in": Input(text=text)}, **fields)


def starts(wire: Wire) -> list[Start]:
    """The start orders that have left."""
    return wire.take(Start)


def _key(record: Any) -> tuple[Any, ...]:
    if isinstance(record, RunRecord):
        return RunRecord, record.job, record.serial
    return type(record), getattr(record, "sha256", None) or record.id
