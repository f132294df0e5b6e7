"""The handlers of /v1/admin: what operators see and do, over the admin socket or with an operator's token."""

from jobd import plans
from jobd.core import Core
from jobd.views import view_agent, view_host, view_pool
from jobd.web.calls import Call, Reply
from schemas.api import TokenRequest
from schemas.views import AgentsView, HostsView, NodeView, PoolsView, TreeView


async def agents(core: Core, call: Call) -> Reply:
    """GET agents."""
    every = [view_agent(agent, core.jobs.runs_on(agent.record.id), core.world) for agent in core.fleet.agents.values()]
    return Reply(AgentsView(tuple(every)))


async def hosts(core: Core, call: Call) -> Reply:
    """GET hosts."""
    runs = core.jobs.open_runs()
    return Reply(HostsView(tuple(view_host(host, core.fleet, runs) for host in core.hosts)))


async def drain(core: Core, call: Call) -> Reply:
    """POST drain."""
    plan = plans.drain(core, call.parts["host"], call.body, call.actor)
    return Reply(await core.ask(plan, "", "", "drain a host", core.config.requests.deadline_s))


async def pools(core: Core, call: Call) -> Reply:
    """GET pools."""
    return Reply(PoolsView(tuple(map(view_pool, core.broker.pools))))


async def tree(core: Core, call: Call) -> Reply:
    """GET tree."""
    nodes = [
        NodeView(depth, scope.kind, scope.name, scope.doing, scope.cause.code if scope.cause else None)
        for depth, scope in core.root.walk()
    ]
    return Reply(TreeView(tuple(nodes)))


async def stop_agent(core: Core, call: Call) -> Reply:
    """POST stop."""
    plan = plans.stop_agent(core, call.parts["agent"])
    return Reply(await core.ask(plan, "", "", "stop an agent", core.config.requests.deadline_s))


async def forget_agent(core: Core, call: Call) -> Reply:
    """POST forget."""
    plan = plans.forget_agent(core, call.parts["agent"], call.body, call.actor)
    return Reply(await core.ask(plan, "", "", "forget an agent", core.config.requests.deadline_s))


async def mint(core: Core, call: Call) -> Reply:
    """POST tokens, an operator's."""
    plan = plans.mint(core, "", TokenRequest(call.body.lifetime_s))
    view = await core.ask(plan, "", "", "mint a token", core.config.requests.deadline_s)
    return Reply(view, 201, {"cache-control": "no-store"})
