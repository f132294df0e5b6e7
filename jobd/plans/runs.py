"""A run: accepted, admitted, started. The first is a request's plan, the others live in the run's own scope."""

from functools import partial

from attrs import frozen

from jobd import acceptance, states
from jobd.agent import Agent
from jobd.broker import Pool, Ticket
from jobd.causes import cause
from jobd.config import Tier
from jobd.core import Core, gated, nothing
from jobd.dispatch import Act, Held, Plan, Request, Situation
from jobd.errors import Invalid, QueueFull, RunActive
from jobd.fleet import Connected
from jobd.hosts import Host
from jobd.job import Run
from jobd.jobs import Loaded
from jobd.library import Shelf, Shelved
from jobd.orders import start_order
from jobd.placement import Open, host_for, place_on
from jobd.places import parse
from jobd.views import view_job
from schemas.api import RunRequest
from schemas.link import Order
from schemas.records import Cause, Pending, Slots
from schemas.views import RunView


def accept(core: Core, user: str, name: str, ask: RunRequest) -> Plan[tuple[int, RunView]]:
    """PUT run: the run is on disk when this is answered; it waits for no agent, queue or core. HTTP status and view."""

    def plan(request: Request) -> Act[tuple[int, RunView]]:
        job = request.need(Loaded(core.jobs, user, name))
        newest = job.run
        if newest is not None and ask.idempotency_key and newest.record.idempotency_key == ask.idempotency_key:
            return partial(gated, core, job.sequence, (200, view_job(job, core.fleet, core.world)))
        shelf = request.need(Shelved(core.library, core.jobs.users.get(user))) if ask.names_library else Shelf({})
        draft, blobs = acceptance.draft(core.codes, core.sites, ask, shelf.files, core.world.now())
        tier = core.tier(job.user)
        if ask.batch is None:  # a cluster's sizes were checked with its description
            check_size(core, tier, draft.slots)
        if newest is not None and newest.record.input_hash == draft.input_hash:
            completed = states.api_state(newest.record.state) == "completed"
            if newest.active or (completed and not ask.force):
                return partial(gated, core, job.sequence, (200, view_job(job, core.fleet, core.world)))
        if newest is not None and newest.active and not ask.supersede:
            raise RunActive(serial=newest.record.serial)
        core.store.check()
        if job.user and core.jobs.pending_of(job.user) >= tier.pending_max:
            raise QueueFull(f"{tier.pending_max} runs are waiting.", limit=tier.pending_max, retry_after_s=10.0)
        if all(host.pool.is_full for host in core.hosts if not host.by_login):
            raise QueueFull("Too many runs wait for this site.", retry_after_s=60.0)
        if getattr(tier, ask.mode) == 0:
            raise Invalid(f"The user's tier allows no {ask.mode} runs.", field="mode")
        # commit
        if newest is not None and newest.active:
            cancel_run(core, newest, cause("superseded", actor=user))
        run = core.jobs.accept(job, draft, blobs)
        core.begin(run)
        return partial(gated, core, job.sequence, (202, view_job(job, core.fleet, core.world)))

    return plan


def admit(core: Core, run: Run) -> Plan[None]:
    """In the run's own scope: its slots, in the order of the pools."""

    def plan(request: Request) -> Act[None]:
        for slot in slots_of(core, run, request.held):
            request.need(slot)
        if run.record.is_batch:
            request.need(Connected(core.fleet, run.user, parse(run.record.place), patient=True))
        host = request.need(Open(core, run, request.held))
        request.need(_host_slot(core, run, request.held, host))
        # commit
        core.jobs.advance(run, states.Admitted(str(place_on(core, host, run))))
        run.admitted = True
        return nothing

    return plan


def start(core: Core, run: Run) -> Plan[None]:
    """In the run's own scope: the agent has called home, so the order is committed and posted."""

    def plan(request: Request) -> Act[None]:
        place = parse(run.record.place)
        slots = run.record.slots if place.role == "run" else None
        agent = request.need(Connected(core.fleet, run.user, place, patient=True, slots=slots))
        # commit
        sequence = core.jobs.advance(run, states.Ordered(agent.record.id, agent.record.image_digest))
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
    """The user's and the job's slots that a run occupies until its end is proved, as requirements; each is joined when
    its turn comes."""
    record, user = run.record, run.user.id
    wanted: list[tuple[Pool, str, str]] = [
        (_user_runs(core, run), "user_runs", f"another {record.mode} run of this user"),
        (core.broker.directory(record.job), "previous_run", "the end of the job's previous run to be confirmed"),
    ]
    slots = []
    for pool, code, text in wanted:
        slots.append(Slot(held.ticket(pool, user, (1,), granted=granted), code, f"waiting for {text}"))
        if not slots[-1].ticket.granted:
            break  # the next queue is joined when this one has let us through
    return slots


def hold(core: Core, run: Run) -> Held:
    """Its places in the queues, taken in the order of the calls; what it was granted before a restart it has again."""
    held, granted = Held(), not isinstance(run.record.state, Pending)
    slots = slots_of(core, run, held, granted=granted)
    if all(slot.ticket.granted for slot in slots):
        host = core.hosts.get(parse(run.record.place).host) if granted else host_for(core, run, held)
        if host is not None:
            _host_slot(core, run, held, host, granted=granted)
    return held


def check_size(core: Core, tier: Tier, slots: Slots) -> None:
    """Whether a run of this size can ever be started; raises Invalid."""
    if not any(host.pool.fits((slots.cores, slots.memory_bytes)) for host in core.hosts.of_group(tier.hosts)):
        cores, memory = core.hosts.capacity(tier.hosts)
        raise Invalid(f"This site has {cores} cores and {memory} bytes of memory for a run.", field="resources")


def _host_slot(core: Core, run: Run, held: Held, host: Host, *, granted: bool = False) -> Slot:
    slots = run.record.slots
    ticket = held.ticket(host.pool, run.user.id, (slots.cores, slots.memory_bytes), granted=granted)
    return Slot(ticket, "host", f"waiting for {slots.cores} free cores")


def _user_runs(core: Core, run: Run) -> Pool:
    record = run.record
    return core.broker.user_runs(run.user, record.mode, core.tier(run.user), record.place if record.is_batch else "")


def cancel_run(core: Core, run: Run, why: Cause) -> None:
    """One row of the state table, and one call on its scope; telling the agent is the duty of the scope's exit."""
    core.jobs.advance(run, states.Canceled(why))
    if run.scope is not None:
        run.scope.cancel(why)


def post(agent: Agent, order: Order, sequence: int = 0) -> None:
    """Post on the agent's link, if it has one; whoever has none hears it in its Welcome."""
    if agent.link is not None:
        agent.link.post(order, sequence)
