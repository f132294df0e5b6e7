"""A job: looked at, listed, explained, canceled, deleted."""

from functools import partial

import attrs
import trio
from attrs import frozen

from jobd.causes import cause
from jobd.core import Core, gated
from jobd.dispatch import Act, Plan, Request, Situation
from jobd.errors import NoRun, RunActive, StaleSerial
from jobd.job import Job, Run
from jobd.jobs import Loaded
from jobd.places import parse
from jobd.plans.runs import cancel_run, post
from jobd.states import api_state
from jobd.store import Selection
from jobd.views import status_text, view_agent, view_job, view_past, view_pool, view_run, view_timeline
from schemas.api import CancelRequest
from schemas.link import Epoch, Remove
from schemas.records import Ended, RunRecord, SeriesRecord
from schemas.views import ExplainView, HistoryView, JobsView, RunView, SeriesView


@frozen
class Newer:
    """Requirement of a long poll: the job's status is no longer the one that the caller has, or time is up."""

    job: Job
    revision: int | None
    until: float  # trio time

    def ready(self) -> Job | None:
        """The job."""
        late = trio.current_time() >= self.until
        return self.job if late or self.job.revision != self.revision else None

    async def wait(self) -> None:
        """Wait for the next change."""
        with trio.move_on_at(self.until):
            await self.job.changed.wait()

    @property
    def situation(self) -> Situation:
        """What is waited for."""
        return Situation("change", "waiting for the job's next change")


@frozen
class Stored:
    """Requirement: a run of the job that is over, read from the store."""

    core: Core
    job: Job
    serial: int

    def ready(self) -> Run | None:
        """The run; raises StaleSerial if the job has none of this serial."""
        if self.job.run is None or not 1 <= self.serial <= self.job.record.serial:
            raise StaleSerial(serial=self.serial)
        if self.serial == self.job.run.record.serial:
            return self.job.run
        return self.job.open.get(self.serial) or self.job.past.get(self.serial)

    async def wait(self) -> None:
        """Read it."""
        await self.core.jobs.read_past(self.job, self.serial)

    @property
    def situation(self) -> Situation:
        """What is waited for."""
        return Situation("store", "reading the run from the store")


@frozen
class Settled:
    """Requirement: every run of the job is proved to be over."""

    job: Job

    def ready(self) -> Job | None:
        """The job."""
        return None if self.job.open else self.job

    async def wait(self) -> None:
        """Wait for the next change."""
        await self.job.changed.wait()

    @property
    def situation(self) -> Situation:
        """What is waited for."""
        return Situation("ending", "the confirmation that nothing of its canceled run is left")


def run_of(core: Core, request: Request, job: Job, serial: int | None) -> Run:
    """The run meant: the newest, or the one of this serial; raises NoRun or StaleSerial."""
    if job.run is None:
        if serial is not None and serial <= job.record.purged:
            raise StaleSerial(serial=serial)
        raise NoRun
    return request.need(Stored(core, job, serial or job.run.record.serial))


def status(core: Core, user: str, name: str, seen: int | None, wait_s: float) -> Plan[tuple[int, str]]:
    """GET job: its revision, and its view as JSON, empty for the one `seen`; with wait_s, at the next change."""
    until = trio.current_time() + min(wait_s, core.config.requests.long_poll_s_max)

    def plan(request: Request) -> Act[tuple[int, str]]:
        job = request.need(Loaded(core.jobs, user, name))
        if seen is not None and wait_s > 0:
            request.need(Newer(job, seen, until))
        text = "" if job.revision == seen else status_text(job, core.fleet, core.world)
        return partial(gated, core, job.sequence, (job.revision, text))

    return plan


def is_over(core: Core, user: str, name: str, serial: int | None) -> Plan[bool]:
    """Whether the run of this serial, or the newest, is proved to be over."""

    def plan(request: Request) -> Act[bool]:
        job = request.need(Loaded(core.jobs, user, name))
        run = job.run if serial is None or job.run is None else job.open.get(serial)
        return partial(gated, core, job.sequence, run is None or isinstance(run.record.state, Ended))

    return plan


def cancel(core: Core, user: str, name: str, ask: CancelRequest, actor: str) -> Plan[RunView]:
    """POST cancel: works in every state and waits for no agent's start; the view says what is confirmed gone."""

    def plan(request: Request) -> Act[RunView]:
        job = request.need(Loaded(core.jobs, user, name))
        run = run_of(core, request, job, ask.serial) if job.run else None
        # commit
        if run is None:
            return partial(gated, core, job.sequence, view_job(job, core.fleet, core.world))
        if run.active:
            cancel_run(core, run, cause("user", ask.reason, actor))

        async def act() -> RunView:
            await core.store.durable(job.sequence)
            with trio.move_on_after(core.config.requests.settle_s):
                while not isinstance(run.record.state, Ended) and _is_linked(core, run):
                    await job.changed.wait()
            return await gated(core, job.sequence, view_run(run, core.fleet, core.world))

        return act

    return plan


def _is_linked(core: Core, run: Run) -> bool:
    agent = core.fleet.of_id(run.agent)
    return agent is not None and agent.link is not None


def delete(core: Core, user: str, name: str) -> Plan[RunView]:
    """DELETE job: its runs are forgotten, their files deleted by the agent as soon as it is there; serials go on."""

    def plan(request: Request) -> Act[RunView]:
        job = request.need(Loaded(core.jobs, user, name))
        if job.run is not None and job.run.active:
            raise RunActive("Cancel it before you delete the job.", serial=job.run.record.serial)
        request.need(Settled(job))
        # commit
        if job.run is not None:
            sequence = core.jobs.purge(job)
            assert job.user is not None, "a job that ran has an owner"
            for place in job.record.places:
                agent = core.fleet.want(job.user, parse(place))
                post(agent, Remove(Epoch(job.record.id, job.record.serial)), sequence)
        return partial(gated, core, job.sequence, view_job(job, core.fleet, core.world))

    return plan


def history(core: Core, user: str, name: str, before: int | None, limit: int) -> Plan[HistoryView]:
    """GET runs: the kept runs below the serial `before`, newest first."""

    def plan(request: Request) -> Act[HistoryView]:
        job = request.need(Loaded(core.jobs, user, name))

        async def act() -> HistoryView:
            await core.store.durable(job.sequence)
            records: tuple[RunRecord, ...] = await core.world.hop(core.store.disk.runs, job.record.id)
            kept = [each for each in reversed(records) if before is None or each.serial < before]
            page = kept[:limit]
            return HistoryView(tuple(map(view_past, page)), page[-1].serial if len(kept) > limit else None)

        return act

    return plan


def listing(core: Core, user: str | None, selection: Selection) -> Plan[JobsView]:
    """GET jobs, of a user or of all: from the store, where everything that is decided has been written."""

    def plan(request: Request) -> Act[JobsView]:
        async def act() -> JobsView:
            await core.store.durable(core.store.sequence)
            owner = core.jobs.users.get(user) if user is not None else None
            if user is not None and owner is None:
                return JobsView(())
            chosen = attrs.evolve(selection, user=owner.id if owner else None, limit=selection.limit + 1)
            found = await core.world.hop(core.store.disk.jobs, chosen)
            page = found[: selection.limit]
            last = (page[-1][0].name if owner else page[-1][0].id) if len(found) > len(page) else None
            # As they are now, which may be newer than what was read, and is gated like everything that is said.
            views = (view_run(core.jobs.seen(job, run), core.fleet, core.world) for job, run in page)
            shown = tuple(view for view in views if selection.state in (None, view.state))
            return await gated(core, core.store.sequence, JobsView(shown, last))

        return act

    return plan


def series(core: Core, user: str, name: str, serial: int | None) -> Plan[SeriesView]:
    """GET metrics: the kept scalars of a run, running or over."""

    def plan(request: Request) -> Act[SeriesView]:
        job = request.need(Loaded(core.jobs, user, name))
        run = run_of(core, request, job, serial)

        async def act() -> SeriesView:
            await core.store.durable(job.sequence)
            kept: SeriesRecord | None
            if run.series.rows:
                kept = run.series.record(*run.key)
            else:
                kept = await core.world.hop(core.store.disk.series, *run.key)
            return SeriesView(run.record.serial, kept.names if kept else (), kept.rows if kept else ())

        return act

    return plan


def explain(core: Core, user: str, name: str, serial: int | None) -> Plan[ExplainView]:
    """GET explain: why it waits, for what and how far back; or why it ended."""

    def plan(request: Request) -> Act[ExplainView]:
        job = request.need(Loaded(core.jobs, user, name))
        if job.run is None and serial is None:
            return partial(gated, core, job.sequence, ExplainView("missing", "This job has no run."))
        run = run_of(core, request, job, serial)
        return partial(gated, core, job.sequence, _explained(core, run))

    return plan


def _explained(core: Core, run: Run) -> ExplainView:
    view = view_run(run, core.fleet, core.world)
    ticket = run.situation.ticket if run.situation else None
    agent = core.fleet.of_id(run.agent) or core.fleet.agents.get((run.user.id, run.record.place))
    if view.cause is not None:
        why = view.cause.text
    elif view.situation is not None:
        ahead = f", {view.situation.ahead} ahead of it" if view.situation.ahead else ""
        why = f"It is {view.situation.text}{ahead}."
    else:
        why = "It runs." if view.known and view.known.state == "fresh" else "It ran when its agent was last heard."
    if agent is not None and agent.failure:
        why += f" Its agent could not be started: {agent.failure}"
    return ExplainView(
        state=api_state(run.record.state),
        why=why,
        serial=run.record.serial,
        situation=view.situation,
        pool=view_pool(ticket.pool) if ticket else None,
        wanted=ticket.amount if ticket else (),
        agent=view_agent(agent, core.jobs.runs_on(agent.record.id), core.world) if agent else None,
        cause=view.cause,
        timeline=view_timeline(run.record),
        limits=attrs.asdict(run.record.limits),
    )
