"""What the gateway hears back: the bodies of the REST API's replies, and what the client library is typed by.

Times are RFC 3339 UTC, durations seconds, sizes bytes. A field that is null or empty by default is left out. Later
versions may add fields, which a reader that does not know them ignores.
"""

from typing import Literal

from attrs import frozen

from schemas.codec import Growing, Json
from schemas.records import Mode

State = Literal["missing", "pending", "running", "completed", "failed", "canceled"]


@frozen
class SituationView(Growing):
    """What a run waits for."""

    code: str
    text: str
    ahead: int | None = None


@frozen
class CauseView(Growing):
    """Why it ended."""

    code: str
    text: str
    actor: str


@frozen
class KnownView(Growing):
    """How good the knowledge is: fresh, or unknown since the agent was last heard, `age_s` ago."""

    state: str
    since: str | None = None
    age_s: float | None = None


@frozen
class ProgressView(Growing):
    """The latest progress."""

    fraction: float | None
    text: str
    frames: dict[str, int]
    metrics: dict[str, float | None]
    problem: str = ""


@frozen
class StageView(Growing):
    """One line of the timeline."""

    number: int
    at: str
    state: str
    name: str
    text: str


@frozen
class RunUsageView(Growing):
    """What the run used."""

    wall_s: float
    cpu_s: float
    peak_memory_bytes: int
    exit_code: int | None
    signal: int | None


@frozen
class RunView(Growing):
    """The status of a job's newest run. `state` `missing`: it never ran, or was purged, and only user, job and state
    are there."""

    user: str
    job: str
    state: State
    serial: int | None = None
    code: str | None = None
    mode: Mode | None = None
    input_hash: str | None = None
    accepted_at: str | None = None
    situation: SituationView | None = None
    known: KnownView | None = None
    cause: CauseView | None = None
    end_confirmed: bool | None = None
    progress: ProgressView | None = None
    timeline: tuple[StageView, ...] = ()
    usage: RunUsageView | None = None
    log_tail: str | None = None
    previous_ending: tuple[int, ...] = ()  # serials of earlier runs whose end is not confirmed yet


@frozen
class InputView(Growing):
    """One input file of a run: its content's SHA-256, and the library name that it was resolved from."""

    path: str
    bytes: int
    sha256: str
    library: str | None = None


@frozen
class PastRunView(Growing):
    """One run of a job's history."""

    serial: int
    state: State
    code: str
    code_version: str
    mode: Mode
    cores: int
    memory_bytes: int
    input_hash: str
    inputs: tuple[InputView, ...]
    accepted_at: str
    ended_at: str | None = None
    cause: CauseView | None = None
    end_confirmed: bool | None = None
    usage: RunUsageView | None = None
    image_digest: str | None = None  # of the image that it ran in; none on the local backend


@frozen
class HistoryView(Growing):
    """The kept runs of a job, newest first; `next` is the `before` of the next page."""

    runs: tuple[PastRunView, ...]
    next: int | None = None


@frozen
class JobsView(Growing):
    """One page of jobs; `next` is the `after` of the next one."""

    jobs: tuple[RunView, ...]
    next: str | None = None


@frozen
class PoolView(Growing):
    """A pool of slots: `capacity` and `used` by unit."""

    name: str
    units: tuple[str, ...]
    capacity: tuple[int, ...]
    used: tuple[int, ...]
    waiting: int


@frozen
class AgentView(Growing):
    """An agent. `failure` is why its last start failed, with the end of its log; `open_runs` are job/serial."""

    id: str
    user: str
    place: str
    generation: int
    linked: bool
    awake: bool
    stage: str
    failure: str
    failures: int
    heard_s: float  # ago
    questions: int
    open_runs: tuple[str, ...]


@frozen
class HostView(Growing):
    """A host: `failure` is why it is set aside; `agents` are those that are awake there, `runs` the open ones."""

    name: str
    group: str
    state: Literal["up", "draining", "down"]
    failure: str
    agents: int
    runs: int
    pool: PoolView


@frozen
class HostsView(Growing):
    """Every host."""

    hosts: tuple[HostView, ...]


@frozen
class ExplainView(Growing):
    """Why a run waits, or why it ended: one sentence, and what it is made of."""

    state: State
    why: str
    serial: int | None = None
    situation: SituationView | None = None
    pool: PoolView | None = None
    wanted: tuple[int, ...] = ()
    agent: AgentView | None = None
    cause: CauseView | None = None
    timeline: tuple[StageView, ...] = ()
    limits: dict[str, float] | None = None  # the four time limits, in seconds


@frozen
class SeriesView(Growing):
    """The kept scalars of a run: rows of seconds since its start, and then one value for each name."""

    serial: int
    names: tuple[str, ...]
    rows: tuple[tuple[float | None, ...], ...]


@frozen
class SessionView(Growing):
    """How far the user's agent is."""

    agent: str
    stage: str


@frozen
class TokenView(Growing):
    """A minted token; its text is said only once."""

    id: str
    expires_at: str
    token: str | None = None
    job: str | None = None
    read_only: bool = False


@frozen
class TokensView(Growing):
    """The valid tokens."""

    tokens: tuple[TokenView, ...]


@frozen
class UserView(Growing):
    """A user."""

    user: str
    tier: str


@frozen
class JobUsageView(Growing):
    """What one job has used over all its runs, the purged ones included. A core-second is a slot's core for a second,
    idle or not; a CPU-second is what its processes computed."""

    job: str
    runs: int
    core_s: float
    cpu_s: float


@frozen
class UserUsageView(Growing):
    """What a user has used, and one page of the jobs; `next` is the `after` of the next one."""

    user: str
    tier: str
    runs: int
    core_s: float
    cpu_s: float
    library_files: int
    library_bytes: int
    jobs: tuple[JobUsageView, ...]
    next: str | None = None


@frozen
class FileView(Growing):
    """A file of the user's library."""

    name: str
    bytes: int
    sha256: str
    modified_at: str


@frozen
class LibraryView(Growing):
    """The user's library."""

    files: tuple[FileView, ...]


@frozen
class ModeView(Growing):
    """A mode of a code."""

    cores: int
    cores_max: int
    memory_bytes: int
    run_s: float


@frozen
class CodeView(Growing):
    """A code that the site offers. `inputs` are the files that a run must have."""

    name: str
    title: str
    version: str
    modes: dict[str, ModeView]
    inputs: tuple[str, ...]
    views: tuple[str, ...]
    methods: tuple[str, ...]
    compute: tuple[str, ...]


@frozen
class CodesView(Growing):
    """What the site offers."""

    codes: tuple[CodeView, ...]


@frozen
class NodeView(Growing):
    """A node of the cancel-scope tree."""

    depth: int
    kind: str
    name: str
    doing: str
    cause: str | None = None


@frozen
class TreeView(Growing):
    """The live cancel-scope tree, depth first."""

    tree: tuple[NodeView, ...]


@frozen
class AgentsView(Growing):
    """Every agent."""

    agents: tuple[AgentView, ...]


@frozen
class PoolsView(Growing):
    """Every pool that somebody uses."""

    pools: tuple[PoolView, ...]


@frozen
class HealthView(Growing):
    """`alive`, or `ready`."""

    status: str


@frozen
class ListedFileView(Growing):
    """A file of a run directory."""

    path: str
    bytes: int
    age_s: float


@frozen
class ListingView(Growing):
    """The files of a run directory; truncated when there are more."""

    files: tuple[ListedFileView, ...]
    truncated: bool


@frozen
class ProblemView(Growing):
    """RFC 9457: what was wrong and what to do. `code` is stable; `field` names the part at fault, `limit` the bound."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    field: str | None = None
    limit: int | None = None
    serial: int | None = None
    cause: str | None = None
    reason: Json = None
