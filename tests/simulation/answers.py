"""What callers were told of jobs and runs: never more than is on disk, and never less than they were told before."""

from collections.abc import Iterable
from typing import Any

from attrs import define, field

from schemas.link import Epoch
from schemas.records import Ended, RunRecord, SeriesRecord
from schemas.views import ExplainView, HistoryView, JobsView, RunView, SeriesView, UserUsageView

from .oracle import Oracle, rank_of
from .universe import Universe

RANKS = {"missing": 0, "pending": 1, "running": 3, "completed": 4, "failed": 4, "canceled": 4}
STATE_OF_RANK = {1: 0, 3: 2, 4: 3}  # how far the state on disk must have come at least

Key = tuple[str, str]  # the names of user and job


@define
class Seen:
    """What was answered about one serial."""

    rank: int
    state: str
    cause: Any
    confirmed: bool


@define
class Glance:
    """What was known of a job to callers when one of them asked."""

    seen: dict[int, Seen]
    gone: int  # runs up to this serial were said to be deleted

    @property
    def newest(self) -> int:
        """The newest serial that was known."""
        return max([self.gone, *self.seen])


@define(eq=False)
class Answers:
    """See the module."""

    universe: Universe
    oracle: Oracle
    accepted: dict[tuple[str, str, int], str] = field(factory=dict)  # input hashes of what was answered 202
    seen: dict[Key, dict[int, Seen]] = field(factory=dict)
    gone: dict[Key, int] = field(factory=dict)
    used: dict[str, tuple[int, float, float]] = field(factory=dict)  # by user: runs, core_s and cpu_s as last told

    def glance(self, user: str, job: str) -> Glance:
        """What is known to callers now."""
        return Glance(dict(self.seen.get((user, job), {})), self.gone.get((user, job), 0))

    def _purged(self, key: Key) -> int:
        return self.oracle.purged.get(self.oracle.ids.get(key, ""), 0)

    def _check(self, holds: bool, key: Key, serial: int | None, text: str) -> None:
        self.universe.check(holds, lambda: f"{'/'.join(key)} {serial}: {text}")

    # --- one run ----------------------------------------------------------------------------------------------------

    def answered(self, view: RunView, glance: Glance, *, newest: bool) -> None:
        """A caller was told this, and knew `glance` when it asked."""
        key = view.user, view.job
        if view.serial is None:
            good = glance.newest <= self._purged(key)
            self._check(good, key, None, f"C1: {view.state}, and was known: {glance}")
            return
        record = self._told(key, view.serial, view.state, glance)
        if record is None:
            return
        kept = {stage.number for stage in record.timeline}
        self._check(
            {stage.number for stage in view.timeline} <= kept, key, view.serial, "C3: told stages are not on disk"
        )
        state: Any = record.state
        if RANKS[view.state] == 4:
            assert view.cause is not None, "a terminal state has a cause"
            same = (view.state, view.cause.code) == (state.verdict, state.cause.code)
            self._check(same, key, view.serial, f"{view.state} {view.cause} was told, on disk: {state}")
        confirmed = bool(view.end_confirmed)
        self._check(not confirmed or isinstance(state, Ended), key, view.serial, f"C4: confirmed, on disk: {state}")
        if newest:
            self._check(view.serial >= glance.newest, key, view.serial, f"C1: the newest, and {glance} was known")
        if before := glance.seen.get(view.serial):
            self._check(confirmed >= before.confirmed, key, view.serial, f"C4: and {before} was confirmed")
        now = Seen(RANKS[view.state], view.state, view.cause, confirmed)
        last = self.seen.setdefault(key, {}).get(view.serial)
        if last is None or (now.rank, now.confirmed) > (last.rank, last.confirmed):
            self.seen[key][view.serial] = now

    def _told(self, key: Key, serial: int, state: str, glance: Glance) -> RunRecord | None:
        """Whatever says the state of a run: it is on disk, not deleted, and not less than was said before."""
        record = self.oracle.runs.get(Epoch(self.oracle.ids.get(key, "j" * 10), serial))
        if record is None:
            self._check(False, key, serial, f"C1: {state} was told, and it is not on disk")
            return None
        rank = RANKS[state]
        good = rank_of(record.state) >= STATE_OF_RANK[rank]
        self._check(good, key, serial, f"{state} was told, on disk: {record.state}")
        self._check(serial > glance.gone, key, serial, f"it was told, and {glance.gone} was deleted")
        if before := glance.seen.get(serial):
            self._check(rank >= before.rank, key, serial, f"C3: {state}, and {before} was told before")
        return record

    def accepted_run(self, view: RunView, glance: Glance) -> None:
        """A run was answered 202."""
        assert view.serial is not None and view.input_hash is not None, "an accepted run has both"
        key = view.user, view.job
        self._check(view.serial > glance.newest, key, view.serial, f"a serial was given twice: {glance}")
        self.accepted[view.user, view.job, view.serial] = view.input_hash

    def deleted(self, view: RunView, glance: Glance) -> None:
        """A delete was answered."""
        key = view.user, view.job
        self._check(view.state == "missing", key, view.serial, f"deleted, and told {view.state}")
        self._check(glance.newest <= self._purged(key), key, None, f"deleted, and purged only {self._purged(key)}")
        self.gone[key] = max(self.gone.get(key, 0), self._purged(key))

    def pushed(self, key: Key, number: int, last: int, event: dict[str, Any]) -> None:
        """A stage event was sent to a watcher that had seen `last`."""
        known = self.oracle.stages.get(self.oracle.ids.get(key, ""), {})
        good = number in known and (known[number][0], known[number][1].name) == (event["serial"], event["name"])
        self._check(good, key, event["serial"], f"C3: was pushed {number} {event}, on disk: {known.get(number)}")
        self._check(number > last, key, event["serial"], f"C3: was pushed {number} after {last}")

    # --- many runs --------------------------------------------------------------------------------------------------

    def listed(self, user: str, pages: Iterable[JobsView], glances: dict[str, Glance], state: str | None) -> None:
        """The pages of a whole list of a user's jobs, which began when these glances were taken."""
        names = []
        for page in pages:
            for view in page.jobs:
                names.append(view.job)
                self._check(view.user == user, (view.user, view.job), view.serial, f"C6: it was listed for {user}")
                self._check(
                    state in (None, view.state), (user, view.job), view.serial, f"{view.state} listed as {state}"
                )
                self.answered(view, glances.get(view.job, Glance({}, 0)), newest=True)
        self.universe.check(names == sorted(set(names)), lambda: f"{user}'s list is out of order: {names}")
        for job, glance in glances.items():
            listed = job in names or glance.newest <= self._purged((user, job)) or state is not None
            self._check(listed, (user, job), glance.newest, f"C1: not in the list {names}, and was known")

    def history(self, key: Key, pages: Iterable[HistoryView], glance: Glance) -> None:
        """The pages of a job's whole history."""
        serials = []
        for page in pages:
            for run in page.runs:
                serials.append(run.serial)
                record = self._told(key, run.serial, run.state, glance)
                same = record is None or (record.input_hash, len(record.inputs)) == (run.input_hash, len(run.inputs))
                self._check(same, key, run.serial, f"the history says {run}, on disk: {record}")
        ordered = serials == sorted(set(serials), reverse=True)
        self._check(ordered, key, None, f"the history is out of order: {serials}")
        missing = {serial for serial in glance.seen if serial > self._purged(key)} - set(serials)
        self._check(not missing, key, None, f"C1: {missing} were known, and are not in the history {serials}")

    def explained(self, key: Key, view: ExplainView, glance: Glance) -> None:
        """GET explain."""
        if view.serial is None:
            self._check(glance.newest <= self._purged(key), key, None, f"C1: no run, and was known: {glance}")
            return
        self._told(key, view.serial, view.state, glance)
        good = bool(view.why) and (view.cause is not None) == (RANKS[view.state] == 4)
        self._check(good, key, view.serial, f"explained by {view}")

    def series(self, key: Key, view: SeriesView, kept: SeriesRecord | None) -> None:
        """GET metrics, and what is on disk."""
        self._told(key, view.serial, "pending", Glance({}, 0))
        times = [row[0] or 0.0 for row in view.rows]
        good = times == sorted(times) and all(len(row) == 1 + len(view.names) for row in view.rows)
        self._check(good, key, view.serial, f"these are no series: {view}")
        record = self.oracle.runs.get(Epoch(self.oracle.ids[key], view.serial))
        if record is not None and isinstance(record.state, Ended) and kept is not None:
            self._check(view.rows == kept.rows, key, view.serial, f"the series {view}, on disk: {kept}")

    def usage(self, view: UserUsageView, ended: int, before: tuple[int, float, float]) -> None:
        """GET usage: asked when so many runs had ended and `before` was told; purged ones stay in the books."""
        now = view.runs, view.core_s, view.cpu_s
        self.universe.check(
            all(new >= old for new, old in zip(now, before, strict=True)),
            lambda: f"{view.user}'s usage went from {before} to {now}",
        )
        most = self.oracle.ended_of(view.user)
        self.universe.check(
            ended <= view.runs <= most, lambda: f"{view.user} has {ended} to {most} runs, the books say {view.runs}"
        )
        self.used[view.user] = max(now, self.used.get(view.user, (0, 0.0, 0.0)))

    def check_end(self) -> None:
        """When all is over."""
        for (user, job, serial), digest in self.accepted.items():
            record = self.oracle.runs.get(Epoch(self.oracle.ids[user, job], serial))
            good = record is not None and record.input_hash == digest and isinstance(record.state, Ended)
            self._check(good, (user, job), serial, f"C1: it was accepted, and is {record and record.state}")
