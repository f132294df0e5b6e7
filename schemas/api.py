"""What the gateway says to jobd and hears back: the bodies of the REST API (docs: /openapi.json of a running daemon).

Requests are decoded by the codec, so a refusal names the field. Replies are built here too, so that the client library
and the documentation come from the same classes. Times in replies are RFC 3339 UTC; durations are seconds.
"""

from attrs import field, frozen

from schemas.codec import Json, at_most, between, checked, refuse
from schemas.ids import check_name, check_path
from schemas.records import Mode

INPUT_FILES_MAX = 1000


@frozen
class Input:
    """One input file: exactly one of `text` and `json` (written as canonical JSON)."""

    text: str | None = None
    json: Json = None

    def __attrs_post_init__(self) -> None:
        if (self.text is None) == (self.json is None):
            refuse("text", "or 'json' must be given, exactly one of them")


@frozen
class Resources:
    """What the run asks of its host; what is left out is the code's default."""

    cores: int | None = field(default=None, validator=between(1, 1 << 20))
    memory_bytes: int | None = field(default=None, validator=between(1 << 20, 1 << 50))


@frozen
class TimeLimits:
    """The four time limits, in seconds; what is left out, and whatever is beyond it, is the code's own limit."""

    queue_s: float | None = field(default=None, validator=between(0.1, 30 * 86400))
    start_s: float | None = field(default=None, validator=between(0.1, 86400))
    run_s: float | None = field(default=None, validator=between(0.1, 30 * 86400))
    heartbeat_s: float | None = field(default=None, validator=between(0.1, 7 * 86400))


@frozen
class RunRequest:
    """PUT jobs/{job}/run."""

    code: str = field(validator=checked(check_name))
    mode: Mode = "sequential"
    inputs: dict[str, Input] = field(factory=dict, validator=[at_most(INPUT_FILES_MAX), checked(check_path)])
    resources: Resources = Resources()
    limits: TimeLimits = TimeLimits()
    force: bool = False
    supersede: bool = False


@frozen
class CancelRequest:
    """POST jobs/{job}/cancel. With `serial`, only that run is canceled, never a later one."""

    serial: int | None = field(default=None, validator=between(1, 1 << 53))
    reason: str = field(default="", validator=at_most(500))


@frozen
class AnalysisRequest:
    """POST jobs/{job}/analysis/{method}."""

    arguments: Json = field(factory=dict)
    serial: int | None = field(default=None, validator=between(1, 1 << 53))


# --- replies --------------------------------------------------------------------------------------------------------


@frozen
class SituationView:
    """What a run waits for."""

    code: str
    text: str
    ahead: int | None = None


@frozen
class CauseView:
    """Why it ended."""

    code: str
    text: str
    actor: str


@frozen
class KnownView:
    """How good the knowledge is: fresh, or unknown since the agent was last heard, `age_s` ago."""

    state: str
    since: str | None = None
    age_s: float | None = None


@frozen
class ProgressView:
    """The latest progress."""

    fraction: float | None
    text: str
    frames: dict[str, int]
    metrics: dict[str, float | None]
    problem: str = ""


@frozen
class StageView:
    """One line of the timeline."""

    number: int
    at: str
    state: str
    name: str
    text: str


@frozen
class UsageView:
    """What the run used."""

    wall_s: float
    cpu_s: float
    peak_memory_bytes: int
    exit_code: int | None
    signal: int | None


@frozen
class RunView:
    """The status of a job's newest run. `state` `missing`: it never ran, and only user, job and state are there."""

    user: str
    job: str
    state: str
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
    usage: UsageView | None = None
    log_tail: str | None = None
    previous_ending: tuple[int, ...] = ()  # serials of earlier runs whose end is not confirmed yet
