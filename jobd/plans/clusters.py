"""A user's login at a cluster: in, how it stands, out. None of it touches what runs there."""

from backends.base import Credentials
from jobd.agent import Agent
from jobd.core import Core
from jobd.dispatch import Act, Plan, Request
from jobd.errors import Invalid, NotFound
from jobd.hosts import Host
from jobd.jobs import Known
from jobd.logins import outcome
from jobd.places import Place
from jobd.views import rfc3339
from jobd.world import elapsed_s
from schemas.api import LoginRequest
from schemas.clusterviews import FailureView, LoginView
from schemas.records import UserRecord


def login(core: Core, user: str, cluster: str, ask: LoginRequest) -> Plan[LoginView]:
    """POST login: answered when the agent is there, or with why it is not. Who hangs up ends nothing."""

    def plan(request: Request) -> Act[LoginView]:
        host = _host(core, cluster)
        if not ask.password and not ask.key:
            raise Invalid("A password or a key is needed.", field="password")
        core.store.check()
        owner = request.need(Known(core.jobs, user))
        # commit
        credentials = Credentials(ask.username, ask.password, ask.code, ask.key, ask.passphrase)
        begun = core.logins.begin(owner, host, credentials, core.sites[cluster].cluster.login_s)

        async def act() -> LoginView:
            await outcome(begun)
            return _view(core, owner, cluster)

        return act

    return plan


def logged(core: Core, user: str, cluster: str) -> Plan[LoginView]:
    """GET login: its state and age."""

    def plan(request: Request) -> Act[LoginView]:
        _host(core, cluster)
        owner = core.jobs.users.get(user)

        async def act() -> LoginView:
            await core.store.durable(core.store.sequence)
            return _view(core, owner, cluster)

        return act

    return plan


def logout(core: Core, user: str, cluster: str) -> Plan[None]:
    """DELETE login: the agent ends; what runs there goes on, unseen until the next login."""

    def plan(request: Request) -> Act[None]:
        host = _host(core, cluster)
        core.store.check()
        owner = core.jobs.users.get(user)
        # commit
        agent = _agent(core, owner, cluster)
        sequence = core.logins.leave(agent, owner, host) if owner and agent else 0

        async def act() -> None:
            await core.store.durable(sequence)

        return act

    return plan


def _host(core: Core, cluster: str) -> Host:
    host = core.hosts.get(cluster) if cluster in core.sites else None
    if host is None:
        raise NotFound(f"There is no cluster '{cluster}'; there are: {', '.join(core.sites) or 'none'}.")
    return host


def _agent(core: Core, owner: UserRecord | None, cluster: str) -> Agent | None:
    return core.fleet.agents.get((owner.id, str(Place(cluster)))) if owner else None


def _view(core: Core, owner: UserRecord | None, cluster: str) -> LoginView:
    agent = _agent(core, owner, cluster)
    if owner is None:
        return LoginView(cluster, "none")
    known, now = core.logins.of(owner.id, cluster), core.world.now()
    linked = agent is not None and agent.link is not None
    away = agent is not None and agent.record.awake and not linked
    failure = known.failure
    return LoginView(
        cluster=cluster,
        state="connecting" if known.stage else "ready" if linked else "away" if away else "none",
        username=known.username,
        stage=known.stage,
        since=rfc3339(known.since.wall_s) if known.since else None,
        age_s=round(elapsed_s(known.since, now), 1) if known.since else None,
        unheard_s=round(elapsed_s(agent.heard, now), 1) if agent and away else None,
        failure=FailureView(failure.code, str(failure)) if failure else None,
    )
