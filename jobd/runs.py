"""The life of one run: from acceptance (or from the store, after a restart) until its end is proved.

    held: the slots ------------------------------------------------------------------------+
      run.scope: admit -> start -> until it has ended, each stage with its own time limit    |
      then, if it was cancelled or a limit passed: tell the agent, wait for the proof  ------+

Cancelling is one sync call on the scope plus one row of the state table, made by whoever cancels. A time limit cancels
the scope by itself, and its row is made here. Shutdown cancels it too, and then nothing is told to anyone: what runs
goes on, and the next start of jobd takes it up again.
"""

import logging
import math

import trio

from jobd import plans, states
from jobd.agent import Agent
from jobd.causes import cause
from jobd.core import SHUTDOWN, Core
from jobd.dispatch import Held, Request, Situation, dispatch
from jobd.following import ask_once_more, follow
from jobd.job import Run
from jobd.orders import stop_order
from jobd.scopes import Scope
from jobd.world import elapsed_s
from schemas.records import Cause, Ending, Pending, Running, Starting, State

log = logging.getLogger(__name__)


async def conduct(core: Core, run: Run, held: Held) -> None:
    """See the module. Errors of our own end this run and no other."""
    try:
        with held:
            await _conduct(core, run, held)
    except Exception:
        log.exception("run %s failed in jobd itself", run.key)
        core.jobs.advance(run, states.Expired(cause("internal")))


async def _conduct(core: Core, run: Run, held: Held) -> None:
    if run.active:
        run.scope = _open(core, run, "run")
        with run.scope:
            try:
                await _live(core, run, held)
            finally:
                run.waits(None)  # a situation may name a ticket, which is about to be given back
        why = run.scope.cause
        run.scope = None
        if why is SHUTDOWN:
            return
        if why is not None and run.active:
            core.jobs.advance(run, states.Expired(_explained(core, run, why)))
    if isinstance(run.record.state, Ending):
        with _open(core, run, "ending") as scope:
            scope.doing = "waiting for the proof of its end"
            await _until_proved(core, run)


def _open(core: Core, run: Run, kind: str) -> Scope:
    return core.root.group("user", run.user.name).group("job", run.job.key[1]).open(kind, f"{run.record.serial}")


async def _live(core: Core, run: Run, held: Held) -> None:
    """Every stage with its time limit; returns when the run is no longer active."""
    scope, limits = run.scope, run.record.limits
    assert scope is not None
    if isinstance(run.record.state, Pending):
        scope.expire(_left(core, run, limits.queue_s), QUEUE_TIMEOUT)
        request = Request(scope, held)
        await dispatch(plans.admit(core, run), request, run.waits)
        scope.expire(limits.start_s, START_TIMEOUT)
        await dispatch(plans.start(core, run), request, run.waits)
        scope.expire(math.inf, START_TIMEOUT)  # from here on _watch keeps the limits
    scope.doing = "waiting for the agent to start it"
    if isinstance(run.record.state, Starting):
        run.waits(Situation("ordered", scope.doing))
    if run.record.is_batch:  # it stands in the cluster's own queue
        await _while(Starting, core, run, limits.queue_s, QUEUE_TIMEOUT)
    else:
        await _while(Starting, core, run, limits.start_s, START_TIMEOUT)
    scope.doing = "running"
    run.waits(None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, core, run)
        await _while(Running, core, run, limits.run_s + core.config.agents.run_margin_s, RUN_TIMEOUT)
        nursery.cancel_scope.cancel(reason="it does not run any more")


async def _while(state: type[State], core: Core, run: Run, limit_s: float, why: Cause) -> None:
    """Until the run has left this state, or the limit on it passes."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, core, run, limit_s, why)
        while isinstance(run.record.state, state):
            await run.job.changed.wait()
        nursery.cancel_scope.cancel(reason="the state was left")


async def _watch(core: Core, run: Run, limit_s: float, why: Cause) -> None:
    """Give the run up at its limit. While its agent is away nothing is known of it, so the limit on that counts
    instead; so it does on a new link that may be half-open, until the agent has answered on it. From then on it has a
    moment to tell what happened meanwhile."""
    agent = _agent_of(core, run)
    assert run.scope is not None, "its limits are watched in its scope"
    assert agent is not None, "an ordered run has an agent"
    while True:
        if agent.link is None or agent.link.answered is None:
            now = core.world.now()
            silent_s = min(elapsed_s(agent.heard, now), elapsed_s(run.record.state.since, now))
            left, because = run.record.limits.heartbeat_s - silent_s, HEARTBEAT_TIMEOUT
        else:
            told = agent.link.answered + core.config.agents.tell_s
            left, because = max(_left(core, run, limit_s), told - trio.current_time()), why
        if left <= 0:
            run.scope.cancel(because)
            return
        with trio.move_on_after(left):
            await agent.changed.wait()


async def _until_proved(core: Core, run: Run) -> None:
    """Tell the agent, now and after every Welcome (facts.py), and wait for its word or for proof."""
    agent = _agent_of(core, run)
    if agent is not None:
        plans.post(agent, stop_order(run.record), run.job.sequence)
    if agent is None or core.fleet.host(agent).enclosure is None:
        while isinstance(run.record.state, Ending):
            await run.job.changed.wait()
        return
    with trio.move_on_after(run.record.execution.limits.grace_s + core.config.agents.run_margin_s):
        while isinstance(run.record.state, Ending) and not run.reported:
            await run.job.changed.wait()
    await ask_once_more(core, run)
    while isinstance(run.record.state, Ending):
        if await core.fleet.prove(agent, believed=run.reported):
            core.jobs.advance(run, states.Proved(run.record.state.cause))
        else:
            with trio.move_on_after(core.config.agents.backoff_s):
                await run.job.changed.wait()


def _agent_of(core: Core, run: Run) -> Agent | None:
    """The agent that has it; or who will have it, where it was admitted."""
    return core.fleet.of_id(run.agent) or core.fleet.agents.get((run.user.id, run.record.place))


def _explained(core: Core, run: Run, why: Cause) -> Cause:
    """A run that could not be started says why its agent could not."""
    agent = _agent_of(core, run)
    if why is START_TIMEOUT and agent is not None and agent.failure:
        return cause("agent_start", f"Its agent could not be started: {agent.failure}")
    return why


def _left(core: Core, run: Run, limit_s: float) -> float:
    """What is left of a limit that began with the run's present state."""
    return max(0.0, limit_s - elapsed_s(run.record.state.since, core.world.now()))


QUEUE_TIMEOUT = cause("queue_timeout")
START_TIMEOUT = cause("start_timeout")
RUN_TIMEOUT = cause("run_timeout")
HEARTBEAT_TIMEOUT = cause("heartbeat_timeout")
