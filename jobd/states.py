"""The life of a run as one table: every state, every event, every move, and the reason for each race.

States (schemas/records.py) hold exactly what exists in them; events are facts in the past tense about one epoch. There
is one way to change a run: `advance`. What the table does not list is our own bug; races are rows with a reason.
*First means first committed by jobd*: a cancel commits its verdict before the end is proved (Ending), and a `finished`
that comes later is kept in the timeline only. The diagram in docs/states.md is generated from this table.
"""

import signal
from collections.abc import Callable
from typing import Any

import attrs
from attrs import frozen

from jobd.causes import CAUSES, cause
from schemas.link import Ended as EndedFact
from schemas.records import (
    TIMELINE_STAGES_MAX,
    Cause,
    Ended,
    Ending,
    Instant,
    Pending,
    Running,
    RunRecord,
    Stage,
    Starting,
    State,
    Usage,
    Verdict,
)
from schemas.views import State as ApiState

# --- events ---------------------------------------------------------------------------------------------------------


@frozen
class Admitted:
    """All its slots were granted, at this place."""

    place: str = "local"


@frozen
class Ordered:
    """Its start order was committed for this agent."""

    agent: str
    image_digest: str = ""


@frozen
class Started:
    """The agent said that the command runs."""


@frozen
class Finished:
    """The agent said how it ended, and that no process of it exists."""

    fact: EndedFact


@frozen
class Reported:
    """The agent said how it ended, where the agent's word is no proof that no process of it exists."""

    fact: EndedFact


@frozen
class Proved:
    """Its host has proved that no process of it exists; `cause` is why, for a run that was not to end yet."""

    cause: Cause


@frozen
class Canceled:
    """A user, an operator or a superseding run ended it."""

    cause: Cause


@frozen
class Expired:
    """One of its time limits passed, or it could not be started."""

    cause: Cause


@frozen
class Missed:
    """Its agent, or a successor at the same place, came back and knows nothing of it."""


@frozen
class Forgotten:
    """An operator declared its agent gone for good: nobody will ever prove its end."""

    cause: Cause


Event = Admitted | Ordered | Started | Finished | Reported | Proved | Canceled | Expired | Missed | Forgotten
Move = Callable[[Any, Any, Instant], State]


# --- moves ----------------------------------------------------------------------------------------------------------


def _stay(state: State, _event: Event, _now: Instant) -> State:
    return state


def _order(_state: State, event: Ordered, now: Instant) -> State:
    return Starting(now, event.agent)


def _start(state: Starting, _event: Started, now: Instant) -> State:
    return Running(now, state.agent)


def _finish(_state: State, event: Finished, now: Instant) -> State:
    verdict, cause = verdict_of(event.fact)
    return Ended(now, verdict, cause)


def _report(state: Starting | Running, event: Reported, now: Instant) -> State:
    verdict, cause = verdict_of(event.fact)
    return Ending(now, state.agent, verdict, cause)


def _end_at_once(_state: State, event: Canceled | Expired | Forgotten | Proved, now: Instant) -> State:
    return Ended(now, _verdict(event), event.cause)


def _end_unproved(state: Starting | Running, event: Canceled | Expired, now: Instant) -> State:
    return Ending(now, state.agent, _verdict(event), event.cause)


def _confirm(state: Ending, _event: Event, now: Instant) -> State:
    return Ended(now, state.verdict, state.cause)


def _lose(_state: State, _event: Missed, now: Instant) -> State:
    return Ended(now, "failed", cause("lost"))


def _verdict(event: Canceled | Expired | Forgotten | Proved) -> Verdict:
    return "canceled" if isinstance(event, Canceled) else "failed"


@frozen
class Row:
    """One move: what it does, the stage it leaves in the timeline ('' for none), and why, where it is a race."""

    move: Move
    stage: str
    reason: str = ""


TRANSITIONS: dict[tuple[type[Any], type[Any]], Row] = {
    (Pending, Admitted): Row(_stay, "admitted"),
    (Pending, Ordered): Row(_order, "ordered"),
    (Pending, Canceled): Row(_end_at_once, "canceled"),
    (Pending, Expired): Row(_end_at_once, "failed"),
    (Starting, Started): Row(_start, "started"),
    (Starting, Finished): Row(_finish, "ended", "it ended before it could run"),
    (Starting, Reported): Row(_report, "ended", "it ended before it could run"),
    (Starting, Proved): Row(
        _stay, "", "its agent died with the order; the next one is told again, or says what it did"
    ),
    (Starting, Canceled): Row(_end_unproved, "canceled"),
    (Starting, Expired): Row(_end_unproved, "failed"),
    (Starting, Forgotten): Row(_end_at_once, "forgotten"),
    (Starting, Missed): Row(_stay, "", "the order was lost on its way and is sent again"),
    (Running, Started): Row(_stay, "", "an agent that resends its facts says it twice"),
    (Running, Finished): Row(_finish, "ended"),
    (Running, Reported): Row(_report, "ended"),
    (Running, Proved): Row(_end_at_once, "ended"),
    (Running, Canceled): Row(_end_unproved, "canceled"),
    (Running, Expired): Row(_end_unproved, "failed"),
    (Running, Forgotten): Row(_end_at_once, "forgotten"),
    (Running, Missed): Row(_lose, "lost"),
    (Ending, Started): Row(_stay, "late start", "the fact crossed the verdict"),
    (Ending, Finished): Row(_confirm, "end confirmed"),
    (Ending, Reported): Row(_stay, "end reported", "the agent's word; its host is asked for the proof"),
    (Ending, Proved): Row(_confirm, "end confirmed"),
    (Ending, Canceled): Row(_stay, "", "the first verdict stands"),
    (Ending, Expired): Row(_stay, "", "the first verdict stands"),
    (Ending, Forgotten): Row(_confirm, "forgotten", "an operator's word instead of a proof frees its slots"),
    (Ending, Missed): Row(_confirm, "end confirmed", "the agent's place holds nothing of it"),
    (Ended, Started): Row(_stay, "", "a resent fact of a run that is over"),
    (Ended, Finished): Row(_stay, "", "a resent fact of a run that is over"),
    (Ended, Reported): Row(_stay, "", "a resent fact of a run that is over"),
    (Ended, Proved): Row(_stay, "", "nothing was left to prove"),
    (Ended, Canceled): Row(_stay, "", "a terminal state never changes"),
    (Ended, Expired): Row(_stay, "", "the limit passed while the end was committed"),
    (Ended, Forgotten): Row(_stay, "", "nothing was left to forget"),
    (Ended, Missed): Row(_stay, "", "nothing was expected there"),
}


def advance(record: RunRecord, event: Event, now: Instant, number: int) -> RunRecord:
    """The record after the event; the very same object when the event changes nothing.

    `number` is what the next stage of the job's timeline is to be called; it is used up exactly when the timeline has
    grown.
    """
    row = TRANSITIONS[type(record.state), type(event)]
    state = row.move(record.state, event, now)
    if not row.stage:
        return record
    stage = Stage(number, now, api_state(state), row.stage, _words(event, state, row))
    return attrs.evolve(
        record,
        state=state,
        timeline=(*record.timeline, stage)[-TIMELINE_STAGES_MAX:],
        usage=_usage(event.fact) if isinstance(event, (Finished, Reported)) else record.usage,
        log_tail=event.fact.log_tail if isinstance(event, (Finished, Reported)) else record.log_tail,
        place=event.place if isinstance(event, Admitted) else record.place,
        image_digest=event.image_digest if isinstance(event, Ordered) else record.image_digest,
    )


def api_state(state: State) -> ApiState:
    """The state as the API calls it."""
    if isinstance(state, (Ending, Ended)):
        return state.verdict
    return "running" if isinstance(state, Running) else "pending"


def is_active(state: State) -> bool:
    """Whether the run still is the job's active run; an unproved end is not active, though it holds its slots."""
    return not isinstance(state, (Ending, Ended))


def _words(event: Event, state: State, row: Row) -> str:
    if isinstance(event, (Finished, Reported)):
        return _cause_of(event.fact).text
    if isinstance(event, Proved) and isinstance(state, Ended):
        return state.cause.text
    if isinstance(event, (Canceled, Expired, Forgotten)):
        return event.cause.text
    if isinstance(state, Ended):
        return state.cause.text if row.move is _lose else row.reason
    return row.reason


def _usage(fact: EndedFact) -> Usage:
    return Usage(fact.wall_s, fact.cpu_s, fact.peak_memory_bytes, fact.exit_code, fact.signal)


def verdict_of(fact: EndedFact) -> tuple[Verdict, Cause]:
    """What an agent's `ended` means for a run that jobd had not ended itself."""
    found = _cause_of(fact)
    return CAUSES[found.code][0], found


def _cause_of(fact: EndedFact) -> Cause:
    if fact.outcome != "exited":
        code = {"wall_time": "run_timeout"}.get(fact.outcome, fact.outcome)
        said = f"{CAUSES[code][1].removesuffix('.')} ({fact.text})." if fact.text else ""
        return cause(code, said, "agent")
    # What else went wrong, such as processes that were killed for lack of memory, may be why it ended so.
    remark = f" ({fact.remark})" if fact.remark else ""
    if fact.signal is not None:
        return cause("signal", f"The code was ended by signal {fact.signal} ({_signal_name(fact.signal)}){remark}.")
    if fact.exit_code == 0:
        return cause("completed", f"{CAUSES['completed'][1].removesuffix('.')}{remark}.")
    return cause("exit_code", f"The code ended with exit code {fact.exit_code}{remark}.")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
