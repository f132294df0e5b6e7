"""The link between jobd and one agent: orders go to the agent, facts come back. docs/protocol.md tells the story.

Both sides speak from this one file. An order or fact is one websocket text message: a JSON object tagged with its
class. Bulk bytes never ride here: a message is at most MESSAGE_BYTES_MAX and whatever is larger goes over the agent's
bulk socket (BulkHeader). Ages are seconds before the sending; an agent's own clock is never sent.
"""

from typing import Literal

from attrs import evolve, field, frozen

from schemas.codec import Json, at_most, between, checked, from_data, refuse
from schemas.ids import check_id, check_label, check_name, check_path

PROTOCOL = 1
PROTOCOL_MIN = 1
MESSAGE_BYTES_MAX = 256 * 1024
REPLY_BYTES_MAX = 64 * 1024  # a larger result goes by bulk
HEADER_BYTES_MAX = 4096
TEXT_CHARS_MAX = 4000
HELD_RUNS_MAX = 1000
SERIAL_MAX = 1 << 53
AGE_S_MAX = 10.0 * 365 * 86400
ALPN_LINK, ALPN_BULK = "jobd-link", "jobd-bulk"  # what a connection to jobd's TLS port is

Outcome = Literal[
    "exited",  # the main process ended by itself: exit_code or signal says how
    "stopped",  # a Stop order ended it
    "wall_time",  # its wall-clock limit ended it
    "log_limit",  # it wrote more log than it may
    "out_of_memory",  # the kernel killed its main process for lack of memory: text says peak and limit
    "disk",  # it took more disk than it may, or than there is: text says how much
    "not_started",  # the command could not be executed, or its inputs could not be fetched: text says why
    "lost",  # its parent died without an end record; what was left of it has been killed
    "rejected",  # the cluster's scheduler did not take it: text is the scheduler's own
    "requeued",  # the scheduler began it a second time, which ends at the claim
    "node_failed",  # the scheduler gave it up because a node failed
    "preempted",  # the scheduler ended it in favour of another
    "scheduler_canceled",  # somebody ended it at the scheduler, not through jobd
]


@frozen
class Epoch:
    """One execution: job is jobd's internal job id, serial counts the job's runs from 1 and is never reused."""

    job: str = field(validator=checked(check_id))
    serial: int = field(validator=between(1, SERIAL_MAX))


# --- what orders carry ----------------------------------------------------------------------------------------------


@frozen
class Worker:
    """How to start a code's analysis worker (docs/describing-a-code.md): it is started once per agent and kept."""

    code: str = field(validator=checked(check_name))
    command: tuple[str, ...]
    environment: dict[str, str]
    answer_s: float = field(validator=between(0.01, 3600))


@frozen
class InputFile:
    """A file that the agent fetches by bulk transfer before the run starts, and verifies."""

    path: str = field(validator=checked(check_path))
    bytes: int = field(validator=between(0, 1 << 50))
    sha256: str
    transfer: str = field(validator=checked(check_id))


DISK_BYTES_DEFAULT = 20 << 30
DISK_FILES_DEFAULT = 100_000
DISK_RESERVE_BYTES_DEFAULT = 512 << 20


@frozen
class RunLimits:
    """What the run's parent enforces. Every limit is a number; None means that the run's container holds it instead."""

    run_s: float  # wall time
    grace_s: float  # from SIGTERM to SIGKILL
    memory_bytes: int | None  # RLIMIT_AS of each process
    log_bytes: int
    output_bytes: int  # the largest single file, RLIMIT_FSIZE
    processes: int | None  # RLIMIT_NPROC, which does not bind root
    # What the run's directory may hold in all; files and directories are counted together.
    disk_bytes: int = field(default=DISK_BYTES_DEFAULT, validator=between(1, 1 << 60))
    disk_files: int = field(default=DISK_FILES_DEFAULT, validator=between(1, 10_000_000))
    # A run that grows while its file system has less free than that is ended; at most a tenth of a small one.
    disk_reserve_bytes: int = field(default=DISK_RESERVE_BYTES_DEFAULT, validator=between(0, 1 << 60))

    def in_container(self) -> "RunLimits":
        """The same in a run container: its memory group and its pids group hold these two, for all processes together.
        The group is then taken to be the run's own, so its peak and its kills are told as the run's."""
        return evolve(self, memory_bytes=None, processes=None)


@frozen
class Batch:
    """How a run is submitted; jobd has checked every value against the site's limits.

    The agent adds --parsable, --no-requeue, --export=NONE, and name, directory and output. The job's script executes
    the run's parent on its first node, whose first act is the claim.
    """

    directives: tuple[str, ...] = field(validator=at_most(64))  # of sbatch, one word each: --partition=short
    setup: tuple[str, ...] = field(default=(), validator=at_most(64))  # lines of shell before the command
    python: str = "python3"  # on the compute nodes, 3.10 or newer
    warn_signal: int = field(default=0, validator=between(0, 64))  # sent to the main process's group ...
    warn_s: float = field(default=0.0, validator=between(0, 86400))  # ... so long before its wall time is over


# --- orders: jobd -> agent ------------------------------------------------------------------------------------------


@frozen
class Welcome:
    """The answer to Hello. `stop` lists what jobd does not know: end it at once. Facts up to `acked` may go."""

    protocol: int
    acked: int
    heartbeat_s: float
    stop: tuple[Epoch, ...] = ()


@frozen
class End:
    """The agent must stop all its runs' watching and exit; its runs themselves are not touched."""

    reason: str = field(validator=at_most(TEXT_CHARS_MAX))


@frozen
class Start:
    """Execute the epoch at most once, ever. Idempotent: an agent that has journaled it only answers Taken."""

    epoch: Epoch
    command: tuple[str, ...]  # {run_dir} stands for the run's directory
    environment: dict[str, str]
    inputs: tuple[InputFile, ...]
    limits: RunLimits
    worker: Worker | None = None  # asked for `progress` while the run goes on
    progress_s: float = 1.0
    batch: Batch | None = None  # it is submitted to the cluster's scheduler


@frozen
class Stop:
    """SIGTERM, then SIGKILL after grace_s; ends in the fact Ended. Idempotent."""

    epoch: Epoch
    grace_s: float


@frozen
class Ack:
    """Every durable fact up to `number` is committed and may leave the outbox."""

    number: int


@frozen
class Beat:
    """A heartbeat, from jobd; the agent answers with Beat of the same count."""

    count: int


@frozen
class Analyse:
    """Ask the worker one question about a run directory."""

    op: str = field(validator=checked(check_id))
    epoch: Epoch
    worker: Worker
    method: str = field(validator=at_most(128))
    arguments: Json = field(factory=dict)


@frozen
class Compute:
    """Ask the worker one question that is about no run."""

    op: str = field(validator=checked(check_id))
    worker: Worker
    method: str = field(validator=at_most(128))
    arguments: Json = field(factory=dict)


@frozen
class Read:
    """Send `length` bytes (or all) of a file from `offset` by bulk; `path` None means the run's log.

    With `wait_s`, and nothing there beyond `offset` while the run goes on, wait so long for more.
    """

    op: str = field(validator=checked(check_id))
    epoch: Epoch
    path: str | None = field(default=None, validator=checked(check_path))
    offset: int = field(default=0, validator=between(0, 1 << 50))
    length: int | None = field(default=None, validator=between(0, 1 << 50))
    wait_s: float = 0.0


@frozen
class List:
    """List the files of a run directory, recursively, at most `files_max`; the reply's result is a Listing."""

    op: str = field(validator=checked(check_id))
    epoch: Epoch
    files_max: int = 1000


@frozen
class Remove:
    """The job's runs up to this serial are purged: delete their directories. Answered by Removed; idempotent."""

    epoch: Epoch


@frozen
class Drop:
    """Nobody waits for this op any more: cancel it. No answer."""

    op: str = field(validator=checked(check_id))


Order = Welcome | End | Start | Stop | Ack | Beat | Analyse | Compute | Read | List | Remove | Drop


# --- facts: agent -> jobd -------------------------------------------------------------------------------------------


@frozen
class Held:
    """A run that the agent knows: taken (journaled, not yet forked), running, or ended with its fact not yet acked."""

    epoch: Epoch
    state: Literal["taken", "running", "ended"]


@frozen
class Hello:
    """The first message on a link."""

    protocol: int
    protocol_min: int
    agent: str = field(validator=checked(check_id))
    generation: int
    boot: str = field(validator=at_most(64))
    python: str = field(validator=at_most(64))
    pid: int
    fact: int  # the number of the newest durable fact
    held: tuple[Held, ...] = field(default=(), validator=at_most(HELD_RUNS_MAX))


@frozen
class Taken:
    """The Start is journaled; if the agent dies now, its successor knows of it."""

    epoch: Epoch


@frozen
class Started:
    """Durable: the command runs."""

    number: int
    epoch: Epoch
    age_s: float = field(validator=between(0, AGE_S_MAX))


@frozen
class Ended:
    """Durable: no process of this epoch exists any more."""

    number: int
    epoch: Epoch
    outcome: Outcome
    age_s: float = field(validator=between(0, AGE_S_MAX))
    wall_s: float = field(default=0.0, validator=between(0, AGE_S_MAX))
    cpu_s: float = field(default=0.0, validator=between(0, 1e15))
    peak_memory_bytes: int = field(default=0, validator=between(0, 1 << 60))
    exit_code: int | None = None
    signal: int | None = None
    text: str = field(default="", validator=at_most(TEXT_CHARS_MAX))  # for people
    log_tail: str = field(default="", validator=at_most(TEXT_CHARS_MAX))
    # Clauses about what else went wrong, whatever the outcome: a cut log, processes killed for lack of memory.
    remark: str = field(default="", validator=at_most(TEXT_CHARS_MAX))


@frozen
class Progress:
    """What the worker answered to `progress`; not durable, the latest counts."""

    epoch: Epoch
    fraction: float | None = field(default=None, validator=between(0, 1))
    text: str = field(default="", validator=at_most(200))
    frames: dict[str, int] = field(factory=dict, validator=[at_most(32), checked(check_label)])
    metrics: dict[str, float | None] = field(factory=dict, validator=[at_most(64), checked(check_label)])
    problem: str = field(
        default="", validator=at_most(1000)
    )  # what is wrong, if anything: with the output, or that the disk is nearly used up


def progress_of(job: str, serial: int, said: Json) -> Progress:
    """What a worker has answered to `progress`, as a fact; raises CodecError."""
    words = said if isinstance(said, dict) else {}
    progress: Progress = from_data({**words, "epoch": {"job": job, "serial": serial}}, Progress)
    return progress


@frozen
class Queued:
    """Where a run stands at its cluster's scheduler, before it runs; not durable, the latest counts."""

    epoch: Epoch
    job: str = field(validator=at_most(64))  # the scheduler's name for it
    state: str = field(validator=at_most(64))  # in the scheduler's words: PENDING, ...
    reason: str = field(default="", validator=at_most(200))  # likewise: Priority, Resources, JobHeldUser, ...
    starts_in_s: float | None = field(default=None, validator=between(0, AGE_S_MAX))  # what the scheduler expects


@frozen
class Answer:
    """The reply to an op: a result, or an error, or the word that `bytes` come by bulk as transfer `op`."""

    op: str = field(validator=checked(check_id))
    result: Json = None
    error: str | None = field(default=None, validator=at_most(64))  # a code: no_frame, not_found, ...
    text: str = field(default="", validator=at_most(TEXT_CHARS_MAX))
    bytes: int | None = field(default=None, validator=between(0, 1 << 50))
    type: str = field(default="application/json", validator=at_most(100))

    def __attrs_post_init__(self) -> None:
        if self.error is not None and self.bytes is not None:
            refuse("bytes", "must be absent from an error")


@frozen
class Removed:
    """The directories of the job's runs up to this serial are gone. Not durable: jobd asks again until it hears it."""

    epoch: Epoch


Fact = Hello | Taken | Queued | Started | Ended | Progress | Answer | Removed | Beat


@frozen
class ListedFile:
    """One file of a Listing; ages, not times."""

    path: str
    bytes: int
    age_s: float


# --- bulk -----------------------------------------------------------------------------------------------------------


@frozen
class BulkHeader:
    """The agent's first line on a bulk connection. For an input: jobd answers BulkReply and then the bytes from
    `offset`. For an op's output: `bytes` is how many follow, at once, after jobd's BulkReply."""

    token: str = field(validator=at_most(128), repr=False)
    transfer: str = field(validator=checked(check_id))
    offset: int = field(default=0, validator=between(0, 1 << 50))
    bytes: int | None = field(default=None, validator=between(0, 1 << 50))


@frozen
class BulkReply:
    """jobd's answering line: go on, with how many bytes follow from jobd, or why not."""

    bytes: int = 0
    error: str = ""
