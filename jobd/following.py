"""The progress of a run whose own agent does nothing but run it: its user's agent for questions is asked, again and
again while it runs and once after its end. So analysis has a container of its own, and a code that takes all of its
memory is not confused with the worker that looks at it.
"""

import logging

import trio

from jobd import plans
from jobd.core import Core
from jobd.dispatch import Request, dispatch
from jobd.errors import JobdError
from jobd.job import Run
from jobd.placement import questions
from jobd.places import parse
from schemas.codec import CodecError
from schemas.link import progress_of

PAUSE_S_MAX = 30.0
ONCE_MORE_S_MAX = 2.0

log = logging.getLogger(__name__)


async def follow(core: Core, run: Run) -> None:
    """Ask for ever; a worker that cannot answer is asked less and less often. Returns at once where the run's own
    agent tells of its progress."""
    if not _is_followed(run):
        return
    pause_s = least_s = run.record.execution.progress_s
    while True:
        pause_s = least_s if await _ask(core, run) else min(2 * pause_s, PAUSE_S_MAX)
        await trio.sleep(pause_s)


async def ask_once_more(core: Core, run: Run) -> None:
    """After the end, so that what was told last is right; if somebody is there to be asked, and not for long."""
    agent = core.fleet.agents.get((run.user.id, str(questions(run.record))))
    if _is_followed(run) and run.progress is not None and agent is not None and agent.link is not None:
        with trio.move_on_after(ONCE_MORE_S_MAX):
            await _ask(core, run)


def _is_followed(run: Run) -> bool:
    return run.record.execution.worker is not None and parse(run.record.place).role == "run"


async def _ask(core: Core, run: Run) -> bool:
    above = core.root.group("user", run.user.name).group("job", run.job.key[1])
    request = Request(above.open("request", f"progress of {run.record.serial}"))
    try:
        with request.held, request.scope:
            result = await dispatch(plans.progress(core, run), request)
            core.jobs.progressed(run, progress_of(*run.key, result))
            return True
    except (JobdError, CodecError) as error:
        log.info("run %s: its progress is not known: %s", run.key, error)
    return False
