"""What every backend promises (backends/base.py), told to each of them: one suite, one parameter for each place."""

import attrs
import pytest
import trio
from sites import DEADLINE_S, FAULTS, SITES, STOP_S, Site, eventually, ready

from backends.base import AgentSpec, Backend, BackendError
from schemas import codec
from schemas.records import AgentRecord


async def until_gone(backend: Backend, handle: str) -> None:
    with trio.fail_after(DEADLINE_S):
        while await backend.alive(handle):
            await trio.sleep(0.01)


def stored_and_read(spec: AgentSpec, handle: str) -> str:
    """The handle as the next jobd finds it in the store."""
    record = AgentRecord(spec.agent, spec.user, "default", handle=handle)
    read: AgentRecord = codec.from_data(codec.parse(codec.dumps(codec.to_data(record))), AgentRecord)
    return read.handle


# --- start ----------------------------------------------------------------------------------------------------------


async def test_an_agent_that_is_started_lives_and_calls_home(site: Site) -> None:
    backend = site.backend()
    async with ready(site, backend) as spec:
        handle = await backend.start(spec)
        assert await backend.alive(handle)
        await site.home.heard(spec)
        assert len(site.agents()) == 1


async def test_before_the_first_start_there_is_nothing_to_adopt(site: Site) -> None:
    backend = site.backend()
    assert await backend.adopt(site.spec()) is None, "its directories do not even exist"
    async with ready(site, backend) as spec:
        assert await backend.adopt(spec) is None
        assert site.leftovers() == []


async def test_the_next_generation_takes_the_place_of_the_one_that_runs(site: Site) -> None:
    backend = site.backend()
    async with ready(site, backend) as spec:
        first = await backend.start(spec)
        await site.home.heard(spec)
        newer = attrs.evolve(spec, generation=2)
        await backend.prepare(newer)
        second = await backend.start(newer)
        assert second != first
        assert not await backend.alive(first)
        await site.home.heard(newer)
        assert len(site.agents()) == 1


async def test_the_agents_of_two_users_live_and_end_apart(site: Site) -> None:
    backend = site.backend()
    async with ready(site, backend) as alice, ready(site, backend, 1) as bob:
        first, second = await backend.start(alice), await backend.start(bob)
        await site.home.heard(alice)
        await site.home.heard(bob)
        assert (await backend.adopt(alice), await backend.adopt(bob)) == (first, second)
        await backend.stop(first)
        assert await backend.adopt(alice) is None
        assert await backend.alive(second)


@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.004, 0.01, 0.03])
async def test_a_start_that_was_cut_off_and_is_repeated_gives_one_agent(site: Site, after_s: float) -> None:
    async with ready(site, site.backend()) as spec:
        with trio.move_on_after(after_s):
            await site.backend().start(spec)
        backend = site.backend()
        if (found := await backend.adopt(spec)) is not None:
            assert await backend.alive(found)
        handle = await backend.start(spec)
        await site.home.heard(spec)
        assert await backend.adopt(spec) == handle
        assert len(site.agents()) == 1


# --- a start that fails ---------------------------------------------------------------------------------------------


async def reason(backend: Backend, spec: AgentSpec) -> str:
    """Why the agent could not be started, as the fleet tells its user: the error, and the end of the agent's log."""
    try:
        await backend.prepare(spec)
        await until_gone(backend, await backend.start(spec))
        said = "it ended before it called home"
    except BackendError as error:
        said = str(error)
        assert said
        assert "None" not in said
    try:
        return f"{said}. The end of its log: {await backend.log_tail(spec)}"
    except BackendError:
        return said


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_start_that_fails_says_why_leaves_nothing_and_can_be_repeated(site: Site, fault: str) -> None:
    backend, words = site.faulty(fault)
    spec = site.spec()
    for _ in range(5):
        with trio.fail_after(DEADLINE_S):
            assert words in await reason(backend, site.misplaced(spec, fault))
        assert site.leftovers() == []
    backend = site.backend()
    await backend.prepare(spec)
    async with site.doors(spec):
        await backend.start(spec)
        with trio.fail_after(DEADLINE_S):
            await site.home.heard(spec)


# --- after a restart of jobd ----------------------------------------------------------------------------------------


async def test_a_new_backend_knows_a_living_agent_by_its_stored_handle(site: Site) -> None:
    async with ready(site, site.backend()) as spec:
        handle = stored_and_read(spec, await site.backend().start(spec))
        await site.home.heard(spec)
        later = site.backend()
        assert await later.alive(handle)
        await later.stop(handle)
        assert not await later.alive(handle)
        await eventually(lambda: not site.agents())


async def test_a_new_backend_finds_an_agent_of_which_nothing_was_stored(site: Site) -> None:
    async with ready(site, site.backend()) as spec:
        handle = await site.backend().start(spec)
        await site.home.heard(spec)
        later = site.backend()
        assert await later.adopt(spec) == handle
        await later.prepare(attrs.evolve(spec, token=""))  # as the fleet does before it opens the doors again
        assert await later.adopt(spec) == handle
        assert await later.adopt(site.spec()) is None, "another agent's is not taken for it"


async def test_an_agent_that_died_meanwhile_is_neither_alive_nor_found(site: Site) -> None:
    backend = site.backend()
    async with ready(site, backend) as spec:
        handle = await backend.start(spec)
        await site.home.heard(spec)
        await site.kill(handle)
        for later in (site.backend(), backend):
            assert await later.adopt(spec) is None
            assert not await later.alive(handle)
            await later.stop(handle)
        await eventually(lambda: not site.leftovers())


# --- stop -----------------------------------------------------------------------------------------------------------


async def test_a_stop_ends_the_agent_and_its_helpers_and_twice_is_fine(site: Site) -> None:
    backend = site.backend()
    async with ready(site, backend) as spec:
        handle = await backend.start(spec)
        await site.home.heard(spec)
        with trio.fail_after(2 * STOP_S + 1):
            await backend.stop(handle)
            assert site.agents() == []
            await backend.stop(handle)
        assert not await backend.alive(handle)
        assert await backend.adopt(spec) is None
        await eventually(lambda: not site.leftovers())


async def test_a_stop_before_the_agent_has_called_home_ends_it(site: Site) -> None:
    backend = site.backend()
    async with ready(site, backend) as spec:
        await backend.stop(await backend.start(spec))
        assert site.agents() == []
        await eventually(lambda: not site.leftovers())


async def test_two_stops_at_once_both_return(site: Site) -> None:
    async with ready(site, site.backend()) as spec:
        handle = await site.backend().start(spec)
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(site.backend().stop, handle)
        assert site.agents() == []


async def test_what_never_was_is_not_alive_and_can_be_stopped(site: Site) -> None:
    with trio.fail_after(DEADLINE_S):
        assert not await site.backend().alive(site.never_started)
        await site.backend().stop(site.never_started)


FOREIGN = [
    *(kind.never_started for kind in SITES.values()),
    "",
    "0",
    "-1",
    "1",
    "7f3a9c",
    "a.b.c",
    "1.2.3.4",
    "\0",
    "9" * 5000,
]


@pytest.mark.parametrize("handle", FOREIGN, ids=lambda handle: repr(handle[:12]))
async def test_a_handle_of_another_backend_is_an_error_that_names_it(site: Site, handle: str) -> None:
    if handle == site.never_started:
        return
    for deed in (site.backend().alive, site.backend().stop):
        with pytest.raises(BackendError) as refused:
            await deed(handle)
        assert repr(handle[:12])[:-1] in str(refused.value)
        assert len(str(refused.value)) < 200
