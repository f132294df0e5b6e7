"""The laws of every plan: nothing before the last need, and a cancel at any moment leaves all or nothing."""

from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from attrs import define, field, frozen

from jobd import plans, states
from jobd.causes import cause
from jobd.dispatch import Awaited, Held, Request, Requirement, Situation, dispatch
from jobd.errors import JobdError
from jobd.scopes import Scope
from jobd.store import Selection

from .bench import Bench
from .small_world import CASES, SETTLED_S, Case, assert_nothing_is_held, build, effects, small_world

T = TypeVar("T")

STEPS_MAX = 200


async def built_in(directory: Path) -> Path:
    """The small world's store."""
    await build(directory / "store.sqlite")
    return directory / "store.sqlite"


async def asked(built: Bench, case: Case, request: Request | None = None) -> Any:
    """Serve the case's request; what it says if it is refused."""
    try:
        if request is None and not case.of_run:
            return await built.core.ask(case.plan(built.core), "user", "job", case.name, 60.0)
        request = request or Request(built.core.root.open("request", case.name), Held())
        with request.held, request.scope:
            return await dispatch(case.plan(built.core), request)
    except JobdError as error:
        return error


async def plain_effects(store: Path, case: Case) -> dict[str, Any]:
    async with small_world(store, store.with_name("plain")) as built:
        answer = await asked(built, case)
        assert not isinstance(answer, JobdError)
        await trio.sleep(SETTLED_S)
        assert_nothing_is_held(built)
        return effects(built)


# --- chaos ----------------------------------------------------------------------------------------------------------


@frozen
class Late:
    """A requirement that is there, but not at once."""

    inner: Requirement[Any]

    def ready(self) -> Any:
        return self.inner.ready()

    async def wait(self) -> None:
        await trio.sleep(0.01)

    @property
    def situation(self) -> Situation:
        return self.inner.situation


class ChaosRequest(Request):
    """Each of its needs is missing once, though it is there."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self.missed = 0
        self._attempt = -1

    def need(self, requirement: Requirement[T]) -> T:
        if self._attempt != self.restarts:
            self._attempt, self._needs = self.restarts, 0
        value = super().need(requirement)
        self._needs += 1
        if self._needs > self.missed:
            self.missed += 1
            raise Awaited(Late(requirement))
        return value


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_nothing_is_changed_before_the_last_need(
    case: Case, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    store = await built_in(tmp_path)
    plainly = await plain_effects(store, case)
    async with small_world(store, store.with_name("chaos")) as built:
        request = ChaosRequest(built.core.root.open("request", case.name))
        answer = await asked(built, case, request)
        assert not isinstance(answer, JobdError)
        await trio.sleep(SETTLED_S)
        assert effects(built) == plainly
        assert request.missed or case.name in WITHOUT_NEEDS
        assert_nothing_is_held(built)


WITHOUT_NEEDS = {"listing", "listing of all", "mint", "tokens", "revoke", "stop agent", "forget agent"}


# --- cancel ---------------------------------------------------------------------------------------------------------


@define(eq=False)
class Axe(trio.abc.Instrument):
    """Cancels at a task's step: just after it has gone to sleep, or when it was woken and is about to go on."""

    scope: trio.CancelScope
    step: int
    when: str
    task: trio.lowlevel.Task = field(factory=trio.lowlevel.current_task)
    steps: int = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task and self.when == "when it is woken":
            self._count()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task and self.when == "while it sleeps":
            self._count()

    def _count(self) -> None:
        self.steps += 1
        if self.steps == self.step:
            self.scope.cancel()


async def cut_off(built: Bench, case: Case, step: int, when: str) -> bool:
    """Ask, and hang up at this step, or with 0 before the first; whether there was such a step."""
    with trio.CancelScope() as connection:
        axe = Axe(connection, step, when)
        if step == 0:
            connection.cancel()
        trio.lowlevel.add_instrument(axe)
        try:
            await asked(built, case)
        finally:
            trio.lowlevel.remove_instrument(axe)
    return axe.steps >= step


@pytest.mark.parametrize("when", ["while it sleeps", "when it is woken"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_cancel_at_any_checkpoint_leaves_all_or_nothing(
    case: Case, when: str, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    store = await built_in(tmp_path)
    done = await plain_effects(store, case)
    async with small_world(store, store.with_name("before")) as built:
        await trio.sleep(SETTLED_S)
        before = effects(built)
    for step in range(STEPS_MAX):
        async with small_world(store, store.with_name("cut")) as built:
            if not await cut_off(built, case, step, when):
                break
            await trio.sleep(SETTLED_S)
            now = effects(built)
            assert now == before or (step > 0 and now == done), f"half of it, cut off at step {step}"
            assert_nothing_is_held(built)
    assert 1 < step < STEPS_MAX


# --- lists ----------------------------------------------------------------------------------------------------------


async def test_a_list_shows_runs_as_they_are_and_no_sooner_than_the_disk(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    store = await built_in(tmp_path)
    async with small_world(store, store.with_name("list")) as built:
        core, read = built.core, built.core.store.disk.jobs
        (busy,) = [run for run in core.jobs.open_runs() if run.agent is not None]

        class Disk(type(core.store.disk)):  # type: ignore[misc]
            def jobs(self, selection: Selection) -> Any:
                found = read(selection)
                core.jobs.advance(busy, states.Canceled(cause("user")))  # while the list is on its way
                return found

        core.store.disk.__class__ = Disk
        page = await core.ask(plans.listing(core, "user", Selection(limit=9, state="running")), "user", "", "list", 9.0)
        assert core.store.committed >= busy.job.sequence
        assert not page.jobs
