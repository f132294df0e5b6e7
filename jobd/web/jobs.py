"""The handlers of a job's resources; each asks one plan."""

from jobd import plans
from jobd.core import Core
from jobd.delivery import Collected
from jobd.errors import Invalid
from jobd.store import Selection
from jobd.web.calls import Call, Reply, whole_number

ETAG_DIGITS_MAX = 19
STATES = ("pending", "running", "completed", "failed", "canceled")


async def run(core: Core, call: Call) -> Reply:
    """PUT run."""
    plan = plans.accept(core, call.user, call.job, call.body)
    status, view = await core.ask(plan, call.user, call.job, "run", core.config.requests.deadline_s)
    return Reply(view, status)


async def status(core: Core, call: Call) -> Reply:
    """GET job: 304 while the ETag is the caller's; with `Prefer: wait=N` it waits for another."""
    seen, wait_s = _seen(call), _wait_s(call)
    plan = plans.status(core, call.user, call.job, seen, wait_s)
    deadline_s = core.config.requests.deadline_s + wait_s
    revision, text = await core.ask(plan, call.user, call.job, "status", deadline_s)
    headers = {"etag": f'"{revision}"', "cache-control": "no-cache"}
    return Reply(text.encode(), 200, headers) if text else Reply(None, 304, headers)


async def cancel(core: Core, call: Call) -> Reply:
    """POST cancel."""
    requests = core.config.requests
    plan = plans.cancel(core, call.user, call.job, call.body, call.actor)
    return Reply(await core.ask(plan, call.user, call.job, "cancel", requests.deadline_s + requests.settle_s))


async def delete(core: Core, call: Call) -> Reply:
    """DELETE job."""
    plan = plans.delete(core, call.user, call.job)
    return Reply(await core.ask(plan, call.user, call.job, "delete", core.config.requests.deadline_s))


async def listing(core: Core, call: Call) -> Reply:
    """GET jobs: of the user in the path, or of all."""
    user = call.parts.get("user")
    plan = plans.listing(core, user, selection(core, call))
    return Reply(await core.ask(plan, user or "", "", "jobs", core.config.requests.deadline_s))


def selection(core: Core, call: Call) -> Selection:
    """Filters and page of a list; raises Invalid."""
    state = call.query.get("state")
    if state is not None and state not in STATES:
        raise Invalid(f"state must be one of {', '.join(STATES)}.", field="state")
    limit = call.limit(core.config.requests.page_max)
    return Selection(limit=limit, after=call.query.get("after", ""), state=state, code=call.query.get("code"))


async def history(core: Core, call: Call) -> Reply:
    """GET runs."""
    limit = call.limit(core.config.requests.page_max)
    plan = plans.history(core, call.user, call.job, call.number("before", least=1), limit)
    return Reply(await core.ask(plan, call.user, call.job, "runs", core.config.requests.deadline_s))


async def explain(core: Core, call: Call) -> Reply:
    """GET explain."""
    plan = plans.explain(core, call.user, call.job, call.serial)
    return Reply(await core.ask(plan, call.user, call.job, "explain", core.config.requests.deadline_s))


async def series(core: Core, call: Call) -> Reply:
    """GET metrics."""
    plan = plans.series(core, call.user, call.job, call.serial)
    return Reply(await core.ask(plan, call.user, call.job, "metrics", core.config.requests.deadline_s))


async def files(core: Core, call: Call) -> Reply:
    """GET files: the listing."""
    sink = Collected()
    plan = plans.list_files(core, call.user, call.job, call.serial, sink)
    await core.ask(plan, call.user, call.job, "files", core.config.requests.deadline_s)
    return Reply(b"".join(sink.pieces), 200, {"jobd-serial": str(sink.head[0].serial)})


def _seen(call: Call) -> int | None:
    """The revision in If-None-Match, if it is one of ours."""
    tag = call.headers.get("if-none-match", "").removeprefix("W/").strip('"')
    return whole_number(tag, ETAG_DIGITS_MAX)


def _wait_s(call: Call) -> float:
    """The seconds of `Prefer: wait=N` (RFC 7240); zero without; raises Invalid."""
    for preference in call.headers.get("prefer", "").split(","):
        name, _, value = preference.strip().partition("=")
        if name.lower() == "wait":
            if not (value.isascii() and value.strip().isdecimal()) or len(value) > 6:
                raise Invalid("wait must be a whole number of seconds.", field="prefer")
            return float(value)
    return 0.0
