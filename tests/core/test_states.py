"""The state table, whole: every state and every event."""

import itertools
import re
import typing
from typing import Any

import pytest

from jobd import states
from jobd.causes import CAUSES, cause
from jobd.states import (
    TRANSITIONS,
    Admitted,
    Canceled,
    Expired,
    Finished,
    Forgotten,
    Missed,
    Ordered,
    Proved,
    Reported,
    Started,
    advance,
)
from schemas.link import Ended as EndedFact
from schemas.link import Epoch, RunLimits
from schemas.records import (
    Ended,
    Ending,
    Execution,
    Instant,
    Limits,
    Pending,
    Running,
    RunRecord,
    Slots,
    Stage,
    Starting,
)

NOW = Instant(100.0, 10.0, "boot")
LATER = Instant(200.0, 20.0, "boot")
EPOCH = Epoch("jaaaaaaaaa", 1)

STATES: list[Any] = [
    Pending(NOW),
    Starting(NOW, "agent"),
    Running(NOW, "agent"),
    Ending(NOW, "agent", "canceled", cause("user")),
    Ending(NOW, "agent", "failed", cause("run_timeout")),
    Ended(NOW, "completed", cause("completed")),
    Ended(NOW, "failed", cause("lost")),
    Ended(NOW, "canceled", cause("user")),
]
FACTS = [
    EndedFact(1, EPOCH, "exited", 0.0, exit_code=0),
    EndedFact(1, EPOCH, "exited", 0.0, exit_code=3),
    EndedFact(1, EPOCH, "exited", 0.0, signal=9),
    EndedFact(1, EPOCH, "exited", 0.0, signal=9999),
    EndedFact(1, EPOCH, "exited", 0.0),
    *(EndedFact(1, EPOCH, each, 0.0) for each in ("stopped", "wall_time", "log_limit", "not_started", "lost")),
]
EVENTS: list[Any] = [
    Admitted(),
    Ordered("agent"),
    Started(),
    *map(Finished, FACTS),
    *map(Reported, FACTS),
    Proved(cause("agent_lost")),
    Canceled(cause("user")),
    Expired(cause("run_timeout")),
    Missed(),
    Forgotten(cause("forgotten")),
]

# What cannot happen, and why. Everything else is a row.
IMPOSSIBLE = {
    **{
        (Pending, event): "facts about a run without an agent are dropped before the table"
        for event in (Started, Finished, Reported, Proved, Missed)
    },
    (Pending, Forgotten): "a run without an agent is on none that could be forgotten",
    **{
        (state, event): "the run's own task makes this event, once, and only while the run is pending"
        for state in (Starting, Running, Ending, Ended)
        for event in (Admitted, Ordered)
    },
}  # fmt: skip

# Rows in which two things cross: each says why it is there.
RACES = {
    (Starting, Finished), (Starting, Reported), (Starting, Proved), (Starting, Missed), (Running, Started),
    *((state, event) for state in (Ending, Ended) for event in (Started, Reported, Canceled, Expired)),
    (Ended, Finished), (Ended, Proved), (Ended, Missed), (Ending, Missed), (Ended, Forgotten), (Ending, Forgotten),
}  # fmt: skip


def record(state: Any) -> RunRecord:
    limits = RunLimits(1.0, 1.0, 1, 1, 1, 1)
    return RunRecord(
        "u", "j", 1, 1, "code", "1", "sequential", "hash", (), Slots(1, 1), Limits(),
        Execution((), {}, limits, None, 1.0), state, (Stage(1, NOW, "pending", "accepted"),),
    )  # fmt: skip


KINDS = (
    (Pending, Starting, Running, Ending, Ended),
    typing.get_args(states.Event),
)


def test_every_pair_is_a_row_or_impossible_for_a_stated_reason() -> None:
    for pair in itertools.product(*KINDS):
        assert (pair in TRANSITIONS) != (pair in IMPOSSIBLE), pair
    assert set(TRANSITIONS) | set(IMPOSSIBLE) == set(itertools.product(*KINDS))


def test_every_race_has_a_reason() -> None:
    for pair in RACES:
        assert TRANSITIONS[pair].reason, pair


@pytest.mark.parametrize("event", EVENTS, ids=repr)
@pytest.mark.parametrize("state", STATES, ids=repr)
def test_what_a_move_may_do(state: Any, event: Any) -> None:
    before = record(state)
    if (type(state), type(event)) in IMPOSSIBLE:
        with pytest.raises(KeyError):
            advance(before, event, LATER, 2)
        return
    after = advance(before, event, LATER, 2)
    if after is before:
        return
    assert after.timeline[:-1] == before.timeline
    stage = after.timeline[-1]
    assert (stage.number, stage.at, stage.state) == (2, LATER, states.api_state(after.state))
    order = [Pending, Starting, Running, Ending, Ended]
    assert order.index(type(after.state)) >= order.index(type(state)), "no run goes back"
    if isinstance(after.state, Ending | Ended):
        assert after.state.cause.code in CAUSES
        assert CAUSES[after.state.cause.code][0] == after.state.verdict
        assert stage.text or isinstance(event, Started)
    if isinstance(state, Ending):
        assert (after.state.verdict, after.state.cause) == (state.verdict, state.cause), "the first verdict stands"
    if not isinstance(state, Pending) and not isinstance(after.state, Ended):
        assert after.state.agent == state.agent


@pytest.mark.parametrize("event", EVENTS, ids=repr)
@pytest.mark.parametrize("state", [state for state in STATES if isinstance(state, Ended)], ids=repr)
def test_a_terminal_state_never_changes(state: Any, event: Any) -> None:
    if (Ended, type(event)) not in IMPOSSIBLE:
        before = record(state)
        assert advance(before, event, LATER, 2) is before


@pytest.mark.parametrize("state", [Starting(NOW, "agent"), Running(NOW, "agent")], ids=repr)
@pytest.mark.parametrize("event", [Canceled(cause("user")), Expired(cause("run_timeout"))], ids=repr)
def test_a_run_that_may_be_executed_has_ended_only_when_that_is_proved(state: Any, event: Any) -> None:
    after = advance(record(state), event, LATER, 2)
    assert isinstance(after.state, Ending)
    assert not states.is_active(after.state)
    for proof in (Finished(FACTS[0]), Proved(cause("agent_lost"))):
        proved = advance(after, proof, LATER, 3)
        assert proved.state == Ended(LATER, after.state.verdict, after.state.cause)
        assert [stage.number for stage in proved.timeline] == [1, 2, 3]


@pytest.mark.parametrize("state", [Starting(NOW, "agent"), Running(NOW, "agent")], ids=repr)
@pytest.mark.parametrize("fact", FACTS, ids=repr)
def test_where_the_agents_word_is_no_proof_its_run_has_a_verdict_and_not_ended(state: Any, fact: EndedFact) -> None:
    after = advance(record(state), Reported(fact), LATER, 2)
    verdict, why = states.verdict_of(fact)
    assert after.state == Ending(LATER, "agent", verdict, why)
    assert advance(after, Proved(cause("agent_lost")), LATER, 3).state == Ended(LATER, verdict, why)


def test_a_run_in_the_queue_ends_at_once() -> None:
    after = advance(record(Pending(NOW)), Canceled(cause("user")), LATER, 2)
    assert after.state == Ended(LATER, "canceled", cause("user"))


def test_a_late_end_is_kept_in_usage_and_timeline_only() -> None:
    ending = Ending(NOW, "agent", "canceled", cause("user"))
    fact = EndedFact(1, EPOCH, "exited", 0.0, exit_code=0, wall_s=5.0, log_tail="the end")
    after = advance(record(ending), Finished(fact), LATER, 2)
    assert after.state.verdict == "canceled" and after.usage.wall_s == 5.0 and after.log_tail == "the end"
    assert after.timeline[-1].text == CAUSES["completed"][1]


def test_the_timeline_is_bounded_and_keeps_the_newest() -> None:
    run = record(Pending(NOW))
    for number in range(2, 200):
        run = advance(run, Admitted(), LATER, number)
    assert len(run.timeline) == states.TIMELINE_STAGES_MAX
    assert run.timeline[-1].number == 199


@pytest.mark.parametrize("fact", FACTS, ids=repr)
def test_every_end_has_a_verdict_and_a_sentence(fact: EndedFact) -> None:
    verdict, why = states.verdict_of(fact)
    assert verdict == CAUSES[why.code][0]
    assert re.fullmatch(r"[A-Z].*[.]", why.text)
    assert (verdict == "completed") == (fact.outcome == "exited" and fact.exit_code == 0 and fact.signal is None)
