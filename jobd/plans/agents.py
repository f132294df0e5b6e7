"""What operators do to agents."""

import logging

from jobd import states
from jobd.agent import Agent
from jobd.causes import CAUSES, cause
from jobd.core import Core
from jobd.dispatch import Act, Plan, Request
from jobd.errors import AgentUnavailable, NotFound
from jobd.views import view_agent
from schemas.api import ForgetRequest
from schemas.views import AgentView

log = logging.getLogger(__name__)


def stop_agent(core: Core, identity: str) -> Plan[AgentView]:
    """POST stop: end the agent's process; its runs go on, and whoever needs it next has it started again."""

    def plan(request: Request) -> Act[AgentView]:
        agent = _agent(core, identity)

        async def act() -> AgentView:
            if not await core.fleet.stop(agent):
                raise AgentUnavailable("It could not be ended; jobd's log says why.")
            return _view(core, agent)

        return act

    return plan


def forget_agent(core: Core, identity: str, ask: ForgetRequest, actor: str) -> Plan[AgentView]:
    """POST forget: take the agent for gone, and end its runs on the operator's word, in the log and the timelines."""

    def plan(request: Request) -> Act[AgentView]:
        agent = _agent(core, identity)
        core.store.check()
        # commit
        why = cause("forgotten", f"{CAUSES['forgotten'][1]} {ask.reason}".strip(), actor)
        log.warning("agent %s of %s is forgotten by %s: %r", identity, agent.user.name, actor, ask.reason)
        for run in core.jobs.runs_on(identity):
            core.jobs.advance(run, states.Forgotten(why))
        sequence = core.fleet.forget(agent)

        async def act() -> AgentView:
            await core.store.durable(sequence)
            return _view(core, agent)

        return act

    return plan


def _agent(core: Core, identity: str) -> Agent:
    agent = core.fleet.of_id(identity)
    if agent is None:
        raise NotFound
    return agent


def _view(core: Core, agent: Agent) -> AgentView:
    return view_agent(agent, core.jobs.runs_on(agent.record.id), core.world)
