"""The laws of the restart loop."""

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

import jobd
from jobd.broker import Pool
from jobd.dispatch import Act, Awaited, Request, Situation, dispatch
from jobd.errors import Invalid
from jobd.scopes import Notice, Scope
from schemas.records import Cause

SOURCES = sorted(Path(jobd.__file__).parent.rglob("*.py"))
USER = Cause("user")


class Gate:
    """A requirement that opens when it is told to."""

    def __init__(self, name: str = "gate") -> None:
        self.name = name
        self.value: str | None = None
        self.changed = Notice()
        self.waits = 0

    def open(self) -> None:
        self.value = self.name
        self.changed.notify()

    def shut(self) -> None:
        self.value = None

    def ready(self) -> str | None:
        return self.value

    async def wait(self) -> None:
        self.waits += 1
        await self.changed.wait()

    @property
    def situation(self) -> Situation:
        return Situation(self.name, f"waiting for {self.name}")


def new_request() -> Request:
    return Request(Scope("jobd", "jobd").open("request", "1"))


def saying(value: object) -> Callable[[], Awaitable[Any]]:
    async def act() -> object:
        await trio.lowlevel.checkpoint()
        return value

    return act


async def test_the_happy_path_runs_the_plan_once() -> None:
    request, gate = new_request(), Gate()
    gate.open()
    assert await dispatch(lambda r: saying(r.need(gate)), request) == "gate"
    assert request.restarts == 0 and gate.waits == 0


async def test_every_check_is_made_afresh_after_every_wait() -> None:
    first, second, committed = Gate("first"), Gate("second"), []

    def plan(request: Request) -> Act[str]:
        request.need(first)
        request.need(second)
        committed.append(1)
        return saying("done")

    async with trio.open_nursery() as nursery:
        request = new_request()
        nursery.start_soon(dispatch, plan, request)
        await trio.testing.wait_all_tasks_blocked()
        first.open()
        await trio.testing.wait_all_tasks_blocked()
        first.shut()  # it was there, and is gone again
        second.open()
        await trio.testing.wait_all_tasks_blocked()
        assert not committed
        first.open()
    assert committed == [1] and request.restarts == 3


async def test_a_cancelled_request_never_commits() -> None:
    gate, committed = Gate(), []
    request = new_request()

    def plan(request: Request) -> Act[str]:
        request.need(gate)
        committed.append(1)
        return saying("done")

    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            with request.scope:
                await dispatch(plan, request)

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        gate.open()  # it is woken, and in the same moment cancelled
        request.scope.cancel(USER)
    assert not committed


async def test_a_request_that_is_cancelled_from_the_start_never_runs_its_plan() -> None:
    request = new_request()
    request.scope.cancel(USER)
    with request.scope:
        await dispatch(lambda _: pytest.fail("the plan ran"), request)
    assert request.scope.cause is USER


@pytest.mark.parametrize("way", ["answer", "error", "bug", "cancel", "deadline"])
async def test_what_is_held_is_given_back_however_it_is_left(way: str, autojump_clock: trio.testing.MockClock) -> None:
    pool, other = Pool("a", 1, (1,)), Pool("b", 2, (1,))
    request, gate = new_request(), Gate()

    def plan(request: Request) -> Act[str]:
        request.held.ticket(pool, "u", (1,))
        request.held.ticket(other, "u", (1,))
        if way == "answer":
            return saying("done")
        if way == "error":
            raise Invalid
        if way == "bug":
            raise ZeroDivisionError
        return saying(request.need(gate))

    async def cancel() -> None:
        await trio.sleep(1)
        request.scope.cancel(USER)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel)
        try:
            with request.held, request.scope as scope:
                scope.expire(0.5 if way == "deadline" else 5, Cause("deadline"))
                await dispatch(plan, request)
        except (Invalid, ZeroDivisionError):
            pass
        assert pool.idle and other.idle


async def test_a_place_in_the_queue_survives_restarts() -> None:
    pool, gate = Pool("pool", 1, (1,)), Gate()
    blocker = pool.join("x", (1,))

    def plan(request: Request) -> Act[int]:
        ticket = request.held.ticket(pool, "u", (1,))
        request.need(gate)
        return saying(ticket.ahead)

    async with trio.open_nursery() as nursery:
        request = new_request()

        async def ask() -> None:
            with request.held:
                assert await dispatch(plan, request) == 0

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        later = pool.join("u", (1,))
        for _ in range(3):
            gate.changed.notify()
            await trio.testing.wait_all_tasks_blocked()
        assert later.ahead == 1
        gate.open()
    blocker.leave()
    assert later.granted


def test_tickets_are_taken_in_the_order_of_the_pools() -> None:
    held = new_request().held
    held.ticket(Pool("later", 2, (1,)), "u", (1,))
    with pytest.raises(AssertionError, match="order of the pools"):
        held.ticket(Pool("earlier", 1, (1,)), "u", (1,))


async def test_an_act_that_only_reads_may_start_over() -> None:
    gate, attempts = Gate(), []
    gate.open()

    def plan(request: Request) -> Act[str]:
        request.need(gate)

        async def act() -> str:
            attempts.append(1)
            await trio.lowlevel.checkpoint()
            if len(attempts) == 1:
                gate.shut()
                raise Awaited(gate)
            return "done"

        return act

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dispatch, plan, new_request())
        await trio.testing.wait_all_tasks_blocked()
        gate.open()
    assert len(attempts) == 2


async def test_the_nursery_of_an_attempt_dies_with_it() -> None:
    gate, ended = Gate(), []

    async def helper() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(1)

    def plan(request: Request) -> Act[str]:
        assert request.nursery is not None
        request.nursery.start_soon(helper)
        return saying(request.need(gate))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dispatch, plan, new_request())
        await trio.testing.wait_all_tasks_blocked()
        assert len(ended) == 1
        gate.open()
    assert len(ended) == 2


@pytest.mark.parametrize("depth", [0, 1, 3])
async def test_an_error_is_unwrapped_from_every_group(depth: int) -> None:
    def plan(_request: Request) -> Act[str]:
        async def act() -> str:
            await _fail_below(depth)
            return "never"

        return act

    with pytest.raises(Invalid):
        await dispatch(plan, new_request())


async def _fail_below(depth: int) -> None:
    if depth == 0:
        raise Invalid
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_fail_below, depth - 1)


async def test_situations_are_told_while_it_waits() -> None:
    gate, told, request = Gate(), [], new_request()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dispatch, lambda r: saying(r.need(gate)), request, told.append)
        await trio.testing.wait_all_tasks_blocked()
        assert request.situation == gate.situation and request.scope.doing == "waiting for gate"
        gate.open()
    assert told == [gate.situation, None] and request.situation is None and request.scope.doing == ""


# --- laws of the text -----------------------------------------------------------------------------------------------


def matches(pattern: str) -> list[str]:
    return [path.name for path in SOURCES for line in path.read_text().splitlines() if re.search(pattern, line)]


def test_there_is_one_place_that_catches_awaited() -> None:
    assert matches(r"except .*\bAwaited\b") == ["dispatch.py"]


def test_exception_groups_are_unwrapped_in_one_place() -> None:
    outside = {"server.py", "connection.py"}  # they contain what a connection raises, and are on no request's way
    assert set(matches(r"except.*ExceptionGroup")) == {"dispatch.py"}
    assert set(matches(r"except\*")) <= outside


def test_there_are_no_locks() -> None:
    assert matches(r"trio\.(Lock|StrictFIFOLock|Semaphore|Condition)\b") == []


def test_limiters_are_for_threads_only() -> None:
    assert set(matches(r"CapacityLimiter")) <= {"world.py"}


def test_plans_and_requirements_are_not_async() -> None:
    assert matches(r"async def (ready|plan)\b") == []
