"""The site's configuration: one TOML file, read strictly; every interval and limit of the daemon has its name here.

Durations are seconds, sizes bytes, with the unit in the field's name. docs/configuration.md is made from these classes.
Tests use the same ones with small numbers.
"""

import tomllib
from pathlib import Path
from typing import Any

from attrs import field, frozen

from schemas import codec
from schemas.codec import between

CONFIG_BYTES_MAX = 1024 * 1024
DAY_S = 86400.0


class ConfigError(Exception):
    """The configuration cannot work on this machine; the text says what to change."""


def _about(default: Any, about: str) -> Any:
    return field(default=default, metadata={"about": about})


def _seconds(default: float, about: str, most: float = 30 * DAY_S) -> Any:
    return field(default=default, validator=between(0.001, most), metadata={"about": about})


def _number(default: int | None, about: str, least: int = 1, most: int = 1_000_000) -> Any:
    return field(default=default, validator=between(least, most), metadata={"about": about})


def _bytes(default: int, about: str, least: int = 1, most: int = 1 << 50) -> Any:
    return _number(default, about, least, most)


@frozen
class Tier:
    """What a user's plan with the site allows."""

    sequential: int = _number(1, "sequential runs that may be active at once", 0, 1000)
    parallel: int = _number(1, "parallel runs that may be active at once", 0, 1000)
    batch: int = _number(10, "batch runs that may be active at once", 0, 1000)
    pending_max: int = _number(100, "runs that may wait", 1, 100_000)
    library_bytes: int = _bytes(10 << 30, "the user's library files together", 0)
    library_files: int = _number(1000, "files in the user's library", 0, 100_000)
    hosts: str = _about("default", "the group of Docker hosts that the user's agents are on")


@frozen
class Host:
    """The slots of this machine that runs may use."""

    cores: int = _number(2, "cores", 1, 4096)
    memory_bytes: int = _bytes(4 << 30, "memory", 1 << 20)


@frozen
class Local:
    """The local backend: agents are processes on this machine."""

    python: str = _about("", "the agents' interpreter, 3.10 or newer; empty: jobd's own")
    zipapp: str = _about("", "what `make agent` built; empty: build/jobd-agent.pyz of the checkout")
    uid_first: int | None = _number(
        None, "started as root: each user's agent runs under a uid of its own, from here on", 1000, 1 << 31
    )
    uid_count: int = _number(100_000, "how many such uids there are", 1, 1 << 30)
    allow_root: bool = _about(False, "started as root without uid_first: run agents, and so the users' codes, as root")


@frozen
class DockerHost:
    """A Docker engine, and the slots of its machine that runs may use."""

    url: str = field(metadata={"about": "unix:///run/docker.sock, or tcp://name:port with mutual TLS"})
    cores: int = _number(2, "cores", 1, 4096)
    memory_bytes: int = _bytes(4 << 30, "memory; agents need some besides, see agents_max", 1 << 20)
    group: str = _about("default", "tiers name the group whose hosts they use")
    agents_max: int = _number(200, "containers of agents that are awake here at once, 40 MB each while idle")
    tls_ca: str = _about("", "tcp: the file of the authority that signed the engine's certificate")
    tls_cert: str = _about("", "tcp: the file of the certificate by which the engine knows jobd")
    tls_key: str = _about("", "tcp: the file of its key")
    home: str = _about("", "tcp: the name or address by which this host reaches jobd's [tls] port")

    def __attrs_post_init__(self) -> None:
        if not self.url.startswith(("unix:///", "tcp://")):
            codec.refuse("url", "must begin with unix:/// or tcp://")
        if self.url.startswith("tcp://") and not (self.tls_ca and self.tls_cert and self.tls_key):
            codec.refuse("tls_ca", "must be set, and tls_cert and tls_key too: a tcp engine without TLS is anybody's")


@frozen
class Docker:
    """The Docker backend: each agent in a container of its own. It is used when there is a [docker.hosts.<name>]."""

    uid_first: int = _number(
        200_000, "each user's agents run under a uid of the user's own, from here on", 1000, 1 << 31
    )
    uid_count: int = _number(100_000, "how many such uids there are", 1, 1 << 30)
    zipapp: str = _about("", "what `make agent` built; empty: build/jobd-agent.pyz of the checkout")
    seccomp: str = _about("", "a seccomp profile for the containers; empty: the engine's own")
    call_s: float = _seconds(10.0, "one call to an engine; one that does not answer so long is set aside")
    ping_s: float = _seconds(2.0, "how often an engine is asked whether it is there")
    pull: str = _about("never", "a missing image is pulled from its registry (`missing`) or is an error (`never`)")
    image_files: str = _about("", "a directory where a missing image is looked for first: <name>.tar, / and : as _")
    image_s: float = _seconds(900.0, "the loading or pulling of one image")
    view_cores: float = _seconds(1.0, "cores of a container for analysis, frames and files", 4096.0)
    view_memory_bytes: int = _bytes(1 << 30, "its memory", 64 << 20)
    agent_memory_bytes: int = _bytes(96 << 20, "what a run's container has for the agent, besides the run's", 32 << 20)
    tmp_bytes: int = _bytes(256 << 20, "the temporary files of a container, in its memory", 1 << 20)
    processes: int = _number(512, "processes and threads of a container", 16, 1 << 20)
    open_files: int = _number(4096, "open files of one process", 64, 1 << 20)
    hosts: dict[str, DockerHost] = field(factory=dict, metadata={"about": "the engines, by name"})

    def __attrs_post_init__(self) -> None:
        if self.pull not in ("never", "missing"):
            codec.refuse("pull", "must be never or missing")
        for name in self.hosts:
            if name == "local" or not name.replace("-", "").isalnum():
                codec.refuse(f"hosts.{name}", "must have letters, digits and - only, and not be local")


@frozen
class Agents:
    """How agents are started, watched, kept warm and culled, and what their connections may take."""

    start_s: float = _seconds(30.0, "the backend's start call")
    call_home_s: float = _seconds(30.0, "from the start until the agent has said hello")
    backoff_s: float = _seconds(1.0, "the pause after the first failed start; doubles up to backoff_s_max")
    backoff_s_max: float = _seconds(60.0, "the longest pause between two starts")
    heartbeat_s: float = _seconds(5.0, "how often each side of a link says that it is there")
    silence_s: float = _seconds(20.0, "a link without a word for so long is closed")
    away_s: float = _seconds(60.0, "an agent that lives but does not call home for so long is ended and started anew")
    tell_s: float = _seconds(10.0, "an agent that is back has so long to tell what happened meanwhile")
    run_margin_s: float = _seconds(10.0, "a run's own parent enforces its wall time; jobd ends it so much later itself")
    idle_s: float = _seconds(900.0, "a warm agent that nobody used for so long is culled")
    stop_s: float = _seconds(5.0, "from SIGTERM to SIGKILL of an agent")
    poll_s: float = _seconds(1.0, "how often an agent without a link is looked at")
    lonely_s: float = _seconds(600.0, "an agent without jobd and without runs ends by itself")
    agents_max: int = _number(1000, "agents that are awake at once")
    ops_max: int = _number(64, "questions to one agent that wait for their answer")
    orders_max: int = _number(10_000, "orders that wait for one agent; one that does not read so many is cut off")
    unauthenticated_s: float = _seconds(5.0, "a connection has so long to prove itself")
    connections_max: int = _number(
        80, "connections to each of an agent's sockets, or over TLS, and as many to a socket that prove nothing yet"
    )
    send_s: float = _seconds(5.0, "an agent that does not take one message for so long has stopped reading")
    close_s: float = _seconds(2.0, "the closing of a link")
    stall_s: float = _seconds(30.0, "a bulk stream that moves nothing for so long is cut")


@frozen
class Http:
    """The gateway's door."""

    host: str = _about("127.0.0.1", "the address to listen on; put the gateway's web server, or TLS, in front")
    port: int = _number(8080, "the port; 0: any free one, written to <state>/address", 0, 65535)
    token_file: str = _about("", "holds the service token; empty: <state>/service-token, made at the first start")
    body_bytes_max: int = _bytes(8 << 20, "a request's body")
    head_bytes_max: int = _bytes(16 << 10, "a request's line and headers", 1024, 1 << 20)
    upload_bytes_max: int = _bytes(1 << 30, "a library file")
    origins: tuple[str, ...] = _about((), "web pages of these origins may call (CORS), such as https://site.example")
    connections_max: int = _number(2000, "connections at once; the next are answered 503, or closed")
    keep_alive_s: float = _seconds(60.0, "silence between two requests of a connection")
    read_s: float = _seconds(10.0, "a whole request head, from its first byte")
    stall_s: float = _seconds(30.0, "a peer that takes or sends none of a body's bytes for so long is cut off")
    stop_grace_s: float = _seconds(3.0, "requests in flight at shutdown")


@frozen
class Tls:
    """The agents' door for other hosts (docs/protocol.md); without this table there is none."""

    certificate_file: str = field(metadata={"about": "PEM: jobd's certificate, and the chain up to what is pinned"})
    key_file: str = field(metadata={"about": "PEM: its key, without a password; readable by jobd only"})
    host: str = _about("0.0.0.0", "the address to listen on; agents' hosts must reach it")  # noqa: S104 - its purpose
    port: int = _number(8443, "the port; 0: any free one, written to <state>/tls-address", 0, 65535)
    strangers_max: int = _number(
        100, "connections at once that have not shown a token; then the one that came first is cut off", 1, 10_000
    )


@frozen
class Requests:
    """Deadlines and bounds of API requests."""

    deadline_s: float = _seconds(30.0, "a request that waits for nobody's code")
    analysis_s: float = _seconds(120.0, "a question to an agent: analysis, frames, files")
    long_poll_s_max: float = _seconds(300.0, "the longest `Prefer: wait`")
    follow_s: float = _seconds(10.0, "a followed log or file is looked at anew so often")
    answer_bytes_max: int = _bytes(256 << 20, "one answer of an agent")
    watchers_per_job_max: int = _number(100, "event streams of one job")
    event_interval_s: float = _seconds(0.1, "progress is pushed to a watcher at most so often")
    event_beat_s: float = _seconds(15.0, "an idle event stream says that it is there so often")
    events_s_max: float = _seconds(3600.0, "an event stream ends after so long; its client comes back and resumes")
    per_user_max: int = _number(256, "requests of one user at once, long polls and event streams included")
    page_max: int = _number(1000, "items on one page of a list", 1, 10_000)
    tokens_per_user_max: int = _number(100, "valid tokens of one user")
    token_s_max: float = _seconds(DAY_S, "the longest lifetime of a minted token", 365 * DAY_S)
    jobs_cached_max: int = _number(500, "jobs without an active run that are kept in memory")
    settle_s: float = _seconds(5.0, "a cancel's reply waits so long for the end to be confirmed")


@frozen
class Storage:
    """The store in the state directory."""

    retry_s: float = _seconds(1.0, "the pause after a failed commit")
    waiting_max: int = _number(100_000, "records that wait for a commit; from half of them on, new work is refused")
    reserve_bytes: int = _bytes(
        64 << 20, "room on its disk that is kept for the state of what runs; without it new work is refused", 0
    )
    flush_s: float = _seconds(5.0, "the last commit of a clean stop")


@frozen
class Config:
    """Everything."""

    state: str = field(metadata={"about": "jobd's own directory; one daemon at a time uses it"})
    codes: str = field(metadata={"about": "the directory of the codes' descriptions"})
    clusters: str = _about("", "the directory of the clusters' descriptions; empty: there are none")
    codes_prefix: str = _about("", "the Python prefix that {prefix} in them stands for; empty: jobd's own")
    tiers: dict[str, Tier] = field(
        factory=lambda: {"default": Tier()}, metadata={"about": "by name; users have the tier `default`"}
    )
    host: Host = Host()
    local: Local = Local()
    docker: Docker = Docker()
    agents: Agents = Agents()
    http: Http = Http()
    tls: Tls | None = None
    requests: Requests = Requests()
    store: Storage = Storage()

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
    """Read the file; raises CodecError that names file and field, or OSError. Relative paths are relative to it."""
    data = read_toml(path)
    here = path.resolve().parent
    for key in ("state", "codes", "clusters"):
        if isinstance(data.get(key), str) and data[key]:
            data[key] = str(here / data[key])
    if isinstance(tls := data.get("tls"), dict):
        for key in ("certificate_file", "key_file"):
            if isinstance(tls.get(key), str):
                tls[key] = str(here / tls[key])
    try:
        config: Config = codec.from_data(data, Config)
    except codec.CodecError as error:
        raise codec.CodecError(f"{path}: {error.field}", error.problem) from None
    return config


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as plain data; raises CodecError with the file's name."""
    content = path.read_bytes()
    if len(content) > CONFIG_BYTES_MAX:
        raise codec.CodecError(str(path), f"is larger than {CONFIG_BYTES_MAX} bytes")
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError:
        raise codec.CodecError(str(path), "is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise codec.CodecError(str(path), f"is not TOML: {error}") from None
