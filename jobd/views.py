"""What callers see of a job: the registry's state in the words of the API."""

from datetime import UTC, datetime

from jobd.fleet import Fleet
from jobd.jobs import Job, Run
from jobd.states import api_state
from jobd.world import World, elapsed_s
from schemas.api import (
    CauseView,
    KnownView,
    ProgressView,
    RunView,
    SituationView,
    StageView,
    UsageView,
)
from schemas.records import Ended, Ending, Instant


def rfc3339(wall_s: float) -> str:
    """A wall time as RFC 3339 UTC with milliseconds."""
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def view_job(job: Job, fleet: Fleet, world: World) -> RunView:
    """The status of the job's newest run."""
    if job.run is None:
        return RunView(user=job.key[0], job=job.key[1], state="missing")
    return view_run(job.run, fleet, world)


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
        cause=CauseView(over.cause.code, over.cause.text, over.cause.actor) if over else None,
        end_confirmed=isinstance(state, Ended) if over else None,
        progress=_progress(run),
        timeline=tuple(
            StageView(each.number, rfc3339(each.at.wall_s), each.state, each.name, each.text)
            for each in record.timeline
        ),
        usage=_usage(run) if isinstance(state, Ended) else None,
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
    agent = next((each for each in fleet.agents.values() if each.record.id == run.agent), None)
    if agent is not None and agent.link is not None:
        return KnownView("fresh")
    since = agent.heard if agent is not None else run.record.state.since
    return KnownView("unknown", rfc3339(since.wall_s), round(elapsed_s(since, now), 1))


def _progress(run: Run) -> ProgressView | None:
    if run.progress is None:
        return None
    said = run.progress
    return ProgressView(said.fraction, said.text, said.frames, said.metrics, said.problem)


def _usage(run: Run) -> UsageView:
    used = run.record.usage
    return UsageView(used.wall_s, used.cpu_s, used.peak_memory_bytes, used.exit_code, used.signal)
