"""Server-sent events of one job.

    event: stage   id: N   one line of the timeline; ids count over all runs of the job, each is sent exactly once,
                           and Last-Event-ID resumes after a lost connection or a restart of jobd
    event: status          the whole status, latest wins, with each stage, else one per event_interval_s; no id

Nothing is pushed before the store has committed it. A comment line every event_beat_s keeps proxies from hanging up.
"""

from functools import partial
from math import inf

import trio

from jobd.core import Core
from jobd.delivery import Head, Sink
from jobd.dispatch import Act, Plan, Request
from jobd.errors import DeadlineExceeded, QueueFull
from jobd.job import Job
from jobd.jobs import Loaded
from jobd.views import rfc3339, status_text
from schemas.codec import dumps
from schemas.records import Stage


async def watch(core: Core, user: str, name: str, last: int | None, sink: Sink, seconds_max: float) -> None:
    """Push events to the sink until the client leaves, jobd stops, or the time is up."""

    def plan(request: Request) -> Act[None]:
        job = request.need(Loaded(core.jobs, user, name))
        limit = core.config.requests.watchers_per_job_max
        if job.watchers >= limit:
            raise QueueFull(f"{limit} watch this job already.", limit=limit, retry_after_s=5.0)
        job.watchers += 1
        return partial(_push, core, job, last, sink)

    pushing: Plan[None] = plan
    try:
        await core.ask(pushing, user, name, "events", seconds_max)
    except DeadlineExceeded:
        return  # the stream ends cleanly, and the client connects again with Last-Event-ID


async def _push(core: Core, job: Job, last: int | None, sink: Sink) -> None:
    try:
        await sink.begin(Head("text/event-stream", -1, job.record.serial))
        sent = job.record.stage if last is None else last
        revision, due, beat_s = None, -inf, core.config.requests.event_beat_s
        while True:
            now = trio.current_time()
            if job.revision != revision and (now >= due or job.record.stage > sent):
                revision, due = job.revision, now + core.config.requests.event_interval_s
                stages = await core.jobs.stages_after(job, sent)
                # One write: what happened, then how things stand now; all of this moment, and told when it is on disk.
                lines = [_stage(serial, each) for serial, each in stages]
                lines.append(_event("status", status_text(job, core.fleet, core.world)))
                await core.store.durable(job.sequence)
                await sink.write("".join(lines).encode())
                sent = stages[-1][1].number if stages else sent
                continue
            with trio.move_on_after(beat_s if job.revision == revision else due - now) as patience:
                await job.changed.wait()
            if patience.cancelled_caught and job.revision == revision:
                await sink.write(b": still here\n\n")
    finally:
        job.watchers -= 1


def _stage(serial: int, stage: Stage) -> str:
    data = {
        "serial": serial,
        "at": rfc3339(stage.at.wall_s),
        "state": stage.state,
        "name": stage.name,
        "text": stage.text,
    }
    return _event("stage", dumps(data), stage.number)


def _event(name: str, data: str, number: int | None = None) -> str:
    identity = f"id: {number}\n" if number is not None else ""
    return f"event: {name}\n{identity}data: {data}\n\n"
