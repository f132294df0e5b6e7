"""A tab with jobs: they are started, watched, canceled, started again, deleted, and asked about the past."""

import json
from typing import Any

import trio
from attrs import define, field

from jobd import plans
from jobd.delivery import Collected
from jobd.errors import Invalid
from jobd.store import Selection
from jobd.web import events
from schemas import codec
from schemas.api import AnalysisRequest, CancelRequest, Input, Resources, RunRequest, TimeLimits
from schemas.link import Epoch
from schemas.records import SeriesRecord
from schemas.views import HistoryView, JobsView, RunView

from .account_tab import LIBRARY
from .answers import Answers, Glance
from .tab import Deed, Tab, World


@define
class Events:
    """A sink that reads the events of one watcher."""

    answers: Answers
    key: tuple[str, str]
    last: int = 0
    glance: Glance = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.glance = self.answers.glance(*self.key)

    async def begin(self, _head: object) -> None:
        """The stream begins."""

    async def write(self, data: bytes) -> None:
        """Check each stage, and each status against what was known before it."""
        for event in data.decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in event.split("\n") if line and not line.startswith(":"))
            if fields.get("event") == "stage":
                number = int(fields["id"])
                self.answers.pushed(self.key, number, self.last, json.loads(fields["data"]))
                self.last = number
            elif fields.get("event") == "status":
                view = codec.decode(fields["data"], RunView, len(fields["data"]))
                self.answers.answered(view, self.glance, newest=True)
        self.glance = self.answers.glance(*self.key)


class JobsTab(Tab):
    """See the module."""

    def __init__(self, world: World, user: str, jobs: tuple[str, ...]) -> None:
        super().__init__(world, user, jobs)
        self._revisions: dict[str, int] = {}

    @property
    def deeds(self) -> list[tuple[float, Deed]]:
        """See Tab."""
        weigh = self.universe.chance.random
        return [
            (2 + 4 * weigh(), self.run),
            (1 + weigh(), self.status),
            (1 + weigh(), self.long_poll),
            (2 * weigh(), self.cancel),
            (weigh(), self.analyse),
            (weigh() / 2, self.watch),
            (weigh(), self.delete),
            (weigh() / 2, self.listing),
            (weigh() / 2, self.history),
            (weigh() / 2, self.explain),
            (weigh() / 2, self.series),
        ]

    async def run(self, job: str) -> None:
        """PUT run."""
        ask = self._run_request()
        if ask.supersede:
            self.oracle.cancels.add((self.user, job))
        glance = self.answers.glance(self.user, job)
        name = ask.inputs["lib"].library if "lib" in ask.inputs else None
        since = trio.current_time()
        try:
            (status, view), _ = await self.ask(lambda core: plans.accept(core, self.user, job, ask), job, "run")
        except Invalid as error:
            if name is not None and error.fields["field"] == "inputs.lib.library":
                self.belongings.told((self.user, name), None, since)
            raise
        self._told(view, glance)
        if status != 202:
            return
        self.answers.accepted_run(view, glance)
        if name is not None and view.serial is not None:
            accepted = self.oracle.runs[Epoch(self.oracle.ids[self.user, job], view.serial)]
            (digest,) = [each.sha256 for each in accepted.inputs if each.path == "lib"]
            self.belongings.told((self.user, name), digest, since)

    def _run_request(self) -> RunRequest:
        chance = self.universe.chance
        parallel = chance.random() < 0.3
        inputs = {"in": Input(text=str(chance.randrange(4)))}
        if chance.random() < 0.2:
            inputs["lib"] = Input(library=chance.choice(LIBRARY))
        return RunRequest(
            "sim",
            "parallel" if parallel else "sequential",
            inputs,
            Resources(cores=chance.choice([None, 1, 2, 3]) if parallel else None),
            TimeLimits(run_s=chance.choice([None, 10.0]), queue_s=chance.choice([None, None, 30.0])),
            force=chance.random() < 0.5,
            supersede=chance.random() < 0.4,
        )

    async def status(self, job: str) -> None:
        """GET job."""
        await self._status(job, None, 0.0, "status")

    async def long_poll(self, job: str) -> None:
        """GET job, wait for the next change."""
        await self._status(job, self._revisions.get(job), self.universe.up_to(60.0, 1), "long poll")

    async def _status(self, job: str, seen: int | None, wait_s: float, what: str) -> None:
        glance = self.answers.glance(self.user, job)
        (revision, text), _ = await self.ask(
            lambda core: plans.status(core, self.user, job, seen, wait_s), job, what, wait_s + 30.0
        )
        if text:  # else it is what we have
            self._told(codec.decode(text, RunView, len(text)), glance)
        self._revisions[job] = revision

    async def cancel(self, job: str) -> None:
        """POST cancel, of the newest run or of any."""
        glance = self.answers.glance(self.user, job)
        serial = self.universe.chance.choice([None, None, *glance.seen])
        if serial is None or serial == glance.newest:
            self.oracle.cancels.add((self.user, job))
        ask = CancelRequest(serial)
        view, _ = await self.ask(lambda core: plans.cancel(core, self.user, job, ask, self.user), job, "cancel")
        self.answers.answered(view, glance, newest=serial is None)
        over = view.state in ("missing", "completed", "failed", "canceled")
        self.universe.check(over, lambda: f"a cancel of {self.user} {job} {serial} was answered {view.state}")

    async def delete(self, job: str) -> None:
        """DELETE job."""
        self.oracle.deletes.add((self.user, job))
        glance = self.answers.glance(self.user, job)
        view, _ = await self.ask(lambda core: plans.delete(core, self.user, job), job, "delete")
        self.answers.deleted(view, glance)

    async def listing(self, _job: str) -> None:
        """GET jobs, page by page."""
        chance = self.universe.chance
        state = chance.choice([None, None, "pending", "running", "completed", "failed", "canceled"])
        limit = chance.choice([1, 2, 100])
        glances = {job: self.answers.glance(self.user, job) for job in self.jobs}
        pages: list[JobsView] = []
        after: str | None = ""
        while after is not None:
            selection = Selection(limit=limit, after=after, state=state)
            page, _ = await self.ask(lambda core: plans.listing(core, self.user, selection), "", "list")
            pages.append(page)
            after = page.next
        self.answers.listed(self.user, pages, glances, state)

    async def history(self, job: str) -> None:
        """GET runs, page by page."""
        limit = self.universe.chance.choice([1, 2, 100])
        glance = self.answers.glance(self.user, job)
        pages: list[HistoryView] = []
        before = None
        while not pages or before is not None:
            page, _ = await self.ask(lambda core: plans.history(core, self.user, job, before, limit), job, "history")
            pages.append(page)
            before = page.next
        self.answers.history((self.user, job), pages, glance)

    async def explain(self, job: str) -> None:
        """GET explain."""
        glance = self.answers.glance(self.user, job)
        serial = self.universe.chance.choice([None, None, *glance.seen])
        view, _ = await self.ask(lambda core: plans.explain(core, self.user, job, serial), job, "explain")
        self.answers.explained((self.user, job), view, glance if serial is None else self._of(glance, serial))

    async def series(self, job: str) -> None:
        """GET metrics."""
        serial = self.universe.chance.choice([None, *self.answers.glance(self.user, job).seen])
        view, _ = await self.ask(lambda core: plans.series(core, self.user, job, serial), job, "series")
        kept: SeriesRecord | None = self.daemon.platter.tables[SeriesRecord].get(
            (self.oracle.ids[self.user, job], view.serial)
        )
        self.answers.series((self.user, job), view, kept)

    async def analyse(self, job: str) -> None:
        """POST analysis."""
        number = self.universe.chance.randrange(1000)
        sink = Collected()
        ask = AnalysisRequest({"number": number})
        await self.ask(lambda core: plans.analyse(core, self.user, job, "frame", ask, sink), job, "analysis", 60.0)
        result: Any = json.loads(b"".join(sink.pieces))
        good = result[0] == self.oracle.ids[self.user, job] and result[2] == {"number": number}
        self.universe.check(
            good and result[1] == sink.head[0].serial, lambda: f"C10: the answer is {result}, {sink.head}"
        )

    async def watch(self, job: str) -> None:
        """GET events, for a while."""
        last = self.universe.chance.choice([0, None])
        sink = Events(self.answers, (self.user, job), last or 0)
        seconds = self.universe.up_to(120.0, 1)
        await self.daemon.call(lambda core: events.watch(core, self.user, job, last, sink, seconds), "events", seconds)

    def _of(self, glance: Glance, serial: int) -> Glance:
        """What was known of one serial only."""
        return Glance({serial: glance.seen[serial]}, glance.gone)

    def _told(self, view: RunView, glance: Glance) -> None:
        self.universe.trace(f"{self.user} {view.job} told: {view.serial} {view.state}")
        self.answers.answered(view, glance, newest=True)
