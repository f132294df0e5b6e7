"""The oracle can fail: each test here breaks jobd at one seam, and the simulation finds it within a few seeds.

These are the only tests that replace parts of jobd; they test the simulation, not jobd.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import trio

from jobd import dispatch, facts, states
from jobd.broker import Pool
from jobd.config import Tier
from jobd.core import Broker
from jobd.fleet import Fleet
from jobd.jobs import Jobs
from jobd.library import Library
from jobd.link import Link
from jobd.plans import jobs as job_plans
from jobd.runs import Held
from jobd.scopes import Scope
from jobd.store import Store
from jobd.tokens import Tokens
from schemas.link import Ended as EndedFact
from schemas.link import Epoch
from schemas.records import Ending, TokenRecord

from .simulate import simulate
from .universe import Violation

SEEDS_MAX = 600


def caught(first: int = 0) -> str:
    """The first violation within SEEDS_MAX seeds."""
    for seed in range(first, first + SEEDS_MAX):
        try:
            simulate(seed)
        except Violation as violation:
            return str(violation)
    pytest.fail(f"the oracle saw nothing in {SEEDS_MAX} seeds")


def many(seeds: Iterable[int]) -> None:
    for seed in seeds:
        simulate(seed)


def test_it_sees_a_canceled_run_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lowlevel:
        checkpoint = staticmethod(trio.lowlevel.checkpoint)
        checkpoint_if_cancelled = staticmethod(trio.lowlevel.cancel_shielded_checkpoint)

    class Trio:
        lowlevel = Lowlevel
        open_nursery = staticmethod(trio.open_nursery)

    monkeypatch.setattr(dispatch, "trio", Trio)
    assert "failed in jobd itself" in caught()


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
    with pytest.raises((Violation, ExceptionGroup)):  # jobd itself may notice first: two scopes have one name
        many(range(SEEDS_MAX))


def test_it_sees_a_restart_that_forgets_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    restore: Callable[..., list[Any]] = Jobs.restore
    monkeypatch.setattr(Jobs, "restore", lambda jobs, memory: restore(jobs, memory)[1:])
    assert caught()


def test_it_sees_a_user_who_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def settle(pool: Pool) -> None:  # whoever has many waits in front
        while pool._queues:
            user, queue = max(pool._queues.items(), key=lambda each: len(each[1]))
            if not pool._has_room(queue[0].amount):
                return
            ticket = queue.popleft()
            pool.waiting -= 1
            if not queue:
                del pool._queues[user]
            pool._grant(ticket)

    monkeypatch.setattr(Pool, "_settle", settle)
    assert "C9" in caught()


def test_it_sees_a_request_that_is_counted_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sticky(Counter[str]):
        def __delitem__(self, _key: str) -> None:
            return

    monkeypatch.setattr("jobd.core.Counter", Sticky)
    assert "asking" in caught()


def test_it_sees_an_agent_that_is_tended_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fleet, "is_needed", lambda *_: True)
    assert "C11: left" in caught()


def test_it_sees_a_revoked_token_that_comes_back_after_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(tokens: Tokens, record: TokenRecord) -> None:
        del tokens._by_digest[record.sha256]

    monkeypatch.setattr(Tokens, "_forget", forget)
    assert "a dead token opens" in caught()


def test_it_sees_a_library_file_that_was_only_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    put = Library.put

    def forgetful(library: Library, *what: Any) -> Any:
        store, library._store = library._store, Nowhere()  # type: ignore[assignment]
        try:
            return put(library, *what)
        finally:
            library._store = store

    class Nowhere:
        def put(self, *_writes: Any) -> int:
            return 0

    monkeypatch.setattr(Library, "put", forgetful)
    assert "can only be" in caught()


def test_it_sees_books_that_forget_what_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Jobs, "_account", lambda *_: None)
    assert "the books say" in caught()


def test_it_sees_a_removal_of_what_is_not_purged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_plans, "Epoch", lambda job, serial: Epoch(job, serial + 1))
    assert "to be removed" in caught()


def test_it_sees_a_removal_that_nobody_confirms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fleet, "has_work", lambda fleet, agent: bool(fleet.jobs.runs_on(agent.record.id)))
    monkeypatch.setattr(Jobs, "removed", lambda *_: None)
    assert "removal of" in caught()


def test_it_sees_deleted_runs_in_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    purge = Jobs.purge

    def kept(jobs: Jobs, job: Any) -> int:
        put = jobs._store.put
        jobs._store.put = lambda *writes: put(*writes[:-1])  # type: ignore[method-assign]
        try:
            return purge(jobs, job)
        finally:
            jobs._store.put = put  # type: ignore[method-assign]

    monkeypatch.setattr(Jobs, "purge", kept)
    assert caught()


def test_it_sees_a_tier_that_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    user_runs, large = Broker.user_runs, Tier(sequential=99, parallel=99)
    monkeypatch.setattr(Broker, "user_runs", lambda broker, user, mode, *_: user_runs(broker, user, mode, large))
    monkeypatch.setattr(Broker, "retier", lambda *_: None)
    assert "C12" in caught()
