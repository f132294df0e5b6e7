"""The cancel-scope tree."""

import contextvars

import pytest
import trio

from jobd.scopes import Notice, Scope, outlive
from schemas.records import Cause

USER = Cause("user")
SHUTDOWN = Cause("shutdown")
LATE = Cause("deadline")


def names(root: Scope) -> list[str]:
    return [scope.name for _, scope in root.walk()]


async def test_the_first_cause_wins() -> None:
    scope = Scope("run", "1")
    assert scope.cancel(USER)
    assert not scope.cancel(SHUTDOWN)
    assert scope.cause is USER


async def test_a_cancel_reaches_every_child_but_keeps_their_own_causes() -> None:
    root = Scope("jobd", "jobd")
    first, second = root.group("job", "a").open("run", "1"), root.group("job", "b").open("run", "1")
    first.cancel(USER)
    root.cancel(SHUTDOWN)
    assert first.cause is USER and second.cause is SHUTDOWN


async def test_a_child_of_a_cancelled_scope_is_born_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    root = Scope("jobd", "jobd")
    root.cancel(SHUTDOWN)
    with root.group("user", "u").open("request", "1") as scope:
        await trio.sleep(1)
        pytest.fail("it went on")
    assert scope.cause is SHUTDOWN
    assert trio.current_time() == 0


async def test_cancelling_a_sibling_does_not_touch_me() -> None:
    root = Scope("jobd", "jobd")
    mine, other = root.open("run", "1"), root.open("run", "2")
    other.cancel(USER)
    with mine:
        await trio.lowlevel.checkpoint()
    assert mine.cause is None


async def test_an_expiry_is_the_cause_of_what_it_ends(autojump_clock: trio.testing.MockClock) -> None:
    with Scope("jobd", "jobd").open("request", "1") as scope:
        scope.expire(5.0, LATE)
        await trio.sleep(10)
    assert scope.cause is LATE
    assert trio.current_time() == 5.0


async def test_a_later_expiry_replaces_an_earlier_one(autojump_clock: trio.testing.MockClock) -> None:
    scope = Scope("jobd", "jobd").open("request", "1")
    scope.expire(5.0, USER)
    with scope:
        scope.expire(20.0, LATE)
        await trio.sleep(10)
    assert scope.cause is None


async def test_a_cancel_before_the_expiry_stays_the_cause(autojump_clock: trio.testing.MockClock) -> None:
    with Scope("jobd", "jobd").open("request", "1") as scope:
        scope.expire(5.0, LATE)
        scope.cancel(USER)
        await trio.sleep(10)
    assert scope.cause is USER


async def test_a_scope_that_nothing_ended_has_no_cause(autojump_clock: trio.testing.MockClock) -> None:
    with Scope("jobd", "jobd").open("request", "1") as scope:
        scope.expire(5.0, LATE)
        await trio.sleep(1)
    assert scope.cause is None


async def test_the_tree_prunes_itself() -> None:
    root = Scope("jobd", "jobd")
    first = root.group("user", "u").group("job", "j").open("run", "1")
    second = root.group("user", "u").group("job", "j").open("request", "2")
    assert names(root) == ["jobd", "u", "j", "1", "2"]
    with first:
        pass
    assert names(root) == ["jobd", "u", "j", "2"]
    with second:
        pass
    assert names(root) == ["jobd"]


async def test_a_scope_with_children_stays_until_they_have_left() -> None:
    root = Scope("jobd", "jobd")
    parent = root.open("run", "1")
    child = parent.open("request", "2")
    parent.leave()
    assert names(root) == ["jobd", "1", "2"]
    child.leave()
    assert names(root) == ["jobd"]


async def test_two_pieces_of_work_have_two_names() -> None:
    root = Scope("jobd", "jobd")
    root.open("run", "1")
    with pytest.raises(AssertionError, match="two run scopes"):
        root.open("run", "1")


async def test_a_scope_is_entered_once() -> None:
    scope = Scope("jobd", "jobd").open("run", "1")
    with scope:
        pass
    with pytest.raises(AssertionError, match="entered once"), scope:
        pass


async def test_a_notice_wakes_all_who_wait_and_remembers_nothing() -> None:
    notice = Notice()
    woken = []

    async def wait(name: str) -> None:
        await notice.wait()
        woken.append(name)

    notice.notify()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "a")
        nursery.start_soon(wait, "b")
        await trio.testing.wait_all_tasks_blocked()
        assert not woken and len(notice) == 2
        notice.notify()
    assert sorted(woken) == ["a", "b"] and len(notice) == 0


async def test_what_outlives_a_request_does_not_keep_its_context() -> None:
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")
    seen: list[str] = []

    async def work() -> None:
        seen.append(request.get())

    async with trio.open_nursery() as nursery:
        request.set("a whole request")
        outlive(nursery, work, name="work")
    assert seen == ["none"]
