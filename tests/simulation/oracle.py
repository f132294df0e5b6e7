"""The contract, checked at every commit, every order, every execution and every answer.

What is known here is the truth: what the platter holds, and what was executed. Nothing of jobd's own memory is used.
"""

from collections import defaultdict
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

from .register import Register
from .truth import Execution, is_true
from .universe import BOOT_S, Universe

STATES = (Pending, Starting, Running, Ending, Ended)
LAST_STAGES = {"ended", "canceled", "failed", "lost"}


@define(eq=False)
class Oracle:
    """See the module."""

    universe: Universe
    config: Config
    users: dict[str, str] = field(factory=dict)  # names by id
    jobs: dict[str, tuple[str, str]] = field(factory=dict)  # names of user and job, by id
    ids: dict[tuple[str, str], str] = field(factory=dict)  # and back
    runs: dict[Epoch, RunRecord] = field(factory=dict)  # committed
    agents: dict[str, str] = field(factory=dict)  # their users' ids, by id
    facts: dict[str, int] = field(factory=dict)  # the newest committed fact of an agent
    stages: dict[str, dict[int, tuple[int, Stage]]] = field(factory=dict)  # by job id and number
    executions: dict[Epoch, Execution] = field(factory=dict)
    cancels: set[tuple[str, str]] = field(factory=set)  # jobs that someone ever wanted canceled or superseded
    deletes: set[tuple[str, str]] = field(factory=set)  # jobs that someone ever wanted deleted
    forgets: set[str] = field(factory=set)  # users, by id, whose agent an operator ever wanted forgotten
    forgotten: set[Epoch] = field(factory=set)  # runs that an operator's word ended, whatever they still do
    tiers: dict[str, Register] = field(factory=lambda: defaultdict(lambda: Register("default")))  # by user
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
            self.agents[record.id] = record.user
        elif isinstance(record, RemovalRecord):
            self.removals[record.job] = record.serial

    def purged_runs(self, job: str, serial: int) -> None:
        """The job's runs up to this serial are forgotten on disk."""
        if serial <= self.purged.get(job, 0):
            return  # a batch that came again
        self.purged[job] = serial
        for epoch, run in self.runs.items():
            if epoch.job == job and epoch.serial <= serial:
                good = isinstance(run.state, Ended) and self.jobs[job] in self.deletes
                self._check(good, epoch, lambda: "C1: purged, and nobody wanted that, or it was not over")

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
            self._check(
                rank_of(state) >= rank_of(old.state), epoch, lambda: f"C3: went back from {old.state} to {state}"
            )
            fixed = (record.inputs, record.execution, record.slots) == (old.inputs, old.execution, old.slots)
            self._check(fixed, epoch, lambda: f"what was accepted has changed: {old}, {record}")
            if isinstance(old.state, (Ending, Ended)):
                before, after = (old.state.verdict, old.state.cause), (state.verdict, state.cause)
                self._check(before == after, epoch, lambda: f"C3: the verdict changed from {before} to {after}")
        for stage in record.timeline:
            self._committed_stage(epoch, stage)
        names = [stage.name for stage in record.timeline]
        last = [name for name in names if name in LAST_STAGES] or [name for name in names if name == "forgotten"]
        over = isinstance(state, (Ending, Ended))
        if "forgotten" in names:
            self.forgotten.add(epoch)
        self._check(len(last) == over, epoch, lambda: f"C3: terminal stages {last} in {state}")
        if over and not (old and isinstance(old.state, (Ending, Ended))):
            self._new_verdict(epoch, record)
        if isinstance(state, Ended):
            execution = self.executions.get(epoch)
            gone = execution is None or bool(execution.outcome) or epoch in self.forgotten
            self._check(gone, epoch, lambda: "C4: its end is committed, and it runs")

    def _committed_stage(self, epoch: Epoch, stage: Stage) -> None:
        known = self.stages.setdefault(epoch.job, {})
        if stage.number in known:
            same = known[stage.number] == (epoch.serial, stage)
            self._check(same, epoch, lambda: f"C3: stage {stage} was {known[stage.number]}")
        else:
            known[stage.number] = epoch.serial, stage

    def _new_verdict(self, epoch: Epoch, record: RunRecord) -> None:
        state: Any = record.state
        self.universe.count(f"verdict: {state.verdict}: {state.cause.code}")
        self.universe.trace(f"verdict {epoch} {state.verdict} {state.cause.code}")
        self._check(
            is_true(self, epoch, record),
            epoch,
            lambda: f"C5: {state.verdict} ({state.cause.code}), and the truth is {self.executions.get(epoch)}",
        )

    # --- executions -------------------------------------------------------------------------------------------------

    def execution_began(self, epoch: Epoch, agent: str) -> Execution:
        """The command runs."""
        record = self.runs.get(epoch)
        assert record is not None, f"{epoch} was never committed, and runs"
        state = record.state
        self._check(epoch not in self.executions, epoch, lambda: "C2: executed twice")
        wanted = isinstance(state, (Starting, Ending)) or epoch in self.forgotten
        self._check(wanted, epoch, lambda: f"C4: it begins, and its committed state is {state}")
        self._check(getattr(state, "agent", agent) == agent, epoch, lambda: f"C2: executed by {agent}, not {state}")
        execution = self.executions[epoch] = Execution(epoch, record, trio.current_time())
        self.universe.trace(f"execution {epoch} began")
        self._check_limits(epoch, record)
        return execution

    def execution_ended(self, execution: Execution, outcome: str, exit_code: int | None) -> None:
        """No process of it is left."""
        execution.outcome, execution.exit_code, execution.ended = outcome, exit_code, trio.current_time()
        self.universe.trace(f"execution {execution.epoch} {outcome} {exit_code}")
        self.universe.count(f"execution: {outcome}")

    def _check_limits(self, epoch: Epoch, record: RunRecord) -> None:
        if epoch in self.forgotten:
            return  # its slots were given back on an operator's word
        alive = [each.record for each in self.running if each.epoch not in self.forgotten]
        cores = sum(each.slots.cores for each in alive)
        memory = sum(each.slots.memory_bytes for each in alive)
        host = self.config.host
        self._check(
            cores <= host.cores and memory <= host.memory_bytes, epoch, lambda: f"C12: {cores} cores, {memory} bytes"
        )
        same = [each for each in alive if (each.user, each.mode) == (record.user, record.mode)]
        # Slots that were granted under a larger tier stay granted.
        since = min(each.timeline[0].at.boot_s for each in same) - BOOT_S
        tiers = self.tiers[self.users[record.user]].possible(since)
        most = max(getattr(self.config.tier(str(tier)), record.mode) for tier in tiers)
        self._check(len(same) <= most, epoch, lambda: f"C12: {len(same)} {record.mode} runs of one user, of {most}")
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
            same = record is not None and [each.sha256 for each in order.inputs] == [
                each.sha256 for each in record.inputs
            ]
            self._check(same, order.epoch, lambda: "C10: Start names other inputs than were accepted")
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

    # --- at the end -------------------------------------------------------------------------------------------------

    @property
    def open(self) -> list[RunRecord]:
        """Committed runs whose end is not."""
        return [run for run in self.runs.values() if not isinstance(run.state, Ended)]

    @property
    def running(self) -> list[Execution]:
        """Executions that go on."""
        return [each for each in self.executions.values() if not each.outcome]

    def ended_of(self, user: str) -> int:
        """How many of the user's runs are over, on disk."""
        return sum(self.users[run.user] == user for run in self.runs.values() if isinstance(run.state, Ended))

    def check_end(self) -> None:
        """When all is over."""
        for execution in self.executions.values():
            self.universe.check(bool(execution.outcome), lambda: f"C4: {execution.epoch} still runs")
        for job, stages in self.stages.items():
            missing = set(range(1, max(stages) + 1)) - set(stages)
            self.universe.check(not missing, lambda: f"C3: stages {missing} of {self.jobs[job]} were never committed")

    def _check(self, holds: bool, epoch: Epoch, text: Callable[[], str]) -> None:
        if not holds:
            self.universe.violate(f"{'/'.join(self.jobs.get(epoch.job, (epoch.job,)))} {epoch.serial}: {text()}")


def rank_of(state: Any) -> int:
    """How far a run has come."""
    return STATES.index(type(state))
