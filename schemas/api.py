"""What the gateway says to jobd: the bodies of the REST API's requests (views.py has the replies).

They are decoded by the codec, so a refusal names the field, and /openapi.json is made from the same classes.
"""

from attrs import field, frozen

from schemas.codec import Json, at_most, between, checked, refuse
from schemas.ids import check_label, check_name, check_path
from schemas.records import Mode

INPUT_FILES_MAX = 1000
KEY_CHARS_MAX = 64


@frozen
class Input:
    """One input file: exactly one of `text`, `json` (written as canonical JSON) and `library`, the name of a file of
    the user's library, which is resolved at acceptance."""

    text: str | None = None
    json: Json = None
    library: str | None = field(default=None, validator=checked(check_name))

    def __attrs_post_init__(self) -> None:
        if sum(each is not None for each in (self.text, self.json, self.library)) != 1:
            refuse("text", "or 'json' or 'library' must be given, exactly one of them")


@frozen
class Resources:
    """What the run asks of its host; what is left out is the code's default."""

    cores: int | None = field(default=None, validator=between(1, 1 << 20))
    memory_bytes: int | None = field(default=None, validator=between(1 << 20, 1 << 50))


@frozen
class BatchRequest:
    """What a run in mode batch asks of its cluster, besides `resources`: cores there are for each task, and memory for
    each node. What is left out is the site's own choice."""

    cluster: str = field(validator=checked(check_name))
    partition: str = field(default="", validator=at_most(64))
    account: str = field(default="", validator=at_most(128))
    qos: str = field(default="", validator=at_most(128))
    constraint: str = field(default="", validator=at_most(128))
    nodes: int = field(default=1, validator=between(1, 1 << 20))
    tasks: int = field(default=1, validator=between(1, 1 << 24))  # in all
    gpus_per_node: int = field(default=0, validator=between(0, 1024))


@frozen
class TimeLimits:
    """The four time limits, in seconds; what is left out, and whatever is beyond it, is the code's own limit."""

    queue_s: float | None = field(default=None, validator=between(0.1, 30 * 86400))
    start_s: float | None = field(default=None, validator=between(0.1, 86400))
    run_s: float | None = field(default=None, validator=between(0.1, 30 * 86400))
    heartbeat_s: float | None = field(default=None, validator=between(0.1, 7 * 86400))


@frozen
class RunRequest:
    """PUT jobs/{job}/run. Who repeats a request, because its answer was lost, sends the same `idempotency_key` again,
    and has the run that it made, whatever became of it."""

    code: str = field(validator=checked(check_name))
    mode: Mode = "sequential"
    inputs: dict[str, Input] = field(factory=dict, validator=[at_most(INPUT_FILES_MAX), checked(check_path)])
    resources: Resources = Resources()
    limits: TimeLimits = TimeLimits()
    batch: BatchRequest | None = None  # mode batch has it, and no other
    force: bool = False
    supersede: bool = False
    idempotency_key: str = field(default="", validator=at_most(KEY_CHARS_MAX))

    def __attrs_post_init__(self) -> None:
        if (self.batch is None) == (self.mode == "batch"):
            refuse("batch", "must be given in mode batch, with the cluster, and in no other")

    @property
    def names_library(self) -> bool:
        """Whether an input is a library file."""
        return any(each.library is not None for each in self.inputs.values())


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


@frozen
class ComputeRequest:
    """POST compute/{code}/{method}."""

    arguments: Json = field(factory=dict)


@frozen
class SessionRequest:
    """POST session: the user is here, perhaps to work with this code."""

    code: str | None = field(default=None, validator=checked(check_name))


@frozen
class LoginRequest:
    """POST clusters/{cluster}/login: the user name there with a password, a one-time code, or a private key. It is used
    once, and none of it is kept."""

    username: str = field(validator=checked(check_label))
    password: str = field(default="", validator=at_most(1024), repr=False)
    code: str = field(default="", validator=at_most(64), repr=False)
    key: str = field(default="", validator=at_most(32 * 1024), repr=False)
    passphrase: str = field(default="", validator=at_most(1024), repr=False)


@frozen
class TokenRequest:
    """POST tokens. With `job` the token opens that job only; a read-only one changes nothing."""

    lifetime_s: float = field(default=3600.0, validator=between(1, 366 * 86400))
    job: str | None = field(default=None, validator=checked(check_name))
    read_only: bool = False


@frozen
class OperatorTokenRequest:
    """POST admin/tokens."""

    lifetime_s: float = field(default=3600.0, validator=between(1, 366 * 86400))


@frozen
class UserRequest:
    """PUT users/{user}."""

    tier: str = field(validator=checked(check_name))


@frozen
class DrainRequest:
    """POST admin/hosts/{host}/drain: whether nothing new is to start there from now on."""

    draining: bool = True


@frozen
class ForgetRequest:
    """POST admin/agents/{agent}/forget: the reason is kept with every run that it ends."""

    reason: str = field(validator=at_most(500))
