"""The registry of users, jobs and runs in memory: the one place where a run changes state.

`advance` is the whole way of a change: the state table, the store, those who watch. Everything active is here; a job
whose newest run is over stays as long as someone looks at it or the cache has room, and is read again from the store
when it is asked for (`Loaded`).
"""

import itertools
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

import attrs
from attrs import frozen

from jobd import states
from jobd.dispatch import Situation
from jobd.errors import StaleSerial
from jobd.job import Job, Run
from jobd.places import Place, parse
from jobd.series import Series
from jobd.store import Blob, Delete, Memory, Purge, Store
from jobd.world import World, elapsed_s
from schemas.link import Progress
from schemas.records import (
    Ended,
    JobRecord,
    Pending,
    RemovalRecord,
    Running,
    RunRecord,
    SeriesRecord,
    Stage,
    State,
    UserRecord,
)

PAST_RUNS_MAX = 8  # older runs kept in memory for each job


class Jobs:
    """Everything that is active, and a cache of what was asked for."""

    def __init__(self, store: Store, world: World, cached_max: int) -> None:
        self._store = store
        self._world = world
        self._cached_max = cached_max
        self.users: dict[str, UserRecord] = {}  # by name
        self._users_by_id: dict[str, UserRecord] = {}
        self._jobs: OrderedDict[tuple[str, str], Job] = OrderedDict()
        self._runs: dict[tuple[str, int], Run] = {}  # every run whose end is not proved
        self._by_agent: dict[str, dict[tuple[str, int], Run]] = {}  # the same, by the agent that has it
        self._by_user: dict[str, dict[tuple[str, int], Run]] = {}  # the same, by the user's id
        self._evictions = 0
        self.ended: Counter[tuple[str, str]] = Counter()  # runs since the start of jobd, by verdict and cause
        self._pending: Counter[str] = Counter()  # runs not ordered yet, by user id
        self.removals: dict[str, dict[str, RemovalRecord]] = {}  # by user id and job id
        self._order = 0
        self._series: dict[tuple[str, int], SeriesRecord] = {}  # of open runs, from before a restart
        # One count for all jobs, from the microsecond of the start: no ETag ever comes again, over restarts too.
        self._revisions = itertools.count(int(world.now().wall_s * 1e6))

    def restore(self, memory: Memory) -> list[Run]:
        """Take up what the store remembers; returns the open runs in the order of their acceptance."""
        self.users = {user.name: user for user in memory.users}
        users = self._users_by_id = {user.id: user for user in memory.users}
        jobs = {}
        for record in memory.jobs:
            user = users[record.user]
            # Not kept by _keep: none of them may be evicted before its open runs are here.
            job = jobs[record.id] = Job((user.name, record.name), user, record, self._revisions)
            self._jobs[job.key] = job
        self._order = memory.order
        for removal in memory.removals:
            self.removals.setdefault(removal.user, {})[removal.job] = removal
        self._series = {(series.job, series.serial): series for series in memory.series}
        restored = [self._restore(jobs[record.job], users[record.user], record) for record in memory.runs]
        return [run for run in restored if run.key in self._runs]

    # --- looking up -------------------------------------------------------------------------------------------------

    def kept(self) -> int:
        """How many jobs are in memory."""
        return len(self._jobs)

    def cached(self, user: str, name: str) -> Job | None:
        """The job if it is in memory, or if it cannot be anywhere else."""
        job = self._jobs.get((user, name))
        if job is None and user not in self.users:
            record = JobRecord(self._world.new_id("j"), "", name)
            return self._keep(Job((user, name), None, record, self._revisions))
        return job

    async def read(self, user: str, name: str) -> None:
        """Bring a job from the store into memory."""
        owner, evictions = self.users[user], self._evictions
        found = await self._world.hop(self._store.disk.job, owner.id, name)
        if (user, name) in self._jobs or evictions != self._evictions:
            return  # someone else was faster, and may have changed it since, even if it has left memory again
        record, run = found or (JobRecord(self._world.new_id("j"), owner.id, name), None)
        job = self._keep(Job((user, name), owner, record, self._revisions))
        if run is not None:
            job.run = Run(job, owner, run)

    async def read_past(self, job: Job, serial: int) -> None:
        """Bring an older run of the job from the store into memory; raises StaleSerial if it was purged."""
        await self._store.durable(job.sequence)  # its end may have been committed in memory only
        for record in await self._world.hop(self._store.disk.runs, job.record.id):
            if record.serial == serial and job.user is not None:
                job.past[serial] = Run(job, job.user, record)
                while len(job.past) > PAST_RUNS_MAX:
                    job.past.popitem(last=False)
                return
        raise StaleSerial(serial=serial)

    async def stages_after(self, job: Job, number: int) -> list[tuple[int, Stage]]:
        """The stages of the job's timeline beyond this number, with their serials, over all its kept runs."""
        if job.record.stage > number and (not job.stages or job.stages[0][1].number > number + 1):
            records = await self._world.hop(self._store.disk.runs, job.record.id)
            kept = {each.number: (run.serial, each) for run in records for each in run.timeline}
        else:
            kept = {}
        kept.update({each.number: (serial, each) for serial, each in job.stages})
        return [kept[key] for key in sorted(kept) if key > number]

    def seen(self, job: JobRecord, run: RunRecord) -> Run:
        """A run that the store has listed, as it is known now: an open one is in memory."""
        if (live := self._runs.get((run.job, run.serial))) is not None:
            return live
        user = self._users_by_id[job.user]
        return Run(Job((user.name, job.name), user, job, self._revisions), user, run)

    def run_of(self, job: str, serial: int) -> Run | None:
        """An open run by its epoch."""
        return self._runs.get((job, serial))

    def runs_on(self, agent: str) -> Iterable[Run]:
        """The open runs that this agent has or may have."""
        return list(self._by_agent.get(agent, {}).values())

    def runs_of(self, user: str) -> Iterable[Run]:
        """The open runs of this user, by its id."""
        return list(self._by_user.get(user, {}).values())

    def open_runs(self) -> list[Run]:
        """Every open run, of all users."""
        return list(self._runs.values())

    def pending_of(self, user: UserRecord) -> int:
        """How many of the user's runs have not been ordered yet."""
        return self._pending[user.id]

    # --- changing ---------------------------------------------------------------------------------------------------

    def accept(self, job: Job, record: RunRecord, blobs: Sequence[Blob]) -> Run:
        """A new run: gives it serial, order and owner, and puts all of it into the store as one step."""
        user = job.user = self.owner(job.key[0])
        self._order += 1
        number = job.record.stage + 1
        serial = job.record.serial + 1
        stage = Stage(number, self._world.now(), "pending", "accepted")
        record = attrs.evolve(
            record, user=user.id, job=job.record.id, serial=serial, order=self._order, timeline=(stage,)
        )
        job.record = attrs.evolve(job.record, user=user.id, serial=serial, stage=number)
        job.sequence = self._store.put(job.record, *blobs, record)
        run = self._open(job, user, record)
        job.stages.append((serial, stage))
        job.touch()
        return run

    def advance(self, run: Run, event: states.Event) -> int:
        """Move the run on; returns the store sequence that everything said about it now depends on."""
        job = run.job
        record = states.advance(run.record, event, self._world.now(), job.record.stage + 1)
        if record is not run.record:
            was = run.record
            run.record = record
            job.record = attrs.evolve(job.record, stage=record.timeline[-1].number)
            if isinstance(event, states.Ordered):
                _note_place(job, parse(record.place).for_questions)
            job.stages.append((record.serial, record.timeline[-1]))
            if isinstance(record.state, Ended):
                self.ended[record.state.verdict, record.state.cause.code] += 1
                self._account(job, was, record)
                if run.series.rows:
                    self._store.put(run.series.record(*run.key))
                self._close(run)
            job.sequence = self._store.put(record, job.record)
            self._index(run, was.state)
            job.touch()
        return job.sequence

    def progressed(self, run: Run, progress: Progress) -> None:
        """The latest progress; not stored until the run ends."""
        run.progress = progress
        run.record = attrs.evolve(run.record, fraction=progress.fraction)
        since = run.record.state.since
        at_s = elapsed_s(since, self._world.now()) if isinstance(run.record.state, Running) else run.record.usage.wall_s
        if run.series.add(at_s, progress.metrics):
            self._store.put(run.series.record(*run.key))
        run.job.touch()

    def doubt(self, agent: str) -> None:
        """The agent's link came or went, so what is known of its runs is more or less than it was."""
        for run in self.runs_on(agent):
            run.job.touch()

    def purge(self, job: Job) -> int:
        """Forget the job's runs, all of which are over; their directories go when their agent hears of it."""
        assert job.user is not None, "a job that ran has an owner"
        job.record = attrs.evolve(job.record, purged=job.record.serial)
        job.run = None
        job.past.clear()
        job.stages.clear()
        removal = RemovalRecord(job.record.id, job.user.id, job.record.serial, job.record.places)
        if removal.places:  # else no run of it was ever started
            self.removals.setdefault(removal.user, {})[removal.job] = removal
            self._store.put(removal)
        job.sequence = self._store.put(job.record, Purge(job.record.id, job.record.serial))
        job.touch()
        return job.sequence

    def removed(self, user: UserRecord, place: str, job: str, serial: int) -> None:
        """The agent at this place has deleted the directories of this job up to this serial."""
        waiting = self.removals.get(user.id, {})
        removal = waiting.get(job)
        if removal is None or removal.serial > serial:
            return
        left = tuple(each for each in removal.places if each != place)
        if left:
            waiting[job] = attrs.evolve(removal, places=left)
            self._store.put(waiting[job])
            return
        self._store.put(Delete(RemovalRecord, waiting.pop(job).job))
        if not waiting:
            del self.removals[user.id]

    def owner(self, name: str) -> UserRecord:
        """The user of this name, known from now on."""
        return self.users.get(name) or self._put_user(
            UserRecord(self._world.new_id("u"), name, "default", len(self.users))
        )

    def set_tier(self, name: str, tier: str) -> int:
        """Give the user this tier from now on; returns the store sequence."""
        self._put_user(attrs.evolve(self.owner(name), tier=tier))
        return self._store.sequence

    # --- inside -----------------------------------------------------------------------------------------------------

    def _put_user(self, user: UserRecord) -> UserRecord:
        self.users[user.name] = self._users_by_id[user.id] = user
        self._store.put(user)
        return user

    def _open(self, job: Job, user: UserRecord, record: RunRecord) -> Run:
        run = Run(job, user, record)
        if job.run is None or job.run.record.serial < record.serial:
            job.run = run
        job.open[record.serial] = run
        if (series := self._series.pop(run.key, None)) is not None:
            run.series = Series(series)
        self._runs[run.key] = run
        self._by_user.setdefault(user.id, {})[run.key] = run
        self._index(run, None)
        return run

    def _index(self, run: Run, before: State | None) -> None:
        """Keep the counts and the index by agent in step with a run that left the state `before`."""
        self._pending[run.user.id] += isinstance(run.record.state, Pending) - isinstance(before, Pending)
        if run.agent is not None:
            self._by_agent.setdefault(run.agent, {})[run.key] = run
        elif (agent := getattr(before, "agent", None)) is not None:
            runs = self._by_agent[agent]
            del runs[run.key]
            if not runs:
                del self._by_agent[agent]

    def _account(self, job: Job, was: RunRecord, record: RunRecord) -> None:
        """Enter what the run has used: by its parent's word, or else for as long as it may have run."""
        wall_s = record.usage.wall_s
        if wall_s == 0.0 and isinstance(was.state, Running):
            wall_s = elapsed_s(was.state.since, record.state.since)
        job.record = attrs.evolve(
            job.record,
            runs=job.record.runs + 1,
            core_s=job.record.core_s + record.slots.cores * wall_s,
            cpu_s=job.record.cpu_s + record.usage.cpu_s,
        )

    def _restore(self, job: Job, user: UserRecord, record: RunRecord) -> Run:
        if not isinstance(record.state, Ended):
            return self._open(job, user, record)
        job.run = Run(job, user, record)  # newer than an open one, and over already
        return job.run

    def _close(self, run: Run) -> None:
        if self._runs.pop(run.key, None) is not None:
            runs = self._by_user[run.user.id]
            del runs[run.key]
            if not runs:
                del self._by_user[run.user.id]
        run.job.open.pop(run.record.serial, None)
        run.situation = None

    def _keep(self, job: Job) -> Job:
        self._jobs[job.key] = job
        if len(self._jobs) > self._cached_max:
            for key, other in list(self._jobs.items())[: self._cached_max // 10 + 1]:
                if other is not job and not other.open and not self._is_watched(other) and self._is_stored(other):
                    del self._jobs[key]
            self._evictions += 1
        return job

    def _is_watched(self, job: Job) -> bool:
        return job.watchers > 0 or len(job.changed) > 0

    def _is_stored(self, job: Job) -> bool:
        return job.sequence <= self._store.committed


def _note_place(job: Job, place: Place) -> None:
    """Who is asked about the files of the job's runs on this host, from now on."""
    others = [each for each in job.record.places if parse(each).host != place.host]
    job.record = attrs.evolve(job.record, places=(*others, str(place)))


@frozen
class Loaded:
    """Requirement: the job is in memory."""

    jobs: Jobs
    user: str
    name: str

    def ready(self) -> Job | None:
        """The job; one with serial 0 if it never ran."""
        return self.jobs.cached(self.user, self.name)

    async def wait(self) -> None:
        """Read it from the store."""
        await self.jobs.read(self.user, self.name)

    @property
    def situation(self) -> Situation:
        """What is waited for."""
        return Situation("store", "reading the job from the store")


@frozen
class Known:
    """Requirement: jobd knows a user of this name; who never ran anything becomes known by being asked for."""

    jobs: Jobs
    name: str

    def ready(self) -> UserRecord | None:
        """The user."""
        return self.jobs.users.get(self.name)

    async def wait(self) -> None:
        """Make the user known."""
        self.jobs.owner(self.name)

    @property
    def situation(self) -> Situation:
        """What is waited for."""
        return Situation("store", "noting the user")
