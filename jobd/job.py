"""A job and its runs in memory: what their records say, and what is known beyond them."""

from collections import OrderedDict, deque
from collections.abc import Iterator

from jobd import states
from jobd.dispatch import Situation
from jobd.scopes import Notice, Scope
from jobd.series import Series
from schemas.link import Progress
from schemas.records import JobRecord, RunRecord, Stage, UserRecord

STAGES_KEPT_MAX = 256


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
        self.shown: tuple[int, str] | None = None  # the status as JSON, by revision, where nothing in it ages

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
        self.warning = ""  # of its own agent, where another is asked for its progress
        self.situation: Situation | None = None
        self.scope: Scope | None = None
        self.admitted = False  # it has its slots, and so its place
        self.reported = False  # its agent says that nothing of it runs any more, and is not believed without proof
        self.series = Series()

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
