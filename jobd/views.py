"""What callers see of a job: the registry's state in the words of the API."""

from collections.abc import Iterable
from datetime import UTC, datetime

from jobd.agent import Agent
from jobd.broker import Pool
from jobd.fleet import Fleet
from jobd.hosts import Host
from jobd.job import Job, Run
from jobd.places import parse
from jobd.states import api_state
from jobd.world import World, elapsed_s
from schemas.codec import dumps, to_data
from schemas.records import Ended, Ending, Instant, RunRecord
from schemas.views import (
    AgentView,
    CauseView,
    HostView,
    InputView,
    KnownView,
    PastRunView,
    PoolView,
    ProgressView,
    RunUsageView,
    RunView,
    SituationView,
    StageView,
)


def rfc3339(wall_s: float) -> str:
    """A wall time as RFC 3339 UTC with milliseconds."""
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def view_job(job: Job, fleet: Fleet, world: World) -> RunView:
    """The status of the job's newest run."""
    if job.run is None:
        return RunView(user=job.key[0], job=job.key[1], state="missing")
    return view_run(job.run, fleet, world)


def status_text(job: Job, fleet: Fleet, world: World) -> str:
    """The same as JSON; made once for all who poll or watch, unless it tells an age or a place in a queue."""
    if job.shown is not None and job.shown[0] == job.revision:
        return job.shown[1]
    view = view_job(job, fleet, world)
    text = dumps(to_data(view))
    if view.situation is None and (view.known is None or view.known.state == "fresh"):
        job.shown = job.revision, text
    return text


def view_run(run: Run, fleet: Fleet, world: World) -> RunView:
    """The status of this run."""
    record, state = run.record, run.record.state
    over = state if isinstance(state, (Ending, Ended)) else None
    return RunView(
        user=run.job.key[0],
        job=run.job.key[1],
        state=api_state(state),
        serial=record.serial,
        code=record.code,
        mode=record.mode,
        input_hash=record.input_hash,
        accepted_at=rfc3339(record.timeline[0].at.wall_s),
        situation=_situation(run),
        known=_known(run, fleet, world.now(), world),
        cause=_cause(record),
        end_confirmed=isinstance(state, Ended) if over else None,
        progress=_progress(run),
        timeline=view_timeline(record),
        usage=_usage(record),
        log_tail=record.log_tail or None,
        previous_ending=tuple(serial for serial in run.job.open if serial < record.serial),
    )


def _situation(run: Run) -> SituationView | None:
    if isinstance(run.record.state, Ending):
        return SituationView("ending", "waiting for the confirmation that nothing of it runs any more")
    if run.situation is None:
        return None
    return SituationView(run.situation.code, run.situation.text, run.situation.ahead)


def _known(run: Run, fleet: Fleet, now: Instant, world: World) -> KnownView:
    if run.agent is None:
        return KnownView("fresh")
    agent = fleet.of_id(run.agent)
    if agent is not None and agent.link is not None:
        return KnownView("fresh")
    since = agent.heard if agent is not None else run.record.state.since
    return KnownView("unknown", rfc3339(since.wall_s), round(elapsed_s(since, now), 1))


def _progress(run: Run) -> ProgressView | None:
    said = run.progress
    if said is None:
        return ProgressView(None, "", {}, {}, run.warning) if run.warning else None
    problem = f"{run.warning} {said.problem}".strip()
    return ProgressView(said.fraction, said.text, said.frames, said.metrics, problem)


def _usage(record: RunRecord) -> RunUsageView | None:
    if not isinstance(record.state, Ended):
        return None
    used = record.usage
    return RunUsageView(used.wall_s, used.cpu_s, used.peak_memory_bytes, used.exit_code, used.signal)


def _cause(record: RunRecord) -> CauseView | None:
    if not isinstance(record.state, (Ending, Ended)):
        return None
    cause = record.state.cause
    return CauseView(cause.code, cause.text, cause.actor)


def view_timeline(record: RunRecord) -> tuple[StageView, ...]:
    """The stages of a run."""
    return tuple(
        StageView(each.number, rfc3339(each.at.wall_s), each.state, each.name, each.text) for each in record.timeline
    )


def view_past(record: RunRecord) -> PastRunView:
    """A run as its job's history tells it."""
    state = record.state
    return PastRunView(
        serial=record.serial,
        state=api_state(state),
        code=record.code,
        code_version=record.code_version,
        mode=record.mode,
        cores=record.slots.cores,
        memory_bytes=record.slots.memory_bytes,
        input_hash=record.input_hash,
        inputs=tuple(InputView(each.path, each.bytes, each.sha256, each.library or None) for each in record.inputs),
        accepted_at=rfc3339(record.timeline[0].at.wall_s),
        ended_at=rfc3339(state.since.wall_s) if isinstance(state, Ended) else None,
        cause=_cause(record),
        end_confirmed=isinstance(state, Ended) if isinstance(state, (Ending, Ended)) else None,
        usage=_usage(record),
        image_digest=record.image_digest or None,
    )


def view_pool(pool: Pool) -> PoolView:
    """A pool and its units."""
    units = ("cores", "memory_bytes") if len(pool.capacity) == 2 else ("runs",)
    return PoolView(pool.name, units, pool.capacity, pool.used, pool.waiting)


def view_host(host: Host, fleet: Fleet, runs: Iterable[Run]) -> HostView:
    """A host, with what is on it; `runs` are all open runs."""
    awake = [parse(agent.record.place).host for agent in fleet.agents.values() if agent.record.awake]
    return HostView(
        name=host.name,
        group=host.group,
        state="down" if host.failure else "draining" if host.draining else "up",
        failure=host.failure,
        agents=awake.count(host.name),
        runs=sum(run.agent is not None and parse(run.record.place).host == host.name for run in runs),
        pool=view_pool(host.pool),
    )


def view_agent(agent: Agent, runs: Iterable[Run], world: World) -> AgentView:
    """An agent, with the open runs that it has or may have."""
    record = agent.record
    return AgentView(
        id=record.id,
        user=agent.user.name,
        place=record.place,
        generation=record.generation,
        linked=agent.link is not None,
        awake=record.awake,
        stage=agent.stage,
        failure=agent.failure,
        failures=agent.failures,
        heard_s=0.0 if agent.link else round(elapsed_s(agent.heard, world.now()), 1),
        questions=len(agent.ops),
        open_runs=tuple(f"{run.job.key[1]}/{run.record.serial}" for run in runs),
    )
