"""What a user's agent is asked: analysis, files, and questions that are about no run. None of it waits behind runs."""

from collections.abc import Callable

from jobd import delivery
from jobd.agent import Agent
from jobd.codes import Code
from jobd.core import Core
from jobd.delivery import Sink
from jobd.dispatch import Act, Awaited, Plan, Request
from jobd.errors import NoRun, NotFound
from jobd.fleet import Connected
from jobd.job import Run
from jobd.jobs import Known, Loaded
from jobd.placement import Home, questions
from jobd.places import Place
from jobd.plans.jobs import run_of
from jobd.plans.runs import post
from schemas.api import AnalysisRequest, ComputeRequest
from schemas.codec import Json
from schemas.link import Analyse, Compute, Epoch, List, Order, Read, Worker
from schemas.records import Pending, UserRecord


def analyse(core: Core, user: str, name: str, method: str, ask: AnalysisRequest, sink: Sink) -> Plan[None]:
    """One question to the code's analysis worker about a run, running or over."""

    def order(op: str, run: Run) -> Order:
        worker = _worker(core.code_of(run.record), run.record.code, method)
        return Analyse(op, _epoch(run), worker, method, ask.arguments)

    return _about_run(core, (user, name), ask.serial, order, sink)


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
    return _about_run(
        core, (user, name), serial, lambda op, run: Read(op, _epoch(run), path, offset, length, wait_s), sink
    )


def list_files(core: Core, user: str, name: str, serial: int | None, sink: Sink) -> Plan[None]:
    """The files of the run directory."""
    return _about_run(core, (user, name), serial, lambda op, run: List(op, _epoch(run)), sink)


def compute(core: Core, user: str, code: str, method: str, ask: ComputeRequest, sink: Sink) -> Plan[None]:
    """One question to a code that is about no run."""

    def plan(request: Request) -> Act[None]:
        offered = core.codes.get(code)
        if offered is None or offered.analysis is None or method not in offered.analysis.compute:
            raise NotFound(f"There is no code '{code}' with the method '{method}'.")
        worker = _worker(offered, code)
        owner = request.need(Known(core.jobs, user))
        place = request.need(Home(core, owner, offered.docker.image if offered.docker else ""))
        return _asked(core, request, (owner, place), lambda op: Compute(op, worker, method, ask.arguments), sink, 0)

    return plan


def progress(core: Core, run: Run) -> Plan[Json]:
    """In the run's own scope: what the worker says of its progress, asked of the agent for questions."""
    place, worker = questions(run.record), run.record.execution.worker
    assert worker is not None, "only what has a worker is asked"

    def plan(request: Request) -> Act[Json]:
        connected = Connected(core.fleet, run.user, place, patient=True)
        agent: Agent = request.need(connected)
        op = agent.open_op(core.world.new_id("o"), core.config.agents.ops_max)

        async def act() -> Json:
            with op:
                post(agent, Analyse(op.id, _epoch(run), worker, "progress"))
                answer = await op.wait_answer()
                if answer is None:
                    raise Awaited(connected)
                return delivery.small(answer)

        return act

    return plan


def _about_run(
    core: Core, key: tuple[str, str], serial: int | None, order: Callable[[str, Run], Order], sink: Sink
) -> Plan[None]:
    def plan(request: Request) -> Act[None]:
        job = request.need(Loaded(core.jobs, *key))
        run = run_of(core, request, job, serial)
        if run.agent is None and not _has_directory(run):
            raise NoRun("It has not been started yet.")
        whom = run.user, questions(run.record)
        return _asked(core, request, whom, lambda op: order(op, run), sink, run.record.serial)

    return plan


def _asked(
    core: Core,
    request: Request,
    whom: tuple[UserRecord, Place],
    order: Callable[[str], Order],
    sink: Sink,
    serial: int,
) -> Act[None]:
    """One op of the user's agent at this place, whose answer is delivered to the sink."""
    connected = Connected(core.fleet, *whom)
    agent: Agent = request.need(connected)
    # commit (of nothing but the question)
    op = agent.open_op(core.world.new_id("o"), core.config.agents.ops_max)
    message = order(op.id)

    async def act() -> None:
        with op:
            post(agent, message)
            if not await delivery.deliver(core, op, sink, serial):
                raise Awaited(connected)  # the link was lost: it only reads, so it starts over

    return act


def _worker(code: Code | None, name: str, method: str | None = None) -> Worker:
    worker = code.worker() if code else None
    if code is None or code.analysis is None or worker is None:
        raise NotFound(f"The code '{name}' has no analysis.")
    if method is not None and method not in code.analysis.methods:
        raise NotFound(f"The code '{name}' has no analysis method '{method}'.")
    return worker


def _has_directory(run: Run) -> bool:
    """Whether there ever was a run directory: one that ended in the queue has none."""
    return not isinstance(run.record.state, Pending) and any(each.name == "ordered" for each in run.record.timeline)


def _epoch(run: Run) -> Epoch:
    return Epoch(run.record.job, run.record.serial)
