"""Logins to clusters: one way in, used once; what runs there is never disturbed by it."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from attrs import define, field

from backends.base import AgentSpec, Credentials, HostUnreachable, LoginError
from backends.fake import FakeBackend, Place
from jobd import plans, runs
from jobd.clusters import Cluster, Partition, Site, SiteCode
from jobd.codes import BATCH_LIMITS, Code, CodeMode, ModeLimits
from jobd.delivery import Collected
from jobd.errors import Invalid, JobdError, LoginActive, LoginFailed, LoginNeeded, LoginRefused, NotFound
from jobd.hosts import cluster_host
from schemas.api import BatchRequest, Input, LoginRequest, RunRequest
from schemas.link import End, Ended, Epoch, Queued, Started, Taken

from .bench import Bench, Wire, bench, starts

HPC = Cluster(
    name="hpc",
    title="A cluster",
    login_nodes=("login",),
    host_keys=("key",),
    home="jobd",
    partitions={"short": Partition(run_s_max=3600.0, nodes_max=2, cores_per_node=4, memory_per_node_bytes=4 << 30)},
    runs_max=2,
    login_s=20.0,
    codes={"sim": SiteCode()},
)
SITE = Site(HPC, {"sim": Code("sim", "A code", "1", {"batch": CodeMode(("sim",), limits=ModeLimits(**BATCH_LIMITS))})})
ASK = LoginRequest("ada", "right")


@define
class FakePortal(FakeBackend):
    """A cluster that lets in whoever has the password `right`, and the code 1 if it wants one."""

    inside: set[str] = field(factory=set)
    attempts: list[Credentials] = field(factory=list)
    slow_s: float = 0.0

    @asynccontextmanager
    async def session(
        self, user: str, credentials: Credentials, tell: Callable[[str], None]
    ) -> AsyncGenerator[None, None]:
        self.attempts.append(credentials)
        tell("authenticating")
        await trio.sleep(self.slow_s)
        if credentials.password != "right":
            raise LoginError("it was not let in", credentials.password or "wrong_credentials")
        self.inside.add(user)
        try:
            yield
        finally:
            self.inside.discard(user)

    async def start(self, spec: AgentSpec) -> str:
        if spec.user not in self.inside:
            raise HostUnreachable("nobody is logged in")
        return await FakeBackend.start(self, spec)


@define
class Hpc:
    """A bench with the cluster, its portal, and the agent's end of the link once it has called home."""

    built: Bench
    portal: FakePortal
    wires: list[Wire]
    calls_home: bool = True

    async def login(self, ask: LoginRequest = ASK, user: str = "user") -> Any:
        return await self.built.ask(plans.login(self.built.core, user, "hpc", ask))

    async def state(self, user: str = "user") -> Any:
        return await self.built.ask(plans.logged(self.built.core, user, "hpc"))

    async def accept(self, job: str = "job", text: str = "1") -> Any:
        ask = RunRequest("sim", "batch", {"in": Input(text=text)}, batch=BatchRequest("hpc"))
        await self.built.ask(plans.accept(self.built.core, "user", job, ask))
        run = self.built.begun[-1]
        self.built.nursery.start_soon(runs.conduct, self.built.core, run, plans.hold(self.built.core, run))
        return run


@asynccontextmanager
async def hpc() -> AsyncGenerator[Hpc, None]:
    async with trio.open_nursery() as nursery, bench(sites={"hpc": SITE}) as built:
        wires: list[Wire] = []

        async def live(spec: AgentSpec) -> None:
            agent = built.core.fleet.of_id(spec.agent)
            if found.calls_home and agent is not None:
                wires.append(await built.link(agent.user, place="hpc"))
            await trio.sleep_forever()

        portal = FakePortal(Place(nursery, live))
        built.core.hosts.add(cluster_host("hpc", portal))
        await nursery.start(built.core.logins.run)
        found = Hpc(built, portal, wires)
        yield found
        nursery.cancel_scope.cancel()


async def refusal(kind: type[JobdError], call: Any) -> str:
    with pytest.raises(kind) as refused:
        await call
    reason: str = refused.value.fields.get("reason", "")
    return reason


async def test_a_login_brings_an_agent_that_stays_when_the_session_is_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with hpc() as site:
        assert (await site.state()).state == "none"
        view = await site.login()
        assert (view.state, view.username) == ("ready", "ada")
        assert not site.portal.inside
        await trio.sleep(1000)
        assert (await site.state()).state == "ready", "nobody culls it: it could not be started again"


async def test_a_run_waits_for_the_login_then_in_the_clusters_queue_and_runs(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with hpc() as site:
        run = await site.accept()
        await trio.sleep(100)
        assert run.situation.code == "login"
        await site.login()
        await trio.sleep(1)
        (wire,) = site.wires
        (order,) = starts(wire)
        assert order.batch is not None
        epoch = Epoch(*run.key)
        wire.say(Taken(epoch))
        wire.say(Queued(epoch, "17", "PENDING", "Priority", 3600.0))
        await trio.sleep(3 * 86400)
        assert run.active, "a cluster's queue is long"
        assert run.situation.code == "cluster_queue"
        assert "17" in run.situation.text and "Priority" in run.situation.text
        wire.say(Started(1, epoch, 0.0))
        wire.say(Ended(2, epoch, "exited", 0.0, exit_code=0))
        await trio.sleep(1)
        assert run.record.state.verdict == "completed"


@pytest.mark.parametrize("outcome", ["rejected", "requeued", "node_failed", "preempted", "scheduler_canceled"])
async def test_each_way_in_which_a_scheduler_ends_a_run_is_told(
    autojump_clock: trio.testing.MockClock, outcome: Any
) -> None:
    async with hpc() as site:
        await site.login()
        run = await site.accept()
        await trio.sleep(1)
        site.wires[0].say(Ended(1, Epoch(*run.key), outcome, 0.0, text="so it is"))
        await trio.sleep(1)
        assert run.record.state.verdict == "failed"
        assert run.record.state.cause.code == outcome
        assert "so it is" in run.record.state.cause.text


async def test_logging_in_again_disturbs_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with hpc() as site:
        await site.login()
        run = await site.accept()
        await trio.sleep(1)
        generation = site.built.core.fleet.of_id(run.agent).record.generation  # type: ignore[union-attr]
        assert (await site.login()).state == "ready"
        agent = site.built.core.fleet.of_id(run.agent)
        assert agent is not None
        assert (agent.record.generation, len(site.wires), run.active) == (generation, 1, True)


@pytest.mark.parametrize(
    ("reason", "kind"), [("expired_code", LoginRefused), ("locked", LoginRefused), ("host_key_changed", LoginFailed)]
)
async def test_a_refusal_says_why(autojump_clock: trio.testing.MockClock, reason: str, kind: type[JobdError]) -> None:
    async with hpc() as site:
        assert await refusal(kind, site.login(LoginRequest("ada", reason))) == reason
        view = await site.state()
        assert (view.state, view.failure.reason) == ("none", reason)


async def test_attempts_that_fail_are_never_a_storm(autojump_clock: trio.testing.MockClock) -> None:
    async with hpc() as site:
        tried = 0
        while trio.current_time() < 3600:
            try:
                await site.login(LoginRequest("ada", "wrong_credentials"))
            except LoginRefused:
                tried += 1
            except LoginActive:
                await trio.sleep(1)
        assert len(site.portal.attempts) == tried < 25, "in an hour"
        await trio.sleep(300)
        assert (await site.login()).state == "ready", "and one that is right is let in after the pause"


async def test_one_attempt_at_a_time(autojump_clock: trio.testing.MockClock) -> None:
    async with hpc() as site:
        site.portal.slow_s = 5.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.login)
            await trio.sleep(1)
            view = await site.state()
            assert (view.state, view.stage) == ("connecting", "authenticating")
            await refusal(LoginActive, site.login())
        assert len(site.portal.attempts) == 1


async def test_who_hangs_up_does_not_end_the_attempt(autojump_clock: trio.testing.MockClock) -> None:
    async with hpc() as site:
        site.portal.slow_s = 5.0
        with trio.move_on_after(1):
            await site.login()
        await trio.sleep(10)
        assert (await site.state()).state == "ready"


async def test_an_attempt_has_a_deadline_and_says_how_far_it_was(autojump_clock: trio.testing.MockClock) -> None:
    async with hpc() as site:
        site.portal.slow_s = 1000.0
        with pytest.raises(LoginFailed, match="authenticating") as failed:
            await site.login()
        assert failed.value.fields["reason"] == "timeout"


async def test_an_agent_that_does_not_call_home_is_a_failure_with_its_reason(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with hpc() as site:
        site.calls_home = False
        assert await refusal(LoginFailed, site.login()) in ("timeout", "agent_start")


async def test_what_runs_is_unknown_after_a_logout_and_is_taken_up_at_the_next_login(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with hpc() as site:
        await site.login()
        run = await site.accept()
        await trio.sleep(1)
        await site.built.ask(plans.logout(site.built.core, "user", "hpc"))
        await trio.sleep(1)
        assert site.wires[0].take(End)
        await site.wires[0].aclose()
        await trio.sleep(3600)
        assert run.active
        assert (await site.state()).state == "none"
        _, text = await site.built.ask(plans.status(site.built.core, "user", "job", None, 0.0))
        assert '"unknown"' in text
        await site.login()
        await trio.sleep(1)
        assert [order.epoch.serial for order in starts(site.wires[1])] == [1], "the order is told again"


async def test_questions_about_a_cluster_say_that_a_login_is_needed(autojump_clock: trio.testing.MockClock) -> None:
    async with hpc() as site:
        await site.login()
        await site.accept()
        await trio.sleep(1)
        await site.built.ask(plans.logout(site.built.core, "user", "hpc"))
        await site.wires[0].aclose()
        await trio.sleep(1)
        await refusal(LoginNeeded, site.built.ask(plans.list_files(site.built.core, "user", "job", None, Collected())))


async def test_a_user_has_no_more_active_runs_there_than_the_cluster_allows(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with hpc() as site:
        await site.login()
        begun = [await site.accept(f"job{number}") for number in range(3)]
        await trio.sleep(1)
        assert len(starts(site.wires[0])) == 2
        assert begun[2].situation.code == "user_runs"


async def test_another_users_login_is_not_mine(autojump_clock: trio.testing.MockClock) -> None:
    async with hpc() as site:
        await site.login()
        assert (await site.state("mallory")).state == "none"
        assert (await site.state("mallory")).username == ""


async def test_wrong_requests_are_refused_by_name(autojump_clock: trio.testing.MockClock) -> None:
    async with hpc() as site:
        await refusal(NotFound, site.built.ask(plans.login(site.built.core, "user", "nothing", ASK)))
        with pytest.raises(Invalid) as refused:
            await site.login(LoginRequest("ada"))
        assert refused.value.fields["field"] == "password"


def test_no_secret_shows_in_a_representation() -> None:
    secrets = {name: f"secret {name}" for name in ("password", "code", "key", "passphrase")}
    assert "secret" not in repr(LoginRequest("ada", **secrets)) + repr(Credentials("ada", **secrets))
