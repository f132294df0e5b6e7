"""The product in one place: one plan for each request type.

A plan is a plain function: it asks `request.need(...)` for each thing in order, then commits, and returns its act, the
only part that awaits. It is run again from the top after every wait, so nothing in it is ever stale. Everything above
the line `# commit` may happen many times; everything below happens once.
"""

from functools import partial
from typing import Any

import trio
from attrs import frozen

from jobd import acceptance, delivery, states
from jobd.agent import Agent
from jobd.broker import Pool, Ticket
from jobd.causes import cause
from jobd.core import PLACE, Core, gated, nothing
from jobd.delivery import Sink
from jobd.dispatch import Act, Awaited, Held, Plan, Request, Situation
from jobd.errors import Invalid, NoRun, NotFound, QueueFull, RunActive, StaleSerial
from jobd.fleet import Connected
from jobd.jobs import Job, Loaded, Run
from jobd.orders import start_order
from jobd.views import view_job, view_run
from schemas.api import AnalysisRequest, CancelRequest, RunRequest, RunView
from schemas.link import Analyse, Epoch, List, Order, Read
from schemas.records import Cause, Ended, Pending

# --- a run: accepted, admitted, started -----------------------------------------------------------------------------


def accept(core: Core, user: str, name: str, ask: RunRequest) -> Plan[tuple[int, RunView]]:
    """PUT run: the run is on disk when this is answered; it waits for no agent, queue or core. HTTP status and view."""
    draft, blobs = acceptance.draft(core.codes, ask, core.world.now())
    if not core.broker.host.fits((draft.slots.cores, draft.slots.memory_bytes)):
        cores, memory = core.broker.host.capacity
        raise Invalid(f"This site has {cores} cores and {memory} bytes of memory for a run.", field="resources")

    def plan(request: Request) -> Act[tuple[int, RunView]]:
        job = request.need(Loaded(core.jobs, user, name))
        newest = job.run
        if newest is not None and newest.record.input_hash == draft.input_hash:
            completed = states.api_state(newest.record.state) == "completed"
            if newest.active or (completed and not ask.force):
                return partial(gated, core, job.sequence, (200, view_job(job, core.fleet, core.world)))
        if newest is not None and newest.active and not ask.supersede:
            raise RunActive(serial=newest.record.serial)
        core.store.check()
        tier = core.config.tier(job.user.tier if job.user else "default")
        if job.user and core.jobs.pending_of(job.user) >= tier.pending_max:
            raise QueueFull(f"{tier.pending_max} runs are waiting.", limit=tier.pending_max, retry_after_s=10.0)
        if core.broker.host.waiting >= core.broker.host.waiting_max:
            raise QueueFull("Too many runs wait for this site.", limit=core.broker.host.waiting_max, retry_after_s=60.0)
        if getattr(tier, ask.mode) == 0:
            raise Invalid(f"The user's tier allows no {ask.mode} runs.", field="mode")
        # commit
        if newest is not None and newest.active:
            _cancel(core, newest, cause("superseded", actor=user))
        run = core.jobs.accept(job, "default", draft, blobs)
        core.begin(run)
        return partial(gated, core, job.sequence, (202, view_job(job, core.fleet, core.world)))

    return plan


def admit(core: Core, run: Run) -> Plan[None]:
    """In the run's own scope: its slots, in the order of the pools."""

    def plan(request: Request) -> Act[None]:
        for slot in slots_of(core, run, request.held):
            request.need(slot)
        # commit
        core.jobs.advance(run, states.Admitted())
        return nothing

    return plan


def start(core: Core, run: Run) -> Plan[None]:
    """In the run's own scope: the agent has called home, so the order is committed and posted."""

    def plan(request: Request) -> Act[None]:
        agent = request.need(Connected(core.fleet, run.user, PLACE, patient=True))
        # commit
        sequence = core.jobs.advance(run, states.Ordered(agent.record.id))
        post(agent, start_order(run.record), sequence)
        return nothing

    return plan


@frozen
class Slot:
    """Requirement: the ticket has been granted."""

    ticket: Ticket
    code: str
    text: str

    def ready(self) -> Ticket | None:
        """The ticket once it holds its slots."""
        return self.ticket if self.ticket.granted else None

    async def wait(self) -> None:
        """Wait for the grant."""
        await self.ticket.wait()

    @property
    def situation(self) -> Situation:
        """What is waited for, and how far back."""
        return Situation(self.code, self.text, self.ticket)


def slots_of(core: Core, run: Run, held: Held, *, granted: bool = False) -> list[Slot]:
    """The slots that a run occupies until its end is proved, as requirements; each is joined when its turn comes."""
    record, user = run.record, run.user.id
    host = (record.slots.cores, record.slots.memory_bytes)
    wanted: list[tuple[Pool, tuple[int, ...], str, str]] = [
        (core.broker.user_runs(run.user, record.mode), (1,), "user_runs", f"another {record.mode} run of this user"),
        (core.broker.directory(record.job), (1,), "previous_run", "the end of the job's previous run to be confirmed"),
        (core.broker.host, host, "host", f"{record.slots.cores} free cores"),
    ]
    slots = []
    for pool, amount, code, text in wanted:
        slots.append(Slot(held.ticket(pool, user, amount, granted=granted), code, f"waiting for {text}"))
        if not slots[-1].ticket.granted:
            break  # the next queue is joined when this one has let us through
    return slots


# --- looking and cancelling -----------------------------------------------------------------------------------------


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


def status(core: Core, user: str, name: str, seen: int | None, wait_s: float) -> Plan[tuple[int, RunView]]:
    """GET job: its revision and view; with `seen`, at the next change, or after wait_s."""
    until = trio.current_time() + min(wait_s, core.config.requests.long_poll_s_max)

    def plan(request: Request) -> Act[tuple[int, RunView]]:
        job = request.need(Loaded(core.jobs, user, name))
        if seen is not None and wait_s > 0:
            request.need(Newer(job, seen, until))
        return partial(gated, core, job.sequence, (job.revision, view_job(job, core.fleet, core.world)))

    return plan


def cancel(core: Core, user: str, name: str, ask: CancelRequest, actor: str) -> Plan[RunView]:
    """POST cancel: works in every state and waits for no agent's start; the view says what is confirmed gone."""

    def plan(request: Request) -> Act[RunView]:
        job = request.need(Loaded(core.jobs, user, name))
        run = _run_of(core, request, job, ask.serial) if job.run else None
        # commit
        if run is None:
            return partial(gated, core, job.sequence, view_job(job, core.fleet, core.world))
        if run.active:
            _cancel(core, run, cause("user", ask.reason, actor))

        async def act() -> RunView:
            await core.store.durable(job.sequence)
            with trio.move_on_after(core.config.requests.settle_s):
                while not isinstance(run.record.state, Ended) and _is_linked(core, run):
                    await job.changed.wait()
            return await gated(core, job.sequence, view_run(run, core.fleet, core.world))

        return act

    return plan


def _cancel(core: Core, run: Run, why: Cause) -> None:
    core.jobs.advance(run, states.Canceled(why))
    if run.scope is not None:
        run.scope.cancel(why)


def _is_linked(core: Core, run: Run) -> bool:
    agent = core.fleet.agents.get((run.user.id, PLACE))
    return agent is not None and agent.link is not None


# --- asking an agent ------------------------------------------------------------------------------------------------


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


def _run_of(core: Core, request: Request, job: Job, serial: int | None) -> Run:
    """The run meant: the newest, or the one of this serial; raises NoRun or StaleSerial."""
    if job.run is None:
        raise NoRun
    return request.need(Stored(core, job, serial or job.run.record.serial))


def analyse(core: Core, user: str, name: str, method: str, ask: AnalysisRequest, sink: Sink) -> Plan[None]:
    """One question to the code's analysis worker about a run, running or over; never waits behind runs."""

    def order(op: str, run: Run) -> Order:
        code = core.codes.get(run.record.code)
        worker = code.worker() if code else None
        if code is None or code.analysis is None or worker is None or method not in code.analysis.methods:
            raise NotFound(f"The code '{run.record.code}' has no analysis method '{method}'.")
        return Analyse(op, _epoch(run), worker, method, ask.arguments)

    return _question(core, (user, name), ask.serial, order, sink)


def read(
    core: Core,
    user: str,
    name: str,
    serial: int | None,
    path: str | None,
    window: tuple[int, int | None, float],
    sink: Sink,
) -> Plan[None]:
    """Bytes of a file of the run directory, or of the log: window is offset, length and how long to wait for more."""
    offset, length, wait_s = window
    return _question(
        core, (user, name), serial, lambda op, run: Read(op, _epoch(run), path, offset, length, wait_s), sink
    )


def list_files(core: Core, user: str, name: str, serial: int | None, sink: Sink) -> Plan[None]:
    """The files of the run directory."""
    return _question(core, (user, name), serial, lambda op, run: List(op, _epoch(run)), sink)


def _question(core: Core, key: tuple[str, str], serial: int | None, order: Any, sink: Sink) -> Plan[None]:
    """One op of the user's agent, whose answer is delivered to the sink."""

    def plan(request: Request) -> Act[None]:
        job = request.need(Loaded(core.jobs, *key))
        run = _run_of(core, request, job, serial)
        if run.agent is None and not _has_run(run):
            raise NoRun("It has not been started yet.")
        connected = Connected(core.fleet, run.user, PLACE)
        agent = request.need(connected)
        # commit (of nothing but the question)
        op = agent.open_op(core.world.new_id("o"), core.config.agents.ops_max)
        message = order(op.id, run)

        async def act() -> None:
            with op:
                post(agent, message)
                if not await delivery.deliver(core, op, sink, run.record.serial):
                    raise Awaited(connected)  # the link was lost: it only reads, so it starts over

        return act

    return plan


def _has_run(run: Run) -> bool:
    """Whether there ever was a run directory: one that ended in the queue has none."""
    return not isinstance(run.record.state, Pending) and any(each.name == "ordered" for each in run.record.timeline)


def _epoch(run: Run) -> Epoch:
    return Epoch(run.record.job, run.record.serial)


def post(agent: Agent, order: Order, sequence: int = 0) -> None:
    """Post on the agent's link, if it has one; whoever has none hears it in its Welcome."""
    if agent.link is not None:
        agent.link.post(order, sequence)
