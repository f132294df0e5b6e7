"""What jobd remembers: the records of the store, and the states of a run. Encoded by the codec, one JSON text a record.

A record is replaced as a whole and never edited in place. Times are `Instant`s: wall time for people, boot time so
that a deadline survives a restart of jobd and a jump of the wall clock.
"""

from typing import Literal

from attrs import field, frozen

from schemas.codec import at_most, between
from schemas.link import Batch, RunLimits, Worker

TIMELINE_STAGES_MAX = 64
CAUSE_CHARS_MAX = 4000

Mode = Literal["sequential", "parallel", "batch"]
Verdict = Literal["completed", "failed", "canceled"]


@frozen
class Instant:
    """A moment: seconds since 1970 UTC, and CLOCK_BOOTTIME seconds within the boot that `boot` names."""

    wall_s: float
    boot_s: float
    boot: str


@frozen
class Cause:
    """Why something ended: a stable code (docs/faults.md lists them), one sentence for people, and who did it."""

    code: str = field(validator=at_most(64))
    text: str = field(default="", validator=at_most(CAUSE_CHARS_MAX))
    actor: str = field(default="jobd", validator=at_most(200))


# --- the states of a run: each holds exactly what exists in it; jobd/states.py holds the moves ----------------------


@frozen
class Pending:
    """Accepted and durable; nothing of it exists outside jobd."""

    since: Instant


@frozen
class Starting:
    """The start order is committed for `agent`; it may or may not have reached it."""

    since: Instant
    agent: str


@frozen
class Running:
    """The agent has said that the command runs."""

    since: Instant
    agent: str


@frozen
class Ending:
    """The verdict is committed, the end is not yet proved: slots and the job's next run wait for that."""

    since: Instant
    agent: str
    verdict: Verdict
    cause: Cause


@frozen
class Ended:
    """Over, and no process of it exists."""

    since: Instant
    verdict: Verdict
    cause: Cause


State = Pending | Starting | Running | Ending | Ended


@frozen
class Stage:
    """One line of a run's timeline, and one event of its job: `number` counts over all runs of the job."""

    number: int
    at: Instant
    state: str  # the run's state as the API calls it, after this stage
    name: str
    text: str = field(default="", validator=at_most(CAUSE_CHARS_MAX))


@frozen
class Usage:
    """What the run's parent measured."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_memory_bytes: int = 0
    exit_code: int | None = None
    signal: int | None = None


@frozen
class Limits:
    """The four time limits of a run, in seconds: in the queue, to start, to run, without word of its agent."""

    queue_s: float = field(default=86400.0, validator=between(0.1, 30 * 86400))
    start_s: float = field(default=60.0, validator=between(0.1, 86400))
    run_s: float = field(default=3600.0, validator=between(0.1, 30 * 86400))
    heartbeat_s: float = field(default=120.0, validator=between(0.1, 7 * 86400))


@frozen
class Slots:
    """What a run occupies on its host."""

    cores: int
    memory_bytes: int


@frozen
class Execution:
    """What the start order says, fixed at acceptance: a later change of the code's description does not touch it."""

    command: tuple[str, ...]
    environment: dict[str, str]
    limits: RunLimits
    worker: Worker | None
    progress_s: float
    batch: Batch | None = None  # it is submitted to the scheduler of the cluster that is its place


@frozen
class StoredInput:
    """One input file of a run; its bytes lie in the store, or in the library's files, under their SHA-256."""

    path: str
    bytes: int
    sha256: str
    library: str = ""  # the name in the user's library that was resolved to it at acceptance


@frozen
class RunRecord:
    """One run. `user` and `job` are internal ids; serial counts the job's runs from 1."""

    user: str
    job: str
    serial: int
    order: int  # of acceptance, over all jobs: pending runs are taken up again in this order
    code: str
    code_version: str
    mode: Mode
    input_hash: str
    inputs: tuple[StoredInput, ...]
    slots: Slots
    limits: Limits
    execution: Execution
    state: State
    timeline: tuple[Stage, ...] = field(validator=at_most(TIMELINE_STAGES_MAX))
    usage: Usage = Usage()
    fraction: float | None = None
    log_tail: str = ""
    idempotency_key: str = ""  # of the request that made it
    image: str = ""  # the name of the image that it runs in; empty where there are no containers
    image_digest: str = ""  # what that name stood for when it was started
    place: str = "local"  # where it runs (jobd/places.py), fixed when it is admitted; of a batch run, at acceptance

    @property
    def is_batch(self) -> bool:
        """Whether it is submitted to the scheduler of a cluster."""
        return self.mode == "batch"


@frozen
class JobRecord:
    """A job: the name that the gateway gave it, and its newest serial (kept over purges: never reused)."""

    id: str
    user: str
    name: str
    serial: int = 0
    stage: int = 0  # the number of its newest stage, over all its runs
    runs: int = 0  # that have ended, the purged ones included: what was used stays in the books
    core_s: float = 0.0  # slots times wall time, over these
    cpu_s: float = 0.0
    purged: int = 0  # runs up to this serial are deleted from the store
    places: tuple[str, ...] = ()  # where runs of it were started, one for each host: who is asked about their files


@frozen
class UserRecord:
    """A user: the name that the gateway gave, the tier, and the number that a uid is made from."""

    id: str
    name: str
    tier: str
    number: int


@frozen
class AgentRecord:
    """An agent: one for each user and place, for good; its generations come and go."""

    id: str
    user: str
    place: str
    generation: int = 0
    awake: bool = False  # a process of it exists or may exist: set before the start, cleared when it is proved gone
    token_sha256: str = ""
    handle: str = ""  # the backend's own words for the native thing; empty until it is known
    fact: int = 0  # the newest durable fact of it that is committed
    image_digest: str = ""  # of the image that the newest generation was started from


@frozen
class RemovalRecord:
    """Directories of purged runs that have not been deleted yet: the job's, up to this serial, at these places."""

    job: str
    user: str
    serial: int
    places: tuple[str, ...] = ("local",)


@frozen
class TokenRecord:
    """A token that the gateway minted for a user, or an operator for another program of the site."""

    id: str
    sha256: str = field(repr=False)
    role: Literal["user", "operator"]
    user: str  # the user's name; empty for an operator
    job: str | None  # the only job that it opens
    read_only: bool
    expires_wall_s: float


@frozen
class LibraryRecord:
    """A file of a user's library: a name, and the content that it stands for now."""

    id: str
    user: str
    name: str
    bytes: int
    sha256: str
    at: Instant


@frozen
class HostRecord:
    """What an operator has said about a host: nothing new is to start there."""

    id: str  # its name in the configuration
    draining: bool


@frozen
class SeriesRecord:
    """The kept scalars of a run: `names`, and rows of seconds since its start and one value for each name."""

    job: str
    serial: int
    names: tuple[str, ...]
    rows: tuple[tuple[float | None, ...], ...]
