"""The fleet: whom it starts without being asked, and when it is there."""

import trio

from backends.base import AgentSpec
from backends.fake import FakeBackend, Place
from jobd import plans
from jobd.core import Core
from jobd.hosts import this_machine
from jobd.store import Memory
from jobd.supervisor import running
from schemas.api import SessionRequest
from schemas.records import AgentRecord, RemovalRecord, UserRecord

from .bench import CODE, InlineWorld, MemoryDisk, NoDoors, configuration

USER = UserRecord("uaaaaaaaaa", "user", "default", 0)
AGENT = AgentRecord("aaaaaaaaaa", USER.id, "local", generation=3)
REMOVAL = RemovalRecord("jaaaaaaaaa", USER.id, 7)


def core_on(place: Place) -> Core:
    hosts = this_machine(configuration(), FakeBackend(place))
    return Core(configuration(), {"sim": CODE}, InlineWorld(), MemoryDisk(), hosts, NoDoors())


async def live(_spec: AgentSpec) -> None:
    await trio.sleep_forever()


async def test_a_request_in_the_first_moment_finds_the_fleet(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        core = core_on(Place(nursery, live))
        async with running(core, Memory((USER,), (), (), (), 0)):
            await core.ask(plans.session(core, "user", SessionRequest()), "user", "", "session", 5.0)
        nursery.cancel_scope.cancel()


async def test_an_agent_is_started_for_what_its_user_deleted_before_a_restart(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        place = Place(nursery, live)
        core = core_on(place)
        async with running(core, Memory((USER,), (AGENT,), (), (), 0, removals=(REMOVAL,))):
            await trio.sleep(10)
            assert place.find(AGENT.id)
            core.jobs.removed(USER, "local", REMOVAL.job, REMOVAL.serial)
            await trio.sleep(5000)
            assert not place.processes
        nursery.cancel_scope.cancel()
