"""The link: refusals, redials, half-open connections, orders that are not well-formed, and the runs' indifference."""

import signal
import time
from pathlib import Path

import pytest
import trio
from standin_jobd import StandIn, listen_unix, stand_in

from schemas.link import Ack, Beat, End, Ended, Read, Started, Taken


async def test_the_hello_says_who_calls_and_what_it_holds(jobd: StandIn) -> None:
    hello = jobd.hellos[0]
    assert (hello.protocol, hello.agent, hello.generation, hello.pid) == (1, jobd.agent, 1, jobd.pid)
    assert (hello.fact, hello.held) == (0, ())


async def test_each_heartbeat_is_answered(jobd: StandIn) -> None:
    with trio.fail_after(5):
        beats = await jobd.until(lambda: len(found := [f for f in jobd.facts if isinstance(f, Beat)]) >= 3 and found)
        assert [beat.count for beat in beats][:3] == [1, 2, 3]


async def test_a_start_that_is_sent_again_is_executed_once(jobd: StandIn) -> None:
    with trio.fail_after(10):
        order = jobd.order("sh", "-c", "printf x >>../ran; sleep 0.3")
        for _ in range(3):
            await jobd.send(order)
        ended = await jobd.ended(order.epoch)
        jobd.facts.clear()
        await jobd.send(order)  # ended, not acknowledged
        await jobd.taken(order.epoch)
        await jobd.ack(ended.number)
        jobd.facts.clear()
        await jobd.send(order)  # ended and forgotten
        await jobd.taken(order.epoch)
        await jobd.ended(await jobd.start("true", serial=2))
        assert (jobd.scratch / "ran").read_text() == "x"
        assert {fact.epoch.serial for fact in jobd.numbered().values()} == {2}


async def test_runs_go_on_while_jobd_is_away_and_their_ends_are_told_when_it_is_back(jobd: StandIn) -> None:
    with trio.fail_after(10):
        short = await jobd.start("sh", "-c", "sleep 0.2; exit 3")
        long = await jobd.start("sleep", "60", serial=2)
        await jobd.started(long)
        await jobd.vanish()
        await trio.sleep(0.5)
        await jobd.listen()
        await jobd.until(lambda: len(jobd.hellos) == 2)
        assert {(held.epoch, held.state) for held in jobd.hellos[-1].held} == {(short, "ended"), (long, "running")}
        assert (await jobd.ended(short)).exit_code == 3
        await jobd.stop(long)
        await jobd.ended(long)


async def test_a_half_open_link_is_closed_and_dialled_anew(place: Path) -> None:
    with trio.fail_after(10):
        async with stand_in(place, silence_s=0.5) as jobd:
            jobd.beats = False
            jobd.call_agent()
            epoch = await jobd.start("sleep", "60")
            await jobd.started(epoch)
            began = time.monotonic()
            await jobd.until(lambda: len(jobd.hellos) == 2)
            assert time.monotonic() - began < 2
            assert [(held.epoch, held.state) for held in jobd.hellos[-1].held] == [(epoch, "running")]
            jobd.beats = True
            await jobd.stop(epoch)
            await jobd.ended(epoch)


async def test_a_listener_that_never_welcomes_is_left(place: Path) -> None:
    with trio.fail_after(10):
        async with stand_in(place) as jobd:
            await jobd.vanish()
            listener = await listen_unix(jobd.place / "control.sock")
            jobd.call_agent()
            stream = await listener.accept()
            await stream.receive_some(1)
            await stream.aclose()
            await listener.aclose()
            (jobd.place / "control.sock").unlink()
            await jobd.listen()
            await jobd.until(lambda: jobd.hellos)


async def test_a_malformed_order_costs_the_link_and_nothing_else(jobd: StandIn) -> None:
    texts = ("nonsense", '{"is":"Start"}', '{"is":"Nothing"}', '{"is":"Beat","count":"1"}', "[" * 100_000)
    with trio.fail_after(10):
        epoch = await jobd.start("sleep", "60")
        await jobd.started(epoch)
        for links, text in enumerate(texts, start=2):
            await jobd.send_text(text)
            await jobd.until(lambda links=links: len(jobd.hellos) == links)
        assert jobd.at.log().count("malformed") == len(texts)
        await jobd.stop(epoch)
        await jobd.ended(epoch)


async def test_end_makes_the_agent_exit_with_success_and_leaves_its_runs(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch = await jobd.start("sleep", "60")
        await jobd.started(epoch)
        await jobd.send(End("a newer generation has called"))
        assert await jobd.agent_exit() == 0
        assert jobd.at.run_processes() != []
        jobd.call_agent()
        await jobd.stop(epoch)
        await jobd.ended(epoch)


@pytest.mark.parametrize("status", [401, 403])
async def test_an_agent_that_jobd_refuses_exits_with_failure(place: Path, status: int) -> None:
    with trio.fail_after(10):
        async with stand_in(place) as jobd:
            jobd.reject_with = status
            jobd.call_agent()
            assert await jobd.agent_exit() == 2
            assert (jobd.place / "token").read_text() not in jobd.at.log()


async def test_any_other_refusal_is_tried_again(place: Path) -> None:
    with trio.fail_after(10):
        async with stand_in(place) as jobd:
            jobd.reject_with = 503
            jobd.call_agent()
            await trio.sleep(0.8)
            jobd.reject_with = None
            await jobd.until(lambda: jobd.hellos)


async def test_an_agent_without_jobd_and_without_runs_leaves(place: Path) -> None:
    with trio.fail_after(10):
        async with stand_in(place, lonely_s=0.4) as jobd:
            jobd.call_agent()
            epoch = await jobd.start("sleep", "0.8")
            await jobd.started(epoch)
            await jobd.vanish()
            began = time.monotonic()
            assert await jobd.agent_exit() == 0
            assert time.monotonic() - began > 0.5, "a run keeps it"
            await jobd.listen()
            jobd.call_agent()
            await jobd.ended(epoch)


async def test_facts_are_sent_again_until_they_are_acknowledged_and_then_never(jobd: StandIn) -> None:
    with trio.fail_after(15):
        epoch = await jobd.start("true")
        await jobd.ended(epoch)
        for generation in (2, 3):
            jobd.facts.clear()
            await jobd.kill_agent(signal.SIGTERM)
            jobd.call_agent()
            await jobd.ended(epoch)
            assert sorted(jobd.numbered()) == [1, 2]
            assert jobd.hellos[-1].generation == generation
        await jobd.ack(2)
        jobd.facts.clear()
        await jobd.vanish()
        await jobd.listen()
        await jobd.until(lambda: len(jobd.hellos) == 4)
        assert (jobd.hellos[-1].fact, jobd.hellos[-1].held) == (2, ())
        following = await jobd.start("true", serial=2)
        await jobd.ended(following)
        assert sorted(jobd.numbered()) == [3, 4]


async def test_a_repeated_fact_is_older_each_time(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch = await jobd.start("true")
        first = await jobd.ended(epoch)
        await trio.sleep(0.3)
        jobd.facts.clear()
        await jobd.vanish()
        await jobd.listen()
        assert (await jobd.ended(epoch)).age_s > first.age_s + 0.3


async def test_an_acknowledgement_of_the_unknown_only_moves_the_numbers_on(jobd: StandIn) -> None:
    with trio.fail_after(10):
        await jobd.send(Ack(40))
        epoch = await jobd.start("true")
        await jobd.ended(epoch)
        assert [(type(fact), number) for number, fact in jobd.numbered().items()] == [(Started, 41), (Ended, 42)]


async def test_a_full_outbox_takes_no_more_runs(place: Path) -> None:
    with trio.fail_after(10):
        async with stand_in(place, outbox_facts_max=2) as jobd:
            jobd.call_agent()
            first = await jobd.start("true")
            ended = await jobd.ended(first)
            refused = jobd.order("true", serial=2)
            await jobd.send(refused)
            answer = await jobd.ask(Read, first)
            assert answer.bytes == 0
            assert len([fact for fact in jobd.facts if isinstance(fact, Taken)]) == 1
            await jobd.ack(ended.number)
            await jobd.send(refused)
            await jobd.ended(refused.epoch)
