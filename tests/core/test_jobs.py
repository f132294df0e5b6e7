"""The registry, the agents and their links: what the simulation meets rarely, shown directly."""

import json
from typing import Any

import pytest
import trio

from jobd import plans, runs, states
from jobd.causes import cause
from jobd.delivery import Collected
from jobd.errors import StaleSerial
from jobd.job import Job
from jobd.jobs import Run
from schemas.api import AnalysisRequest, CancelRequest
from schemas.link import Analyse, Answer, Beat, Drop, Ended, Epoch, Held, Start, Started, Stop, Welcome
from schemas.records import Ended as EndedState
from schemas.records import JobRecord, RunRecord

from .bench import Bench, Wire, bench, run_request, starts


async def accepted(built: Bench, text: str = "1", job: str = "job", **fields: Any) -> Run:
    """A run that is accepted and durable."""
    await built.ask(plans.accept(built.core, "user", job, run_request(text, **fields)))
    run: Run = built.begun[-1]
    return run


async def started(built: Bench, text: str = "1", **fields: Any) -> tuple[Run, Wire]:
    """A run that is executed, and its agent's wire."""
    run = await accepted(built, text, **fields)
    wire = await built.link(run.user)
    await built.ask(plans.start(built.core, run))
    await settled()
    (order,) = starts(wire)
    wire.say(Started(1, order.epoch, 0.0))
    await settled()
    return run, wire


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def test_a_past_run_is_read_as_it_ended_although_its_end_is_not_on_disk_yet(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with bench() as built:
        run, wire = await started(built)
        built.disk.fails = True
        wire.say(Ended(2, Epoch(*run.key), "exited", 0.0, exit_code=0))
        await settled()
        assert isinstance(run.record.state, EndedState)
        built.core.store.healthy = True  # nobody has noticed yet
        with trio.move_on_after(0.5):
            await built.ask(plans.accept(built.core, "user", "job", run_request("2")))
        assert built.core.jobs.cached("user", "job").record.serial == 2

        async def heal() -> None:
            await trio.sleep(2)
            built.disk.fails = False

        built.nursery.start_soon(heal)
        view = await built.ask(plans.cancel(built.core, "user", "job", CancelRequest(1), "user"))
        assert view.state == "completed"
        assert [each.state.verdict for each in built.disk.of(RunRecord) if each.serial == 1] == ["completed"]


async def test_ops_on_a_link_that_is_replaced_are_asked_again_on_the_new_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with bench() as built:
        run, old = await started(built)
        sink = Collected()
        ask = plans.analyse(built.core, "user", "job", "frame", AnalysisRequest(), sink)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(built.ask, ask)
            await settled()
            assert old.take(Analyse)
            new = Wire(answers=lambda order: Answer(order.op, [1]) if isinstance(order, Analyse) else None)
            await built.link(run.user, new, held=())
        assert sink.pieces == [b"[1]"] and trio.current_time() < 5


async def test_a_job_that_someone_waits_for_is_not_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    async with bench(jobs_cached_max=1) as built:
        run, wire = await started(built)
        wire.say(Ended(2, Epoch(*run.key), "exited", 0.0, exit_code=0))
        await settled()
        revision = built.core.jobs.cached("user", "job").revision
        async with trio.open_nursery() as nursery:

            async def poll() -> None:
                new, text = await built.ask(plans.status(built.core, "user", "job", revision, 100.0))
                assert new != revision and json.loads(text)["serial"] == 2 and trio.current_time() < 5

            nursery.start_soon(poll)
            await settled()
            for number in range(5):
                await built.ask(plans.status(built.core, "user", f"other{number}", None, 0.0))
            await accepted(built, "2")


async def test_a_lost_link_changes_what_a_poll_is_told(autojump_clock: trio.testing.MockClock) -> None:
    async with bench() as built:
        _, wire = await started(built)
        revision, text = await built.ask(plans.status(built.core, "user", "job", None, 0.0))
        assert json.loads(text)["known"]["state"] == "fresh"
        await wire.aclose()
        await trio.sleep(10)
        changed, text = await built.ask(plans.status(built.core, "user", "job", revision, 0.0))
        assert changed != revision and json.loads(text)["known"]["state"] == "unknown"


async def test_a_restart_keeps_more_open_jobs_than_the_cache_has_room_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with bench() as built:
        for number in range(5):
            await accepted(built, job=f"job{number}")
        memory = built.disk.load()
    async with bench(jobs_cached_max=1) as again:
        runs = again.core.jobs.restore(memory)
        assert [again.core.jobs.cached("user", f"job{number}").run for number in range(5)] == runs


async def test_welcome_is_the_first_word_however_slow_the_disk(autojump_clock: trio.testing.MockClock) -> None:
    async with bench() as built:
        run = await accepted(built)
        built.disk.fails = True
        await accepted_later(built)
        wire = await built.link(run.user)
        await trio.sleep(15)
        assert not wire.orders
        built.disk.fails = False
        await trio.sleep(10)
        assert isinstance(wire.orders[0], Welcome) and isinstance(wire.orders[-1], Beat)


async def accepted_later(built: Bench) -> None:
    with trio.move_on_after(0.1):
        await accepted(built, job="another")


async def overdue(built: Bench) -> Run:
    """A run whose agent went away shortly before its limit, which passed long ago; but nothing is known."""
    run, wire = await started(built)
    built.nursery.start_soon(runs.conduct, built.core, run, plans.hold(built.core, run))
    await trio.sleep(run.record.limits.run_s - 5)
    await wire.aclose()
    await trio.sleep(60)
    return run


async def comes_back_ended(built: Bench, run: Run) -> None:
    """Its agent is back, and tells what happened meanwhile."""
    back = await built.link(run.user, held=(Held(Epoch(*run.key), "ended"),))
    back.say(Ended(2, Epoch(*run.key), "exited", 60.0, exit_code=0))
    await settled()


async def test_the_limit_on_a_run_waits_for_an_agent_that_is_away(autojump_clock: trio.testing.MockClock) -> None:
    async with bench() as built:
        run = await overdue(built)
        assert run.active
        await comes_back_ended(built, run)
        assert run.record.state.verdict == "completed"


async def test_the_limit_on_a_run_waits_for_an_agent_whose_new_link_is_half_open(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with bench() as built:
        run = await overdue(built)
        held = (Held(Epoch(*run.key), "ended"),)
        half_open = await built.link(run.user, Wire(swallows=True), held=held)  # nothing comes after its hello
        await trio.sleep(built.core.config.agents.tell_s + 1)
        assert run.active
        await half_open.aclose()
        await comes_back_ended(built, run)
        assert run.record.state.verdict == "completed"


async def test_a_run_whose_agent_never_answers_on_its_links_is_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with bench() as built:
        run, wire = await started(built)
        built.nursery.start_soon(runs.conduct, built.core, run, plans.hold(built.core, run))
        await trio.sleep(1)
        await wire.aclose()
        until = trio.current_time() + run.record.limits.heartbeat_s
        while trio.current_time() < until:
            assert run.active
            half_open = await built.link(run.user, Wire(swallows=True), held=(Held(Epoch(*run.key), "running"),))
            await trio.sleep(10)
            await half_open.aclose()
        await trio.sleep(1)
        assert not run.active and run.record.state.cause.code == "heartbeat_timeout"


async def test_a_serial_that_never_was_is_stale() -> None:
    async with bench() as built:
        await accepted(built)
        with pytest.raises(StaleSerial):
            await built.ask(plans.cancel(built.core, "user", "job", CancelRequest(2), "user"))


async def test_nobody_can_touch_another_users_run(autojump_clock: trio.testing.MockClock) -> None:
    async with bench() as built:
        run, _ = await started(built)
        await built.ask(plans.accept(built.core, "mallory", "job", run_request()))
        wire = await built.link(built.begun[-1].user)
        wire.say(Ended(1, Epoch(*run.key), "exited", 0.0, exit_code=0))
        await settled()
        assert run.active


async def test_a_stop_follows_every_welcome_until_the_end_is_proved(autojump_clock: trio.testing.MockClock) -> None:
    async with bench() as built:
        run, wire = await started(built)
        built.core.jobs.advance(run, states.Canceled(cause("user")))
        await wire.aclose()
        await settled()
        held = (Held(Epoch(*run.key), "running"),)
        back = await built.link(run.user, held=held)
        assert [order.epoch for order in back.take(Stop)] == [Epoch(*run.key)]
        back.say(Ended(2, Epoch(*run.key), "stopped", 0.0))
        await settled()
        assert isinstance(run.record.state, EndedState) and run.record.state.verdict == "canceled"


async def test_a_question_that_nobody_waits_for_is_dropped(autojump_clock: trio.testing.MockClock) -> None:
    async with bench() as built:
        _, wire = await started(built)
        with trio.move_on_after(1):
            await built.ask(plans.analyse(built.core, "user", "job", "frame", AnalysisRequest(), Collected()))
        await settled()
        assert [each.op for each in wire.take(Analyse)] == [each.op for each in wire.take(Drop)]
        agent = built.core.fleet.agents[built.begun[0].user.id, "local"]
        assert not agent.ops
        assert not wire.take(Start)


async def test_a_job_that_left_memory_while_it_was_read_is_read_again(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench(jobs_cached_max=1) as built:
        _, wire = await started(built)
        wire.say(Ended(2, Epoch(*built.core.jobs.cached("user", "job").run.key), "exited", 0.0, exit_code=0))
        await settled()
        jobs, read = built.core.jobs, built.disk.job
        await built.ask(plans.status(built.core, "user", "other", None, 0.0))
        assert jobs.cached("user", "job") is None

        def changing(user: str, name: str) -> Any:
            """Between this read's look at the disk and its answer, others bring jobs into memory and out again."""
            found = read(user, name)
            monkeypatch.undo()
            for number in range(3):
                jobs._keep(
                    Job(("user", f"more{number}"), jobs.users["user"], JobRecord(f"j{number}", "u", ""), iter([1]))
                )
            return found

        monkeypatch.setattr(type(built.disk), "job", lambda _disk, *key: changing(*key))
        await jobs.read("user", "job")
        assert jobs.cached("user", "job") is None, "what was read may be old"
        await jobs.read("user", "job")
        assert jobs.cached("user", "job").run.record.serial == 1
