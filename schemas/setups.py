"""What an agent, or a relay, is told when it is started, before it has a link; and what it answers to its starter.
docs/protocol.md tells the story."""

from attrs import field, frozen

from schemas.codec import at_most, between, checked
from schemas.ids import check_id
from schemas.link import SERIAL_MAX


@frozen
class Home:
    """Where an agent that has no sockets of its own reaches jobd's TLS port."""

    host: str = field(validator=at_most(255))
    port: int = field(validator=between(1, 65535))
    server_name: str = field(validator=at_most(255))  # jobd's certificate must be for this name or address
    certificates: str = field(validator=at_most(64 * 1024))  # PEM; jobd's must be one of these or come from one
    proxy: str = field(default="", validator=at_most(255))  # host:port of an HTTP proxy that takes CONNECT


@frozen
class Slurm:
    """How an agent on a cluster's login node uses the scheduler."""

    poll_s: float = field(default=2.0, validator=between(0.1, 3600))  # between two looks while something changes
    poll_s_max: float = field(default=30.0, validator=between(0.1, 3600))  # and while nothing does
    command_s: float = field(default=20.0, validator=between(0.1, 3600))  # one that takes longer counts as failed
    settle_s: float = field(default=15.0, validator=between(0.1, 3600))  # a submit may yet appear for so long
    vanish_s: float = field(default=120.0, validator=between(0.1, 86400))  # unknown to all for so long: it is gone


@frozen
class AgentSetup:
    """agent.json in the agent's own directory, beside `token`, `control.sock` and `bulk.sock`."""

    agent: str = field(validator=checked(check_id))
    generation: int
    root: str  # the user's directory: <root>/<job id>/<serial>/ are run directories, <root>/.jobd/ is the agent's
    reconnect_s_max: float = 1.0
    silence_s: float = 30.0  # a link without a Beat for so long is closed and dialled anew
    lonely_s: float = 600.0  # an agent without jobd and without runs for so long exits
    outbox_facts_max: int = 10_000
    log_tail_bytes: int = 2000
    sweeps_ipc: bool = False  # it is alone in its container: what a run leaves in shared memory is removed
    inherits: bool = False  # codes and workers get the agent's own environment too: its image's, in a container
    # The directory of `control.sock` and `bulk.sock`, where a relay has made them; empty: the agent's own.
    doors: str = ""
    home: Home | None = None  # it has no sockets and no token file: it calls home over TLS
    slurm: Slurm | None = None  # its runs are submitted


@frozen
class Arrival:
    """What an agent that was started by a command over SSH says there when it lives; its Hello is for jobd."""

    host: str = field(validator=at_most(256))
    boot: str = field(validator=at_most(64))
    pid: int = field(validator=between(1, 1 << 22))
    start_ticks: int = field(validator=between(0, SERIAL_MAX))
    python: str = field(validator=at_most(64))
    sbatch: bool  # it finds the scheduler's commands


@frozen
class RelaySetup:
    """The configuration file of a relay: it joins unix sockets on its host to jobd's TLS port, for all agents there."""

    host: str
    port: int = field(validator=between(1, 65535))
    server_name: str  # jobd's certificate must be for this name or address
    certificates: str = field(validator=at_most(64 * 1024))  # PEM; jobd's must be one of these or come from one
    directory: str  # of `control.sock` and `bulk.sock`, and only the relay may write there
    connections_max: int = field(default=4000, validator=between(1, 100_000))
    connections_per_uid_max: int = field(default=256, validator=between(1, 100_000))
    first_byte_s: float = field(default=5.0, validator=between(0.01, 3600))  # from an agent; jobd is dialled then
    connect_s: float = field(default=8.0, validator=between(0.01, 3600))  # TCP and TLS
    stall_s: float = field(default=150.0, validator=between(0.01, 86400))  # no byte either way
