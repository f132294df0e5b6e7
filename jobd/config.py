"""The site's configuration: one TOML file, read strictly; every interval and limit of the daemon has its name here.

Durations are seconds, sizes bytes, with the unit in the field's name. Tests use the same classes with small numbers.
"""

import tomllib
from pathlib import Path
from typing import Any

from attrs import field, frozen

from schemas import codec
from schemas.codec import between

CONFIG_BYTES_MAX = 1024 * 1024


@frozen
class Tier:
    """What a user's plan with the site allows: how many runs may be active at once."""

    sequential: int = field(default=1, validator=between(0, 1000))
    parallel: int = field(default=1, validator=between(0, 1000))
    batch: int = field(default=1, validator=between(0, 1000))
    pending_max: int = field(default=100, validator=between(1, 100_000))


@frozen
class Host:
    """The slots of this machine that runs may use."""

    cores: int = field(default=2, validator=between(1, 4096))
    memory_bytes: int = field(default=4 << 30, validator=between(1 << 20, 1 << 50))


@frozen
class Local:
    """The local backend: agents are processes on this machine."""

    python: str = ""  # the agents' interpreter, >= 3.10; empty: jobd's own
    zipapp: str = ""  # what `make agent` built; empty: build/jobd-agent.pyz of the checkout
    uid_first: int | None = field(default=None, validator=between(1000, 1 << 31))
    uid_count: int = field(default=100_000, validator=between(1, 1 << 30))
    allow_root: bool = False  # as root without uid_first: run agents, and so the users' codes, as root


@frozen
class Agents:
    """How agents are started, watched, kept warm and culled."""

    start_s: float = 30.0  # the backend's start call
    call_home_s: float = 30.0  # from the start until the agent has said hello
    backoff_s: float = 1.0  # after the first failed start; doubles up to backoff_s_max
    backoff_s_max: float = 60.0
    heartbeat_s: float = 5.0
    silence_s: float = 20.0  # a link without a word for so long is closed
    away_s: float = 60.0  # an agent that lives but does not call home for so long is ended and started anew
    idle_s: float = 900.0  # a warm agent that nobody used for so long is culled
    stop_s: float = 5.0
    poll_s: float = 1.0  # how often an agent without a link is looked at
    lonely_s: float = 600.0  # an agent without jobd and without runs ends by itself
    agents_max: int = 1000
    ops_max: int = 64  # ops of one agent that wait for their answer
    unauthenticated_s: float = 5.0
    connections_max: int = 80  # on each of its sockets
    stall_s: float = 30.0  # a bulk stream that moves nothing for so long is cut


@frozen
class Http:
    """The gateway's door."""

    host: str = "127.0.0.1"
    port: int = field(default=8080, validator=between(0, 65535))
    token_file: str = ""  # holds the service token; empty: <state>/service-token, made at the first start
    body_bytes_max: int = 8 << 20
    connections_max: int = 2000
    keep_alive_s: float = 60.0
    stop_grace_s: float = 3.0


@frozen
class Requests:
    """Deadlines and bounds of API requests."""

    deadline_s: float = 30.0
    analysis_s: float = 120.0
    long_poll_s_max: float = 300.0
    answer_bytes_max: int = 256 << 20
    watchers_per_job_max: int = 100
    event_interval_s: float = 0.1  # progress is pushed to a watcher at most so often
    jobs_cached_max: int = 10_000
    settle_s: float = 5.0  # how long a cancel's reply waits for the end to be confirmed


@frozen
class Config:
    """Everything. `state` is jobd's own directory; one daemon at a time uses it."""

    state: str
    codes: str  # a directory of code descriptions
    codes_prefix: str = ""  # a Python prefix that {prefix} in them stands for; empty: jobd's own
    tiers: dict[str, Tier] = field(factory=lambda: {"default": Tier()})
    host: Host = Host()
    local: Local = Local()
    agents: Agents = Agents()
    http: Http = Http()
    requests: Requests = Requests()

    @property
    def directory(self) -> Path:
        """The state directory."""
        return Path(self.state)

    @property
    def admin_socket(self) -> Path:
        """Where operators call; its file permissions are its credentials."""
        return self.directory / "admin.sock"

    def tier(self, name: str) -> Tier:
        """The tier of this name, or the default one."""
        return self.tiers.get(name) or self.tiers.get("default") or Tier()


def load(path: Path) -> Config:
    """Read the file; raises CodecError or OSError. Relative paths are relative to the file."""
    data = read_toml(path)
    here = path.resolve().parent
    for key in ("state", "codes"):
        if isinstance(data.get(key), str):
            data[key] = str(here / data[key])
    config: Config = codec.from_data(data, Config)
    return config


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as plain data; raises CodecError with the file's name."""
    text = path.read_text()
    if len(text) > CONFIG_BYTES_MAX:
        raise codec.CodecError(str(path), f"is larger than {CONFIG_BYTES_MAX} bytes")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise codec.CodecError(str(path), f"is not TOML: {error}") from None
