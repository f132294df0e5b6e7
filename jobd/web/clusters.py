"""The handlers about clusters: what is offered, and a user's login there."""

from attrs import asdict

from jobd import plans
from jobd.core import Core
from jobd.web.calls import Call, Reply
from schemas.clusterviews import ClustersView, ClusterView, PartitionView

LOGIN_SPARE_S = 5.0


async def clusters(core: Core, call: Call) -> Reply:
    """GET clusters."""
    offered = [
        ClusterView(
            name=site.cluster.name,
            title=site.cluster.title,
            partitions={
                name: PartitionView(**asdict(partition)) for name, partition in site.cluster.partitions.items()
            },
            accounts=site.cluster.accounts,
            qos=site.cluster.qos,
            constraints=site.cluster.constraints,
            codes=tuple(site.codes),
            runs_max=site.cluster.runs_max,
        )
        for site in core.sites.values()
    ]
    return Reply(ClustersView(tuple(offered)))


async def login(core: Core, call: Call) -> Reply:
    """POST login."""
    cluster = call.parts["cluster"]
    plan = plans.login(core, call.user, cluster, call.body)
    site = core.sites.get(cluster)
    patience_s = max(core.config.requests.deadline_s, site.cluster.login_s + LOGIN_SPARE_S if site else 0.0)
    return Reply(await core.ask(plan, call.user, "", "log in", patience_s))


async def logged(core: Core, call: Call) -> Reply:
    """GET login."""
    plan = plans.logged(core, call.user, call.parts["cluster"])
    return Reply(await core.ask(plan, call.user, "", "login", core.config.requests.deadline_s))


async def logout(core: Core, call: Call) -> Reply:
    """DELETE login."""
    plan = plans.logout(core, call.user, call.parts["cluster"])
    await core.ask(plan, call.user, "", "log out", core.config.requests.deadline_s)
    return Reply(None, 204)
