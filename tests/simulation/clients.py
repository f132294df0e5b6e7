"""Users who never coordinate: they start, watch, cancel, start again, hang up, and ask about the past."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from attrs import define, field

from jobd import plans
from jobd.delivery import Collected
from jobd.errors import JobdError
from jobd.web import events
from schemas.api import AnalysisRequest, CancelRequest, Input, Resources, RunRequest, TimeLimits
from schemas.views import RunView

from .daemon import Daemon, Unanswered
from .oracle import Oracle
from .universe import Universe

WATCHERS = False  # jobd.web.events pushes what is not committed yet (a test shows it): True when that is mended


@define
class Events:
    """A sink that reads the events of one watcher."""

    oracle: Oracle
    key: tuple[str, str]
    last: int = 0

    async def begin(self, _head: object) -> None:
        """The stream begins."""

    async def write(self, data: bytes) -> None:
        """Check each stage event."""
        for event in data.decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in event.split("\n") if line and not line.startswith(":"))
            if fields.get("event") == "stage":
                number = int(fields["id"])
                self.oracle.pushed(self.key, number, self.last, json.loads(fields["data"]))
                self.last = number


@define(eq=False)
class Client:
    """One user at several tabs."""

    universe: Universe
    oracle: Oracle
    daemon: Daemon
    name: str
    jobs: tuple[str, ...]
    revisions: dict[str, int] = field(factory=dict)
    deeds: list[tuple[float, Callable[[str], Awaitable[None]]]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        weigh = self.universe.chance.random
        self.deeds = [
            (2 + 4 * weigh(), self.run),
            (1 + weigh(), self.status),
            (1 + weigh(), self.long_poll),
            (2 * weigh(), self.cancel),
            (weigh(), self.analyse),
            (weigh() / 2 * WATCHERS, self.watch),
        ]

    async def live(self, until: float) -> None:
        """Deed after deed, some of them at once; some hang up."""
        chance = self.universe.chance
        async with trio.open_nursery() as nursery:
            while trio.current_time() < until:
                await trio.sleep(self.universe.about(self.universe.climate.pause_s))
                (deed,) = chance.choices([deed for _, deed in self.deeds], [weight for weight, _ in self.deeds])
                patience_s = chance.random() * 10 if chance.random() < 0.15 else 1e9
                nursery.start_soon(self._do, deed, chance.choice(self.jobs), patience_s)

    async def _do(self, deed: Callable[[str], Awaitable[None]], job: str, patience_s: float) -> None:
        with trio.move_on_after(patience_s):
            try:
                await deed(job)
            except Unanswered:
                self.universe.count("unanswered")
            except JobdError as error:
                self.universe.trace(f"{self.name} {job} refused: {error.code}")

    async def run(self, job: str) -> None:
        """PUT run."""
        chance = self.universe.chance
        parallel = chance.random() < 0.3
        ask = RunRequest(
            "sim",
            "parallel" if parallel else "sequential",
            {"in": Input(text=str(chance.randrange(4)))},
            Resources(cores=chance.choice([None, 1, 2, 3]) if parallel else None),
            TimeLimits(run_s=chance.choice([None, 10.0]), queue_s=chance.choice([None, None, 30.0])),
            force=chance.random() < 0.5,
            supersede=chance.random() < 0.4,
        )
        if ask.supersede:
            self.oracle.cancels.add((self.name, job))
        glance = self.oracle.glance(self.name, job)
        status, view = await self.daemon.ask(
            lambda core: plans.accept(core, self.name, job, ask), self.name, job, "run", 30.0
        )
        self._told(view, glance)
        if status == 202:
            self.oracle.accepted_run(view)

    async def status(self, job: str) -> None:
        """GET job."""
        await self._status(job, None, 0.0)

    async def long_poll(self, job: str) -> None:
        """GET job, wait for the next change."""
        await self._status(job, self.revisions.get(job), self.universe.up_to(60.0, 1))

    async def _status(self, job: str, seen: int | None, wait_s: float) -> None:
        glance = self.oracle.glance(self.name, job)
        revision, view = await self.daemon.ask(
            lambda core: plans.status(core, self.name, job, seen, wait_s), self.name, job, "status", wait_s + 30.0
        )
        self._told(view, glance)
        self.revisions[job] = revision

    async def cancel(self, job: str) -> None:
        """POST cancel, of the newest run or of any."""
        glance = self.oracle.glance(self.name, job)
        serial = self.universe.chance.choice([None, None, *glance])
        if serial is None or serial == max(glance):
            self.oracle.cancels.add((self.name, job))
        view = await self.daemon.ask(
            lambda core: plans.cancel(core, self.name, job, CancelRequest(serial), self.name),
            self.name, job, "cancel", 30.0,
        )  # fmt: skip
        self.oracle.answered(view, glance, newest=serial is None)
        over = view.state in ("missing", "completed", "failed", "canceled")
        self.universe.check(over, lambda: f"a cancel of {self.name} {job} {serial} was answered {view.state}")

    async def analyse(self, job: str) -> None:
        """POST analysis."""
        number = self.universe.chance.randrange(1000)
        sink = Collected()
        await self.daemon.ask(
            lambda core: plans.analyse(core, self.name, job, "frame", AnalysisRequest({"number": number}), sink),
            self.name, job, "analysis", 60.0,
        )  # fmt: skip
        result: Any = json.loads(b"".join(sink.pieces))
        good = result[0] == self.oracle.ids[self.name, job] and result[2] == {"number": number}
        self.universe.check(
            good and result[1] == sink.head[0].serial, lambda: f"C10: the answer is {result}, {sink.head}"
        )

    async def watch(self, job: str) -> None:
        """GET events, for a while."""
        last = self.universe.chance.choice([0, None])
        sink = Events(self.oracle, (self.name, job), last or 0)
        seconds = self.universe.up_to(120.0, 1)
        await self.daemon.call(lambda core: events.watch(core, self.name, job, last, sink, seconds), "events", seconds)

    def _told(self, view: RunView, glance: dict[int, Any]) -> None:
        self.universe.trace(f"{self.name} {view.job} told: {view.serial} {view.state}")
        self.oracle.answered(view, glance, newest=True)
