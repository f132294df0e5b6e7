"""What was really executed, and whether a verdict is true to it."""

from math import inf
from typing import TYPE_CHECKING, Any

import trio
from attrs import define

from schemas.link import Epoch
from schemas.records import RunRecord

if TYPE_CHECKING:
    from .oracle import Oracle

UNTOLD_S = 60.0  # for so long an end may be unknown to jobd although its agent is linked


@define(eq=False)
class Execution:
    """One time that an epoch's command ran."""

    epoch: Epoch
    record: RunRecord
    began: float
    outcome: str = ""  # while it runs
    ended: float = 0.0
    exit_code: int | None = None


def is_true(oracle: "Oracle", epoch: Epoch, record: RunRecord) -> bool:
    """Whether the verdict that was just committed is what happened, or what somebody wanted."""
    state: Any = record.state
    code, execution = state.cause.code, oracle.executions.get(epoch)
    exited = execution is not None and execution.outcome == "exited"
    if state.verdict == "completed":
        return execution is not None and exited and execution.exit_code == 0
    if state.verdict == "canceled":
        return oracle.jobs[epoch.job] in oracle.cancels
    if code == "exit_code":
        return execution is not None and exited and bool(execution.exit_code)
    if code == "lost":
        return epoch in oracle.lost
    if code == "forgotten":
        return epoch in oracle.forgotten and record.user in oracle.forgets
    if code in ("run_timeout", "start_timeout"):
        # An end that could not be told yet was none for jobd; nor, while the agent is sick, was any.
        user, universe = oracle.users[record.user], oracle.universe
        well_since = inf if user in universe.sick else universe.healed.get(user, 0.0)
        known_from = max(execution.ended, well_since) + UNTOLD_S if execution is not None and exited else inf
        return trio.current_time() < known_from and (execution is not None or code == "start_timeout")
    if code == "heartbeat_timeout":
        return trio.current_time() - oracle.up_at > record.limits.heartbeat_s - 1.0
    return code in ("queue_timeout", "agent_start", "not_started")
