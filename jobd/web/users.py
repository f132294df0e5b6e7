"""The handlers of a user's other resources: session, tier, tokens, usage, and the library's names."""

from jobd import plans
from jobd.core import Core
from jobd.web.calls import Call, Reply


async def session(core: Core, call: Call) -> Reply:
    """POST session."""
    plan = plans.session(core, call.user, call.body)
    return Reply(await core.ask(plan, call.user, "", "session", core.config.requests.deadline_s), 202)


async def set_tier(core: Core, call: Call) -> Reply:
    """PUT user."""
    plan = plans.set_tier(core, call.user, call.body)
    return Reply(await core.ask(plan, call.user, "", "tier", core.config.requests.deadline_s))


async def usage(core: Core, call: Call) -> Reply:
    """GET usage."""
    limit = call.limit(core.config.requests.page_max)
    plan = plans.usage(core, call.user, call.query.get("after", ""), limit)
    return Reply(await core.ask(plan, call.user, "", "usage", core.config.requests.deadline_s))


async def mint(core: Core, call: Call) -> Reply:
    """POST tokens, a user's."""
    plan = plans.mint(core, call.user, call.body)
    view = await core.ask(plan, call.user, "", "mint a token", core.config.requests.deadline_s)
    return Reply(view, 201, {"cache-control": "no-store"})


async def tokens(core: Core, call: Call) -> Reply:
    """GET tokens, a user's, or without a user in the path the operators'."""
    user = call.parts.get("user", "")
    return Reply(await core.ask(plans.tokens(core, user), user, "", "tokens", core.config.requests.deadline_s))


async def revoke(core: Core, call: Call) -> Reply:
    """DELETE a token, a user's, or without a user in the path an operator's."""
    user = call.parts.get("user", "")
    plan = plans.revoke(core, user, call.parts["token"])
    await core.ask(plan, user, "", "revoke a token", core.config.requests.deadline_s)
    return Reply(None, 204)


async def shelf(core: Core, call: Call) -> Reply:
    """GET library."""
    plan = plans.shelf(core, call.user)
    return Reply(await core.ask(plan, call.user, "", "library", core.config.requests.deadline_s))


async def unshelve(core: Core, call: Call) -> Reply:
    """DELETE a library file."""
    plan = plans.unshelve(core, call.user, call.parts["name"])
    await core.ask(plan, call.user, "", "delete a file", core.config.requests.deadline_s)
    return Reply(None, 204)
