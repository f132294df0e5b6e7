"""The life of one run: from acceptance (or from the store, after a restart) until its end is proved.

    held: the slots ------------------------------------------------------------------------+
      run.scope: admit -> start -> until it has ended, each stage with its own time limit    |
      then, if it was cancelled or a limit passed: tell the agent, wait for the proof  ------+

Cancelling is one sync call on the scope plus one row of the state table, made by whoever cancels. A time limit cancels
the scope by itself, and its row is made here. Shutdown cancels it too, and then nothing is told to anyone: what runs
goes on, and the next start of jobd takes it up again.
"""

import logging

import trio

from jobd import plans, states
from jobd.agent import Agent
from jobd.causes import cause
from jobd.core import PLACE, SHUTDOWN, Core
from jobd.dispatch import Held, Request, Situation, dispatch
from jobd.jobs import Run
from jobd.orders import stop_order
from jobd.world import elapsed_s
from schemas.records import Cause, Ending, Pending, Running, Starting

log = logging.getLogger(__name__)

RUN_MARGIN_S = 10.0  # the run's own parent enforces its wall time; this is how long jobd waits for that


async def conduct(core: Core, run: Run) -> None:
    """See the module. Errors of our own end this run and no other."""
    try:
        await _conduct(core, run)
    except Exception:
        log.exception("run %s failed in jobd itself", run.key)
        core.jobs.advance(run, states.Expired(cause("internal")))


async def _conduct(core: Core, run: Run) -> None:
    with Held() as held:
        if not isinstance(run.record.state, Pending):
            plans.slots_of(core, run, held, granted=True)
        name = f"{run.record.serial}"
        job = core.root.group("user", run.user.name).group("job", run.job.key[1])
        if run.active:
            run.scope = job.open("run", name)
            with run.scope:
                await _live(core, run, held)
            run.waits(None)
            why = run.scope.cause
            run.scope = None
            if why is SHUTDOWN:
                return
            if why is not None and run.active:
                core.jobs.advance(run, states.Expired(_explained(core, run, why)))
        if isinstance(run.record.state, Ending):
            with job.open("ending", name) as scope:
                scope.doing = "waiting for the proof of its end"
                await _until_proved(core, run)


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
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch_heartbeat, core, run)
        scope.doing = "waiting for the agent to start it"
        if isinstance(run.record.state, Starting):
            run.waits(Situation("ordered", scope.doing))
        scope.expire(_left(core, run, limits.start_s), START_TIMEOUT)
        while isinstance(run.record.state, Starting):
            await run.job.changed.wait()
        scope.doing = "running"
        run.waits(None)
        scope.expire(_left(core, run, limits.run_s) + RUN_MARGIN_S, RUN_TIMEOUT)
        while isinstance(run.record.state, Running):
            await run.job.changed.wait()
        nursery.cancel_scope.cancel(reason="the run has ended")


async def _watch_heartbeat(core: Core, run: Run) -> None:
    """Give the run up when nothing was heard of its agent for too long."""
    assert run.scope is not None
    while True:
        agent = _agent_of(core, run)
        if agent is None or agent.link is None:
            heard = agent.heard if agent else run.record.state.since
            left = run.record.limits.heartbeat_s - elapsed_s(heard, core.world.now())
            if left <= 0:
                run.scope.cancel(HEARTBEAT_TIMEOUT)
                return
        else:
            left = run.record.limits.heartbeat_s
        with trio.move_on_after(left):
            if agent is not None:
                await agent.changed.wait()
            else:
                await trio.sleep_forever()


async def _until_proved(core: Core, run: Run) -> None:
    """Tell the agent, now and after every Welcome (facts.py), and wait for its word or for proof."""
    agent = _agent_of(core, run)
    if agent is not None:
        plans.post(agent, stop_order(run.record), run.job.sequence)
    while isinstance(run.record.state, Ending):
        await run.job.changed.wait()


def _agent_of(core: Core, run: Run) -> Agent | None:
    return core.fleet.agents.get((run.user.id, PLACE))


def _explained(core: Core, run: Run, why: Cause) -> Cause:
    """A run that could not be started says why its agent could not."""
    agent = core.fleet.agents.get((run.user.id, PLACE))
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
