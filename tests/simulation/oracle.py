"""The contract, checked at every commit, every order, every execution and every answer.

What is known here is the truth: what the platter holds, and what was executed. Nothing of jobd's own memory is used.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import trio
from attrs import define, field

from jobd.config import Config
from schemas.link import Ack, Epoch, Order, Remove, Start, Stop, Welcome
from schemas.records import (
    AgentRecord,
    Ended,
    Ending,
    JobRecord,
    Pending,
    RemovalRecord,
    Running,
    RunRecord,
    Stage,
    Starting,
    UserRecord,
)
from schemas.views import RunView

from .universe import Universe

STATES = (Pending, Starting, Running, Ending, Ended)
RANKS = {"missing": 0, "pending": 1, "running": 3, "completed": 4, "failed": 4, "canceled": 4}
UNTOLD_S = 60.0  # for so long an end may be unknown to jobd although its agent is linked
LAST_STAGES = {"ended", "canceled", "failed", "lost"}


@define(eq=False)
class Execution:
    """One time that an epoch's command ran."""

    epoch: Epoch
    record: RunRecord
    began: float
    outcome: str = ""  # while it runs
    ended: float = 0.0
    exit_code: int | None = None


@define
class Seen:
    """What was answered about one serial."""

    rank: int
    state: str
    cause: Any
    confirmed: bool


@define(eq=False)
class Oracle:
    """See the module."""

    universe: Universe
    config: Config
    users: dict[str, str] = field(factory=dict)  # names by id
    jobs: dict[str, tuple[str, str]] = field(factory=dict)  # names of user and job, by id
    ids: dict[tuple[str, str], str] = field(factory=dict)  # and back
    runs: dict[Epoch, RunRecord] = field(factory=dict)  # committed
    facts: dict[str, int] = field(factory=dict)  # the newest committed fact of an agent
    stages: dict[str, dict[int, tuple[int, Stage]]] = field(factory=dict)  # by job id and number
    executions: dict[Epoch, Execution] = field(factory=dict)
    accepted: dict[tuple[str, str, int], str] = field(factory=dict)  # input hashes of what was answered 202
    seen: dict[tuple[str, str], dict[int, Seen]] = field(factory=dict)
    cancels: set[tuple[str, str]] = field(factory=set)  # jobs that someone ever wanted canceled or superseded
    lost: set[Epoch] = field(factory=set)  # executions that a fault ended
    purged: dict[str, int] = field(factory=dict)  # by job id: runs up to this serial were forgotten
    removals: dict[str, int] = field(factory=dict)  # the same, while the agent's word is missing
    directories: set[Epoch] = field(factory=set)  # the run directories that there are
    up_at: float = 0.0  # the newest start of jobd

    # --- commits ----------------------------------------------------------------------------------------------------

    def committed(self, record: Any) -> None:
        """Something is on disk."""
        if isinstance(record, RunRecord):
            self._committed_run(record)
        elif isinstance(record, JobRecord):
            self.jobs[record.id] = self.users[record.user], record.name
            self.ids[self.jobs[record.id]] = record.id
        elif isinstance(record, UserRecord):
            self.users[record.id] = record.name
        elif isinstance(record, AgentRecord):
            self.facts[record.id] = record.fact
        elif isinstance(record, RemovalRecord):
            self.removals[record.job] = record.serial

    def purged_runs(self, job: str, serial: int) -> None:
        """The job's runs up to this serial are forgotten on disk."""
        if serial <= self.purged.get(job, 0):
            return  # a batch that came again
        self.purged[job] = serial
        for epoch, run in self.runs.items():
            if epoch.job == job and epoch.serial <= serial:
                self._check(isinstance(run.state, Ended), epoch, lambda: "C1: purged before it was over")

    def deleted(self, kind: type, identity: str) -> None:
        """A record is forgotten on disk."""
        if kind is RemovalRecord:
            serial = self.removals.pop(identity, 0)
            left = [each for each in self.directories if each.job == identity and each.serial <= serial]
            self.universe.check(not left, lambda: f"C11: a removal was forgotten, and {left} are there")

    def _committed_run(self, record: RunRecord) -> None:
        epoch = Epoch(record.job, record.serial)
        old = self.runs.get(epoch)
        self.runs[epoch] = record
        state = record.state
        if old is None:
            newer = [each.serial for each in self.runs if each.job == record.job and each.serial > record.serial]
            self._check(not newer, epoch, lambda: f"accepted after {newer}")
        else:
            self._check(_rank(state) >= _rank(old.state), epoch, lambda: f"C3: went back from {old.state} to {state}")
            if isinstance(old.state, (Ending, Ended)):
                before, after = (old.state.verdict, old.state.cause), (state.verdict, state.cause)
                self._check(before == after, epoch, lambda: f"C3: the verdict changed from {before} to {after}")
        for stage in record.timeline:
            self._committed_stage(epoch, stage)
        last = [stage.name for stage in record.timeline if stage.name in LAST_STAGES]
        over = isinstance(state, (Ending, Ended))
        self._check(len(last) == over, epoch, lambda: f"C3: terminal stages {last} in {state}")
        if over and not (old and isinstance(old.state, (Ending, Ended))):
            self._new_verdict(epoch, record)
        if isinstance(state, Ended):
            execution = self.executions.get(epoch)
            self._check(
                execution is None or bool(execution.outcome), epoch, lambda: "C4: its end is committed, and it runs"
            )

    def _committed_stage(self, epoch: Epoch, stage: Stage) -> None:
        known = self.stages.setdefault(epoch.job, {})
        if stage.number in known:
            same = known[stage.number] == (epoch.serial, stage)
            self._check(same, epoch, lambda: f"C3: stage {stage} was {known[stage.number]}")
        else:
            known[stage.number] = epoch.serial, stage

    def _new_verdict(self, epoch: Epoch, record: RunRecord) -> None:
        state: Any = record.state
        execution = self.executions.get(epoch)
        code = state.cause.code
        self.universe.count(f"verdict {state.verdict}: {code}")
        self.universe.trace(f"verdict {epoch} {state.verdict} {code}")

        def truth() -> str:
            return f"C5: {state.verdict} ({code}), and the truth is {execution}"

        if state.verdict == "completed":
            self._check(
                execution is not None and execution.outcome == "exited" and not execution.exit_code, epoch, truth
            )
        elif state.verdict == "canceled":
            self._check(self.jobs[epoch.job] in self.cancels, epoch, lambda: "canceled, and nobody wanted that")
        elif code == "exit_code":
            self._check(
                execution is not None and execution.outcome == "exited" and bool(execution.exit_code), epoch, truth
            )
        elif code == "lost":
            self._check(epoch in self.lost, epoch, truth)
        elif code in ("run_timeout", "start_timeout"):
            # An end that could not be told yet is no limit that was passed.
            told = (
                execution is None or execution.outcome != "exited" or trio.current_time() - execution.ended < UNTOLD_S
            )
            self._check(told, epoch, truth)
            self._check(execution is not None or code == "start_timeout", epoch, truth)
        elif code == "heartbeat_timeout":
            since = trio.current_time() - self.up_at
            self._check(
                since > record.limits.heartbeat_s - 1.0, epoch, lambda: f"{truth()}, {since:.1f} s after a restart"
            )
        else:
            known = code in ("queue_timeout", "agent_start", "not_started")
            self._check(known, epoch, truth)

    # --- executions -------------------------------------------------------------------------------------------------

    def execution_began(self, epoch: Epoch, agent: str) -> Execution:
        """The command runs."""
        record = self.runs.get(epoch)
        assert record is not None, f"{epoch} was never committed, and runs"
        state = record.state
        self._check(epoch not in self.executions, epoch, lambda: "C2: executed twice")
        self._check(
            isinstance(state, (Starting, Ending)), epoch, lambda: f"C4: it begins, and its committed state is {state}"
        )
        self._check(getattr(state, "agent", agent) == agent, epoch, lambda: f"C2: executed by {agent}, not {state}")
        execution = self.executions[epoch] = Execution(epoch, record, trio.current_time())
        self.universe.trace(f"execution {epoch} began")
        self._check_limits(epoch, record)
        return execution

    def execution_ended(self, execution: Execution, outcome: str, exit_code: int | None) -> None:
        """No process of it is left."""
        execution.outcome, execution.exit_code, execution.ended = outcome, exit_code, trio.current_time()
        self.universe.trace(f"execution {execution.epoch} {outcome} {exit_code}")
        self.universe.count(f"execution {outcome}")

    def _check_limits(self, epoch: Epoch, record: RunRecord) -> None:
        alive = [each.record for each in self.executions.values() if not each.outcome]
        cores = sum(each.slots.cores for each in alive)
        memory = sum(each.slots.memory_bytes for each in alive)
        host = self.config.host
        self._check(
            cores <= host.cores and memory <= host.memory_bytes, epoch, lambda: f"C12: {cores} cores, {memory} bytes"
        )
        same = Counter((each.user, each.mode) for each in alive)[record.user, record.mode]
        most = getattr(self.config.tier("default"), record.mode)
        self._check(same <= most, epoch, lambda: f"C12: {same} {record.mode} runs of one user")
        of_job = sum(each.job == record.job for each in alive)
        self._check(of_job == 1, epoch, lambda: "two runs of its job are executed")

    # --- orders -----------------------------------------------------------------------------------------------------

    def order_left(self, agent: str, order: Order) -> None:
        """jobd has sent it."""
        if isinstance(order, Start):
            record = self.runs.get(order.epoch)
            good = record is not None and isinstance(record.state, (Starting, Ending)) and record.state.agent == agent
            self._check(
                good, order.epoch, lambda: f"C2: Start was sent to {agent}, committed is {record and record.state}"
            )
        elif isinstance(order, Stop):
            self._check_stop(order.epoch)
        elif isinstance(order, Remove):
            known = self.purged.get(order.epoch.job, 0)
            self._check(order.epoch.serial <= known, order.epoch, lambda: f"C1: to be removed, purged up to {known}")
        elif isinstance(order, Welcome):
            for epoch in order.stop:
                self._check_stop(epoch)
            self.universe.check(
                order.acked <= self.facts.get(agent, 0), lambda: f"{agent}: {order} acknowledges the uncommitted"
            )
        elif isinstance(order, Ack):
            self.universe.check(order.number <= self.facts.get(agent, 0), lambda: f"{agent}: {order} before the commit")

    def _check_stop(self, epoch: Epoch) -> None:
        record = self.runs.get(epoch)
        good = record is not None and isinstance(record.state, (Ending, Ended))
        self._check(good, epoch, lambda: f"C5: it is to be stopped, committed is {record and record.state}")

    # --- answers ----------------------------------------------------------------------------------------------------

    def glance(self, user: str, job: str) -> dict[int, Seen]:
        """What was known to the callers when they asked."""
        return dict(self.seen.get((user, job), {}))

    def answered(self, view: RunView, glance: dict[int, Seen], *, newest: bool) -> None:
        """A caller was told this, and knew `glance` when it asked."""
        key = view.user, view.job
        if view.serial is None:
            self.universe.check(not glance, lambda: f"C1: {key} is {view.state}, and was known: {glance}")
            return
        record = self.runs.get(Epoch(self.ids.get(key, "j" * 10), view.serial))
        what = f"{key} {view.serial} {view.state}"
        if record is None:
            self.universe.violate(f"C1: {what} was answered and is not on disk")
            return
        rank = RANKS[view.state]
        self.universe.check(
            _rank(record.state) >= {1: 0, 3: 2, 4: 3}[rank], lambda: f"{what} was answered, on disk: {record.state}"
        )
        kept = {stage.number for stage in record.timeline}
        self.universe.check(
            {stage.number for stage in view.timeline} <= kept, lambda: f"{what}: stages are not on disk"
        )
        if rank == 4:
            assert view.cause is not None, "a terminal state has a cause"
            verdict = record.state.verdict, record.state.cause.code
            self.universe.check(
                (view.state, view.cause.code) == verdict, lambda: f"{what} was answered, on disk: {verdict}"
            )
        if view.end_confirmed:
            self.universe.check(
                isinstance(record.state, Ended), lambda: f"C4: {what} confirmed, on disk: {record.state}"
            )
        if newest and glance:
            self.universe.check(view.serial >= max(glance), lambda: f"C1: {what}, and {max(glance)} was known")
        if before := glance.get(view.serial):
            self.universe.check(rank >= before.rank, lambda: f"C3: {what}, and {before} was answered before")
            self.universe.check(
                bool(view.end_confirmed) >= before.confirmed, lambda: f"C4: {what}, and {before} was confirmed"
            )
        now = Seen(rank, view.state, view.cause, bool(view.end_confirmed))
        last = self.seen.setdefault(key, {}).get(view.serial)
        if last is None or (now.rank, now.confirmed) > (last.rank, last.confirmed):
            self.seen[key][view.serial] = now

    def pushed(self, key: tuple[str, str], number: int, last: int, event: dict[str, Any]) -> None:
        """A stage event was sent to a watcher that had seen `last`."""
        known = self.stages.get(self.ids.get(key, ""), {})
        good = number in known and (known[number][0], known[number][1].name) == (event["serial"], event["name"])
        self.universe.check(good, lambda: f"C3: {key} was pushed {number} {event}, on disk: {known.get(number)}")
        self.universe.check(number > last, lambda: f"C3: {key} was pushed {number} after {last}")

    def accepted_run(self, view: RunView) -> None:
        """A run was answered 202."""
        assert view.serial is not None and view.input_hash is not None, "an accepted run has both"
        self.accepted[view.user, view.job, view.serial] = view.input_hash

    # --- at the end -------------------------------------------------------------------------------------------------

    @property
    def open(self) -> list[RunRecord]:
        """Committed runs whose end is not."""
        return [run for run in self.runs.values() if not isinstance(run.state, Ended)]

    def check_end(self) -> None:
        """When all is over."""
        for (user, job, serial), digest in self.accepted.items():
            record = self.runs.get(Epoch(self.ids[user, job], serial))
            good = record is not None and record.input_hash == digest and isinstance(record.state, Ended)
            self.universe.check(
                good, lambda: f"C1: {user} {job} {serial} was accepted, and is {record and record.state}"
            )
        for execution in self.executions.values():
            self.universe.check(bool(execution.outcome), lambda: f"C4: {execution.epoch} still runs")
        for job, stages in self.stages.items():
            missing = set(range(1, max(stages) + 1)) - set(stages)
            self.universe.check(not missing, lambda: f"C3: stages {missing} of {self.jobs[job]} were never committed")

    def _check(self, holds: bool, epoch: Epoch, text: Callable[[], str]) -> None:
        if not holds:
            self.universe.violate(f"{'/'.join(self.jobs.get(epoch.job, (epoch.job,)))} {epoch.serial}: {text()}")


def _rank(state: Any) -> int:
    return STATES.index(type(state))
