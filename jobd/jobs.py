"""The registry of users, jobs and runs in memory: the one place where a run changes state.

`advance` is the whole way of a change: the state table, the store, those who watch. Everything active is here; a job
whose newest run is over stays as long as someone looks at it or the cache has room, and is read again from the store
when it is asked for (`Loaded`).
"""

import itertools
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence

import attrs
from attrs import frozen

from jobd import states
from jobd.dispatch import Situation
from jobd.errors import StaleSerial
from jobd.scopes import Notice, Scope
from jobd.store import Blob, Memory, Store
from jobd.world import World
from schemas.link import Progress
from schemas.records import Ended, JobRecord, Pending, RunRecord, Stage, UserRecord

STAGES_KEPT_MAX = 256
PAST_RUNS_MAX = 8  # older runs kept in memory for each job


class Job:
    """One start button of the gateway. `serial` 0: it never ran, and is not stored."""

    def __init__(
        self, key: tuple[str, str], user: UserRecord | None, record: JobRecord, revisions: Iterator[int]
    ) -> None:
        self.key = key  # the names of user and job
        self.user = user
        self.record = record
        self.run: Run | None = None  # the newest one
        self.open: dict[int, Run] = {}  # by serial: those whose end is not proved
        self.past: OrderedDict[int, Run] = OrderedDict()  # by serial: older ones that someone asked for
        self.stages: deque[tuple[int, Stage]] = deque(maxlen=STAGES_KEPT_MAX)  # the newest ones, with their serials
        self.changed = Notice()
        self.sequence = 0  # of the store, of the newest change
        self.watchers = 0
        self._revisions = revisions
        self.revision = next(revisions)  # of what a status shows; the ETag

    def touch(self) -> None:
        """Something that a status shows has changed."""
        self.revision = next(self._revisions)
        self.changed.notify()


class Run:
    """One epoch of a job, and what is known of it beyond its record."""

    def __init__(self, job: Job, user: UserRecord, record: RunRecord) -> None:
        self.job = job
        self.user = user
        self.record = record
        self.progress: Progress | None = None
        self.situation: Situation | None = None
        self.scope: Scope | None = None

    @property
    def key(self) -> tuple[str, int]:
        """Job id and serial."""
        return self.record.job, self.record.serial

    @property
    def agent(self) -> str | None:
        """The id of the agent that has it, or may have it."""
        return getattr(self.record.state, "agent", None)

    @property
    def active(self) -> bool:
        """Whether it is its job's active run."""
        return states.is_active(self.record.state)

    def waits(self, situation: Situation | None) -> None:
        """What it waits for now; for the status, not stored."""
        self.situation = situation
        self.job.touch()


class Jobs:
    """Everything that is active, and a cache of what was asked for."""

    def __init__(self, store: Store, world: World, cached_max: int) -> None:
        self._store = store
        self._world = world
        self._cached_max = cached_max
        self.users: dict[str, UserRecord] = {}
        self._jobs: OrderedDict[tuple[str, str], Job] = OrderedDict()
        self._runs: dict[tuple[str, int], Run] = {}  # every run whose end is not proved
        self._order = 0
        # One count for all jobs, from the microsecond of the start: no ETag ever comes again, over restarts too.
        self._revisions = itertools.count(int(world.now().wall_s * 1e6))

    def restore(self, memory: Memory) -> list[Run]:
        """Take up what the store remembers; returns the open runs in the order of their acceptance."""
        self.users = {user.name: user for user in memory.users}
        users = {user.id: user for user in memory.users}
        jobs = {}
        for record in memory.jobs:
            user = users[record.user]
            # Not kept by _keep: none of them may be evicted before its open runs are here.
            job = jobs[record.id] = Job((user.name, record.name), user, record, self._revisions)
            self._jobs[job.key] = job
        self._order = memory.order
        restored = [self._restore(jobs[record.job], users[record.user], record) for record in memory.runs]
        return [run for run in restored if run.key in self._runs]

    # --- looking up -------------------------------------------------------------------------------------------------

    def cached(self, user: str, name: str) -> Job | None:
        """The job if it is in memory, or if it cannot be anywhere else."""
        job = self._jobs.get((user, name))
        if job is None and user not in self.users:
            record = JobRecord(self._world.new_id("j"), "", name)
            return self._keep(Job((user, name), None, record, self._revisions))
        return job

    async def read(self, user: str, name: str) -> None:
        """Bring a job from the store into memory."""
        owner = self.users[user]
        found = await self._world.hop(self._store.disk.job, owner.id, name)
        if (user, name) in self._jobs:
            return  # someone else was faster, and may have changed it since
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

    def run_of(self, job: str, serial: int) -> Run | None:
        """An open run by its epoch."""
        return self._runs.get((job, serial))

    def runs_on(self, agent: str) -> Iterable[Run]:
        """The open runs that this agent has or may have."""
        return [run for run in self._runs.values() if run.agent == agent]

    def open_runs(self) -> list[Run]:
        """Every open run, of all users."""
        return list(self._runs.values())

    def pending_of(self, user: UserRecord) -> int:
        """How many of the user's runs have not been ordered yet."""
        return sum(run.user.id == user.id and isinstance(run.record.state, Pending) for run in self._runs.values())

    # --- changing ---------------------------------------------------------------------------------------------------

    def accept(self, job: Job, tier: str, record: RunRecord, blobs: Sequence[Blob]) -> Run:
        """A new run: gives it serial, order and owner, and puts all of it into the store as one step."""
        user = self._owner(job, tier)
        self._order += 1
        number = job.record.stage + 1
        serial = job.record.serial + 1
        stage = Stage(number, self._world.now(), "pending", "accepted")
        record = attrs.evolve(
            record, user=user.id, job=job.record.id, serial=serial, order=self._order, timeline=(stage,)
        )
        job.record = attrs.evolve(job.record, user=user.id, serial=serial, stage=number)
        job.sequence = self._store.put(user, job.record, *blobs, record)
        run = self._open(job, user, record)
        job.stages.append((serial, stage))
        job.touch()
        return run

    def advance(self, run: Run, event: states.Event) -> int:
        """Move the run on; returns the store sequence that everything said about it now depends on."""
        job = run.job
        record = states.advance(run.record, event, self._world.now(), job.record.stage + 1)
        if record is not run.record:
            run.record = record
            job.record = attrs.evolve(job.record, stage=record.timeline[-1].number)
            job.stages.append((record.serial, record.timeline[-1]))
            job.sequence = self._store.put(record, job.record)
            if isinstance(record.state, Ended):
                self._close(run)
            job.touch()
        return job.sequence

    def progressed(self, run: Run, progress: Progress) -> None:
        """The latest progress; not stored until the run ends."""
        run.progress = progress
        run.record = attrs.evolve(run.record, fraction=progress.fraction)
        run.job.touch()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _owner(self, job: Job, tier: str) -> UserRecord:
        name = job.key[0]
        if name not in self.users:
            self.users[name] = UserRecord(self._world.new_id("u"), name, tier, len(self.users))
        job.user = self.users[name]
        return job.user

    def _open(self, job: Job, user: UserRecord, record: RunRecord) -> Run:
        run = Run(job, user, record)
        if job.run is None or job.run.record.serial < record.serial:
            job.run = run
        job.open[record.serial] = run
        self._runs[run.key] = run
        return run

    def _restore(self, job: Job, user: UserRecord, record: RunRecord) -> Run:
        if not isinstance(record.state, Ended):
            return self._open(job, user, record)
        job.run = Run(job, user, record)  # newer than an open one, and over already
        return job.run

    def _close(self, run: Run) -> None:
        self._runs.pop(run.key, None)
        run.job.open.pop(run.record.serial, None)
        run.situation = None

    def _keep(self, job: Job) -> Job:
        self._jobs[job.key] = job
        if len(self._jobs) > self._cached_max:
            for key, other in list(self._jobs.items())[: self._cached_max // 10 + 1]:
                if other is not job and not other.open and not self._is_watched(other) and self._is_stored(other):
                    del self._jobs[key]
        return job

    def _is_watched(self, job: Job) -> bool:
        return job.watchers > 0 or len(job.changed) > 0

    def _is_stored(self, job: Job) -> bool:
        return job.sequence <= self._store.committed


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
