"""The oracle can fail: each test here breaks jobd at one seam, and the simulation finds it within a few seeds.

These are the only tests that replace parts of jobd; they test the simulation, not jobd.
"""

from collections.abc import Callable
from typing import Any

import pytest
import trio

from jobd import dispatch, facts, states
from jobd.broker import Pool
from jobd.jobs import Jobs
from jobd.link import Link
from jobd.runs import Held
from jobd.scopes import Scope
from jobd.store import Store
from schemas.link import Ended as EndedFact
from schemas.records import Ending

from .simulate import simulate
from .universe import Violation

SEEDS_MAX = 40


def caught(first: int = 0) -> str:
    """The first violation within SEEDS_MAX seeds."""
    for seed in range(first, first + SEEDS_MAX):
        try:
            simulate(seed)
        except Violation as violation:
            return str(violation)
    pytest.fail(f"the oracle saw nothing in {SEEDS_MAX} seeds")


def test_it_sees_a_canceled_run_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lowlevel:
        checkpoint = staticmethod(trio.lowlevel.checkpoint)
        checkpoint_if_cancelled = staticmethod(trio.lowlevel.cancel_shielded_checkpoint)

    class Trio:
        lowlevel = Lowlevel
        open_nursery = staticmethod(trio.open_nursery)

    monkeypatch.setattr(dispatch, "trio", Trio)
    assert "KeyError" in caught()


def test_it_sees_a_gate_that_is_always_open(monkeypatch: pytest.MonkeyPatch) -> None:
    async def durable(_store: Store, _sequence: int) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Store, "durable", durable)
    assert "not on disk" in caught() or "on disk:" in caught()


def test_it_sees_orders_that_leave_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Link, "_may_send", lambda link: bool(link._orders))
    assert any(word in caught() for word in ("committed is", "before the commit", "uncommitted"))


def test_it_sees_slots_that_are_granted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "_has_room", lambda _pool, _amount: True)
    assert "C12" in caught() or "two runs of its job" in caught()


def test_it_sees_slots_that_are_not_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Held, "__exit__", lambda *_: None)
    assert "C3: not over" in caught() or "C11" in caught()


def test_it_sees_a_late_end_that_overwrites_a_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    late = states.Row(states._finish, "ended")
    monkeypatch.setitem(states.TRANSITIONS, (Ending, states.Finished), late)
    assert "C3: the verdict changed" in caught()


def test_it_sees_an_end_that_is_confirmed_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "_end_unproved", states._end_at_once)
    for key, row in list(states.TRANSITIONS.items()):
        if row.stage in ("canceled", "failed"):
            monkeypatch.setitem(states.TRANSITIONS, key, states.Row(states._end_at_once, row.stage))
    assert "C4" in caught() or "C2" in caught()


def test_it_sees_a_fact_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    take = facts._take_durable

    def forgetful(core: Any, agent: Any, link: Link, fact: Any) -> None:
        if isinstance(fact, EndedFact) and fact.number % 7 == 0:
            link.post(facts.Ack(fact.number), core.store.sequence)
        else:
            take(core, agent, link, fact)

    monkeypatch.setattr(facts, "_take_durable", forgetful)
    caught()


def test_it_sees_a_shutdown_that_stops_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobd.runs.SHUTDOWN", None)
    assert "shutdown" in caught()


def test_it_sees_a_scope_that_stays_in_the_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scope, "leave", lambda _scope: None)
    assert caught()


def test_it_sees_a_restart_that_forgets_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    restore: Callable[..., list[Any]] = Jobs.restore
    monkeypatch.setattr(Jobs, "restore", lambda jobs, memory: restore(jobs, memory)[1:])
    assert caught()
