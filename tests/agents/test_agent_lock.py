"""One process at a time is the agent, on one login node and over several that share its directory."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from homes import LoginPlace, jobd_behind_tls, until_gone

from agents import lock
from agents.lock import HOLDER, NEXT, STALE_S, Lock, Locked, Where

ELSEWHERE = [sys.executable, str(Path(__file__).with_name("elsewhere.py")), "login2"]
A, B = Where("a", "boot a", "1"), Where("b", "boot b", "1")


def held_by(place: Path, generation: int, where: Where, silent_s: float = 0.0) -> Lock:
    held = Lock(str(place), generation, where)
    held.take()
    os.utime(place / HOLDER, (time.time() - silent_s,) * 2)
    return held


class Taking:
    """A process that waits for the hold."""

    def __init__(self, wanted: Lock) -> None:
        self.outcome: object = None
        self._wanted = wanted
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def _take(self) -> None:
        try:
            self._wanted.take()
            self.outcome = "taken"
        except Locked as error:
            self.outcome = str(error)

    def until_over(self, seconds: float = 5) -> object:
        self._thread.join(seconds)
        return self.outcome


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- the record -----------------------------------------------------------------------------------------------------


def test_a_newer_one_elsewhere_waits_until_the_older_has_released_it(place: Path) -> None:
    older = held_by(place, 1, A)
    newer = Lock(str(place), 2, B)
    taking = Taking(newer)
    until((place / NEXT).exists)
    assert not older.refresh()  # it sees the other, and leaves
    time.sleep(0.3)
    assert taking.outcome is None
    older.release()
    assert taking.until_over() == "taken"
    assert newer.refresh()
    assert not (place / NEXT).exists()


def test_one_that_gives_no_sign_for_long_is_taken_over(place: Path) -> None:
    older = held_by(place, 1, A, silent_s=STALE_S + 1)
    newer = Lock(str(place), 2, B)
    newer.take()
    assert newer.refresh()
    assert not older.refresh()
    older.release()
    assert newer.refresh()  # what was not its own any more, it has left alone


def test_one_that_gives_signs_is_not(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "WAIT_S_MAX", 1.0)
    older = held_by(place, 1, A, silent_s=STALE_S - 3)
    assert older.refresh()
    with pytest.raises(Locked, match="the one on a neither lets go nor dies"):
        Lock(str(place), 2, B).take()


def test_an_older_generation_refuses(place: Path) -> None:
    held_by(place, 2, A, silent_s=STALE_S + 100)
    for where in (A, B):
        with pytest.raises(Locked, match="generation 2 is there, on a, and we are an older one"):
            Lock(str(place), 1, where).take()


def test_of_two_that_wait_the_newer_generation_is_next(place: Path) -> None:
    older = held_by(place, 1, A)
    second = Taking(Lock(str(place), 2, B))
    until((place / NEXT).exists)
    third = Taking(Lock(str(place), 3, Where("c", "", "")))
    assert "generation 3 is there, on c" in str(second.until_over())
    older.release()
    assert third.until_over() == "taken"


def test_of_two_of_one_generation_the_later_is_next(place: Path) -> None:
    older = held_by(place, 1, A)
    second = Taking(Lock(str(place), 2, B))
    until((place / NEXT).exists)
    again = Taking(Lock(str(place), 2, Where("c", "", "")))
    assert second.until_over() == "it was started once more meanwhile"
    assert not older.refresh()
    older.release()
    assert again.until_over() == "taken"


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100, b"x" * 10_000])
def test_a_record_that_makes_no_sense_ages_like_any(
    place: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "WAIT_S_MAX", 0.5)
    (place / HOLDER).write_bytes(content)
    with pytest.raises(Locked, match="the one on another machine"):
        Lock(str(place), 2, B).take()
    os.utime(place / HOLDER, (time.time() - STALE_S - 1,) * 2)
    Lock(str(place), 2, B).take()


def test_whoever_finds_its_record_gone_leaves(place: Path) -> None:
    held = held_by(place, 1, A)
    (place / HOLDER).unlink()
    assert not held.refresh()


# --- agents ---------------------------------------------------------------------------------------------------------


async def test_on_its_own_machine_a_newer_agent_ends_the_older(node: LoginPlace) -> None:
    async with jobd_behind_tls(node) as jobd:
        for generation in (1, 2):
            assert node.login(generation).returncode == 0
        until_gone(node.arrivals[0].pid, 0)
        with trio.fail_after(10):
            await jobd.until(lambda: jobd.hellos and jobd.hellos[-1].generation == 2)


async def test_one_that_does_not_listen_is_killed(node: LoginPlace) -> None:
    async with jobd_behind_tls(node):
        node.login(1)
        os.kill(node.pid, signal.SIGSTOP)
        began = time.monotonic()
        assert node.login(2).returncode == 0
        assert 5 <= time.monotonic() - began < 12
        until_gone(node.arrivals[0].pid, 0)


async def test_on_another_machine_the_older_agent_leaves_within_seconds(node: LoginPlace) -> None:
    async with jobd_behind_tls(node) as jobd:
        node.login(1)
        with trio.fail_after(10):
            epoch = await jobd.start("sleep", "60")
            await jobd.started(epoch)
        began = time.monotonic()
        done = await trio.to_thread.run_sync(node.login, 2, ELSEWHERE)
        assert done.returncode == 0, done.stderr
        assert time.monotonic() - began < 8
        until_gone(node.arrivals[0].pid, 0)
        assert "leaving: another process is this agent now" in node.log()
        with trio.fail_after(10):
            hello = await jobd.until(lambda: jobd.hellos[-1].generation == 2 and jobd.hellos[-1])
            assert [held.epoch for held in hello.held] == [epoch]
            await jobd.stop(epoch)
            await jobd.ended(epoch)


async def test_an_older_agent_refuses_to_start_and_the_newer_does_not_notice(node: LoginPlace) -> None:
    async with jobd_behind_tls(node):
        node.login(2)
        for command in (None, ELSEWHERE):
            done = node.login(1, command)
            assert done.returncode == 1
            assert "generation 2 is there" in done.stderr
        await trio.sleep(2.5)
        assert node.survivors().count(node.pid) == 1
