"""Death of agent, fork server or parent at any instant: at most one execution, exactly one Ended, nothing left."""

import json
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import trio
from standin_jobd import StandIn, eventually, stand_in
from test_agent_runs import FUGITIVE, is_alive, python

from agents import procs
from schemas.link import Ended, Epoch, Started

# Where the process is killed, and the outcomes that this allows, with how often the command may have been executed.
INSTANTS = [
    ("run.ordered", "exited", {1}),
    ("outbox.taken", "exited", {1}),
    ("run.prepared", "exited", {1}),
    ("forkserver.asked", "exited", {1}),
    ("forkserver.forked", "exited", {1}),
    ("parent.claimed", "lost", {0}),
    ("parent.forked", "lost", {0, 1}),
    ("parent.main_recorded", "lost", {0, 1}),
    ("outbox.started", "exited", {1}),
    ("parent.main_ended", "lost", {1}),
    ("parent.swept", "lost", {1}),
    ("parent.end_recorded", "exited", {1}),
    ("run.end_seen", "exited", {1}),
    ("outbox.ended", "exited", {1}),
]


@pytest.mark.parametrize(("failpoint", "outcome", "executions"), INSTANTS)
async def test_a_crash_at_any_durable_step_ends_the_run_once(
    place: Path, failpoint: str, outcome: str, executions: set[int]
) -> None:
    with trio.fail_after(15):
        async with stand_in(place) as jobd:
            await live_through(jobd, failpoint)
            epoch = Epoch(jobd.job, 1)
            ended = await jobd.ended(epoch)
            assert ended.outcome == outcome
            assert jobd.at.run_processes() == []
            ran = jobd.scratch / "ran"
            assert (len(ran.read_text()) if ran.exists() else 0) in executions
            assert_ended_once(jobd, [1])


def assert_ended_once(jobd: StandIn, serials: list[int]) -> None:
    numbered = jobd.numbered()
    assert sorted(numbered) == list(range(1, len(numbered) + 1))
    assert sorted(fact.epoch.serial for fact in numbered.values() if isinstance(fact, Ended)) == serials
    started = [fact.epoch.serial for fact in numbered.values() if isinstance(fact, Started)]
    assert len(started) == len(set(started))


async def test_a_further_generation_has_nothing_to_add(jobd: StandIn) -> None:
    with trio.fail_after(10):
        order = jobd.order("sh", "-c", "printf x >>../ran")
        await jobd.send(order)
        await jobd.ended(order.epoch)
        await jobd.kill_agent()
        jobd.call_agent()
        await jobd.send(order)
        await jobd.ended(await jobd.start("true", serial=2))
        assert_ended_once(jobd, [1, 2])
        assert (jobd.scratch / "ran").read_text() == "x"


async def live_through(jobd: StandIn, failpoint: str) -> None:
    """One run that meets the failpoint; who dies of it gets a successor, to which jobd says what it does not know."""
    first = jobd.call_agent(failpoint)
    await jobd.until(lambda: jobd.hellos)
    order = jobd.order("sh", "-c", "printf x >>../ran; sleep 0.2")
    await jobd.send(order)
    if not failpoint.startswith("parent."):
        await jobd.agent_exit()
        assert first.returncode != 0
        jobd.call_agent()
        await jobd.until(lambda: len(jobd.hellos) == 2)
        if order.epoch not in [held.epoch for held in jobd.hellos[-1].held]:
            await jobd.send(order)


async def test_a_run_goes_on_when_its_agent_is_killed_and_the_successor_tells_its_end(jobd: StandIn) -> None:
    with trio.fail_after(10):
        script = "echo before; until [ -e ../go ]; do sleep 0.02; done; echo after; exit 4"
        epoch = await jobd.start("sh", "-c", script)
        await jobd.started(epoch)
        parent = jobd.claim(epoch).pid
        await jobd.kill_agent()
        assert is_alive(parent)
        jobd.call_agent()
        await jobd.until(lambda: len(jobd.hellos) == 2)
        hello = jobd.hellos[-1]
        assert (hello.generation, hello.fact) == (2, 1)
        assert [(held.epoch, held.state) for held in hello.held] == [(epoch, "running")]
        (jobd.scratch / "go").touch()
        ended = await jobd.ended(epoch)
        assert (ended.exit_code, ended.log_tail) == (4, "before\nafter\n")
        assert ended.number == 2
        assert ended.age_s < 1, "also where init is slow to reap the parent"


async def test_a_run_that_ends_while_nobody_watches_is_told_by_the_successor(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch = await jobd.start("sh", "-c", "sleep 0.2; exit 4")
        await jobd.started(epoch)
        parent = jobd.claim(epoch).pid
        os.kill(jobd.fork_server(), signal.SIGKILL)
        await jobd.kill_agent()
        await eventually(lambda: not is_alive(parent))
        await trio.sleep(0.3)
        jobd.call_agent()
        ended = await jobd.ended(epoch)
        assert (ended.outcome, ended.exit_code) == ("exited", 4)
        assert ended.age_s > 0.25


async def test_an_agent_without_its_fork_server_leaves_and_its_runs_go_on(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch = await jobd.start("sh", "-c", "sleep 0.5; exit 4")
        await jobd.started(epoch)
        os.kill(jobd.fork_server(), signal.SIGKILL)
        assert await jobd.agent_exit() == 1
        jobd.call_agent()
        assert (await jobd.ended(epoch)).exit_code == 4


async def test_sigterm_ends_the_agent_and_leaves_the_runs(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch = await jobd.start("sleep", "60")
        await jobd.started(epoch)
        with trio.fail_after(1):
            assert await jobd.kill_agent(signal.SIGTERM) == 0
        assert is_alive(jobd.claim(epoch).pid)
        jobd.call_agent()
        await jobd.stop(epoch)
        assert (await jobd.ended(epoch)).outcome == "stopped"


async def test_a_killed_parent_is_a_lost_run_of_which_nothing_is_left(jobd: StandIn) -> None:
    with trio.fail_after(10):
        mark = jobd.scratch / "mark"
        epoch = await jobd.start(*python(FUGITIVE.format(mark=str(mark), then="time.sleep(60)")))
        other = await jobd.start("sleep", "60", serial=2)
        await jobd.started(other)
        await eventually(lambda: mark.exists() and mark.read_text())
        os.kill(jobd.claim(epoch).pid, signal.SIGKILL)
        ended = await jobd.ended(epoch)
        assert ended.outcome == "lost"
        assert ended.text == "its parent process was killed; what was left of the run has been ended"
        assert not is_alive(int(mark.read_text()))
        assert len(jobd.at.run_processes()) == 1, "the other run goes on"
        await jobd.stop(other)
        assert (await jobd.ended(other)).outcome == "stopped"


async def test_what_a_killed_parent_left_is_found_by_a_successor(jobd: StandIn) -> None:
    """Nobody's descendant any more, in a session of its own: the run's name in its environment tells."""
    with trio.fail_after(10):
        left_behind = "import os, time\nif os.fork() == 0:\n os.setsid()\nprint('up', flush=True)\ntime.sleep(60)"
        epoch = await jobd.start(*python(left_behind))
        await jobd.started(epoch)
        await eventually(lambda: (jobd.control(epoch) / "log").read_text() == "up\nup\n")
        parent = jobd.claim(epoch).pid
        os.kill(jobd.pid, signal.SIGSTOP)
        os.kill(jobd.fork_server(), signal.SIGKILL)
        os.kill(parent, signal.SIGKILL)
        await jobd.kill_agent()
        await eventually(lambda: not is_alive(parent))
        assert jobd.at.run_processes() != []
        jobd.call_agent()
        assert (await jobd.ended(epoch)).outcome == "lost"
        assert jobd.at.run_processes() == []


@pytest.mark.parametrize("forged", [{"boot": "another"}, {"start_ticks": 1}])
async def test_a_claim_of_another_boot_or_of_a_reused_pid_is_a_lost_run(jobd: StandIn, forged: dict[str, Any]) -> None:
    with trio.fail_after(10):
        epoch = await jobd.start("sleep", "60")
        await jobd.started(epoch)
        await jobd.kill_agent()
        claim = jobd.control(epoch) / "parent.json"
        claim.write_text(json.dumps({**json.loads(claim.read_text()), **forged}))
        jobd.call_agent()
        assert (await jobd.ended(epoch)).outcome == "lost"
        assert jobd.at.run_processes() == []


async def test_a_stop_that_was_noted_before_the_agent_died_is_carried_out_by_the_successor(place: Path) -> None:
    with trio.fail_after(10):
        async with stand_in(place) as jobd:
            jobd.call_agent("run.stop_noted")
            epoch = await jobd.start("sleep", "60")
            await jobd.started(epoch)
            await jobd.stop(epoch)
            await jobd.agent_exit()
            jobd.call_agent()
            assert (await jobd.ended(epoch)).outcome == "stopped"


async def test_a_refusal_outlives_the_agent_that_decided_it(place: Path) -> None:
    with trio.fail_after(10):
        async with stand_in(place) as jobd:
            jobd.call_agent("run.refused")
            missing = jobd.input("in", b"abc")
            jobd.inputs.clear()
            epoch = await jobd.start("true", inputs=(missing,))
            await jobd.agent_exit()
            jobd.call_agent()
            ended = await jobd.ended(epoch)
            assert ended.outcome == "not_started"
            assert ended.text == "input in could not be fetched: no such transfer"


async def test_a_run_that_was_not_begun_and_is_given_up_meanwhile_is_never_executed(place: Path) -> None:
    with trio.fail_after(10):
        async with stand_in(place) as jobd:
            jobd.call_agent("outbox.taken")
            epoch = await jobd.start("touch", "../ran")
            await jobd.agent_exit()
            await jobd.vanish()
            jobd.call_agent()
            await eventually(lambda: ": taken" in jobd.at.log())
            await trio.sleep(0.2)  # long enough for a run that would not wait for jobd
            jobd.welcome_stops = (epoch,)
            await jobd.listen()
            ended = await jobd.ended(epoch)
            assert (ended.outcome, ended.text) == ("stopped", "was stopped before it began")
            assert not (jobd.scratch / "ran").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="mounts a small file system")
async def test_a_run_that_fills_the_disk_can_be_stopped_and_its_end_is_told_when_there_is_room(place: Path) -> None:
    with trio.fail_after(15):
        async with stand_in(place) as jobd:
            await trio.run_process(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(jobd.root)])
            try:
                jobd.scratch.mkdir()
                jobd.call_agent()
                epoch = await jobd.start("sh", "-c", "sleep 0.3; yes >big; echo full; exec sleep 60")
                await jobd.started(epoch)
                await eventually(lambda: shutil.disk_usage(jobd.root).free == 0)
                await jobd.stop(epoch)
                await eventually(lambda: not jobd.at.run_processes())
                later = await jobd.start("true", serial=2)
                await trio.sleep(0.5)
                assert not [fact for fact in jobd.facts if isinstance(fact, Ended)]
                (jobd.run_dir(epoch) / "big").unlink()
                ended = await jobd.ended(epoch)
                assert ended.outcome == "stopped"
                assert ended.text == "was stopped; its log is not whole (No space left on device)"
                assert (await jobd.ended(later)).outcome == "exited"
                await jobd.kill_agent()
            finally:
                await trio.run_process(["umount", "-l", str(jobd.root)])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("end.json", '{"outcome":"exited","at":{"boot":"","boottime_s":0,"wall_s":0},"wall_s":1e300}'),
        ("parent.json", '{"pid":-1,"start_ticks":0,"boot":"BOOT"}'),
        ("parent.json", '{"pid":0,"start_ticks":0,"boot":"BOOT"}'),
        ("parent.json", None),  # a FIFO
        (".", None),  # the whole directory, removed
    ],
)
async def test_records_that_the_code_has_forged_or_removed_harm_only_its_own_run(
    jobd: StandIn, name: str, content: str | None
) -> None:
    with trio.fail_after(10):
        epoch = await jobd.start("sh", "-c", "printf x >>../ran; sleep 60")
        await jobd.started(epoch)
        await jobd.kill_agent()
        forged = jobd.control(epoch) / name
        if name == ".":
            shutil.rmtree(jobd.control(epoch))
        elif content is None:
            forged.unlink()
            os.mkfifo(forged)
        else:
            os.kill(jobd.claim(epoch).pid, signal.SIGKILL)
            forged.unlink(missing_ok=True)
            forged.write_text(content.replace("BOOT", procs.boot_id()))
        jobd.call_agent()
        assert (await jobd.ended(epoch)).outcome == "lost"
        await eventually(lambda: not jobd.at.run_processes())
        assert (await jobd.ended(await jobd.start("true", serial=2))).outcome == "exited"
        assert (jobd.scratch / "ran").read_text() == "x"


async def test_spoilt_records_end_in_a_lost_run_and_not_in_a_second_execution(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch = await jobd.start("sh", "-c", "printf x >>../ran; sleep 60")
        await jobd.started(epoch)
        await jobd.kill_agent()
        for name in ("order.json", "parent.json", "main.json"):
            (jobd.control(epoch) / name).write_text("{")
        jobd.call_agent()
        assert (await jobd.ended(epoch)).outcome == "lost"
        assert (jobd.scratch / "ran").read_text() == "x"
        assert jobd.at.run_processes() == []


async def test_a_second_process_of_an_agent_waits_for_the_first_and_then_gives_up(jobd: StandIn) -> None:
    with trio.fail_after(15):
        first = jobd.at.processes[0]
        jobd.call_agent()
        assert await jobd.agent_exit() == 1
        assert f"another process of agent {jobd.agent} still runs" in jobd.at.log()
        jobd.call_agent()
        await trio.sleep(0.3)
        assert len(jobd.hellos) == 1
        first.kill()
        await jobd.until(lambda: len(jobd.hellos) == 2)
        assert jobd.hellos[-1].generation == 3


@pytest.mark.parametrize("seed", range(2))
async def test_random_deaths_never_execute_twice_and_always_end_once(place: Path, seed: int) -> None:
    chance = random.Random(seed)
    with trio.fail_after(30):
        async with stand_in(place) as jobd:
            jobd.call_agent()
            orders = [
                jobd.order("sh", "-c", f"printf x >>../ran.{serial}; sleep 0.1", serial=serial)
                for serial in range(1, 9)
            ]
            for order in orders:
                await jobd.send(order)
                await trio.sleep(chance.random() * 0.05)
                victim = chance.choice(["agent", "fork server", "both", "parent", "nobody"])
                if victim in ("fork server", "both"):
                    os.kill(jobd.fork_server(), signal.SIGKILL)
                if victim == "parent" and (jobd.control(order.epoch) / "parent.json").exists():
                    os.kill(jobd.claim(order.epoch).pid, signal.SIGKILL)
                if victim in ("agent", "fork server", "both"):
                    await jobd.kill_agent()
                    jobd.call_agent()
                    await jobd.until(lambda: jobd.hellos[-1].generation == len(jobd.at.processes))
                    held = [held.epoch for held in jobd.hellos[-1].held]
                    for late in orders[: orders.index(order) + 1]:
                        if late.epoch not in held:
                            await jobd.send(late)
            for order in orders:
                ended = await jobd.ended(order.epoch)
                ran = jobd.scratch / f"ran.{order.epoch.serial}"
                assert (len(ran.read_text()) if ran.exists() else 0) in ({1} if ended.outcome == "exited" else {0, 1})
            assert_ended_once(jobd, list(range(1, 9)))
