"""What the agent, its fork server and the runs' parents tell each other: small records, on disk and on one socket.

The files of a run's control directory outlive every process that wrote them, so each names what a later reader must
be able to check: a process is its pid, its start time and the boot it belongs to, never a pid alone. The run's code may
have written them as well: a reader must survive any content.
"""

import time

from attrs import field, frozen

from agents import procs
from schemas import codec
from schemas.codec import at_most, between
from schemas.link import AGE_S_MAX, Outcome

# --- in a run's control directory, in the order in which they are written -------------------------------------------

ORDER = "order.json"  # the Start, journaled
STOP = "stop.json"  # StopRequest, if anybody asked
CLAIM = "parent.json"  # Claim; made by link(2), so that one process only can make it
MAIN = "main.json"  # Main; the command runs
END = "end.json"  # End; no process of the run exists any more
DISK = "disk.json"  # DiskNote; only when its limit is near
LOG = "log"  # stdout and stderr

PID_MAX = (1 << 22) - 1


@frozen
class Moment:
    """An instant that can be aged after a restart: by CLOCK_BOOTTIME within one boot, else by the wall clock."""

    boot: str
    boottime_s: float
    wall_s: float

    @classmethod
    def now(cls) -> "Moment":
        """This instant."""
        return cls(procs.boot_id(), time.clock_gettime(time.CLOCK_BOOTTIME), time.time())

    def age_s(self) -> float:
        """How long ago it was; never negative, whatever was done to the wall clock."""
        now = Moment.now()
        age_s = now.boottime_s - self.boottime_s if now.boot == self.boot else now.wall_s - self.wall_s
        return max(0.0, age_s)


@frozen
class StopRequest:
    """The run is to end: SIGTERM, and SIGKILL after grace_s."""

    grace_s: float


@frozen
class End:
    """How the run ended. Once this is on disk, no process of the run exists."""

    outcome: Outcome
    at: Moment
    wall_s: float = field(default=0.0, validator=between(0, AGE_S_MAX))
    cpu_s: float = field(default=0.0, validator=between(0, 1e15))
    peak_memory_bytes: int = field(default=0, validator=between(0, 1 << 60))
    exit_code: int | None = None
    signal: int | None = None
    text: str = ""
    remark: str = ""


@frozen
class DiskNote:
    """What the run's parent says of the disk that the run takes, while it goes on and after its end."""

    warning: str = field(default="", validator=at_most(500))  # a sentence for people, while the limit is near
    noticed_over_bytes: int = 0  # beyond the limit when that was noticed
    left_over_bytes: int = 0  # and when the last process was gone


@frozen
class Claim:
    """The right to execute the run, taken once and for ever, usually by the run's parent.

    An agent that will not execute the run takes the claim itself, with the end that it decided on in `refusal`.
    """

    pid: int = field(validator=between(0, PID_MAX))
    start_ticks: int
    boot: str
    refusal: End | None = None


@frozen
class Main:
    """The run's main process, leader of its own session."""

    pid: int = field(validator=between(1, PID_MAX))
    start_ticks: int
    at: Moment


# --- between the agent and its fork server --------------------------------------------------------------------------

PACKET_BYTES_MAX = 128 * 1024  # below the kernel's usual limit for one packet


@frozen
class ForkRun:
    """Fork the parent of the run whose Start is journaled in `control`; answered with Forked and a pidfd."""

    control: str
    run_dir: str


@frozen
class ForkWorker:
    """Execute an analysis worker on the three pipes that come along; answered with Forked and a pidfd."""

    command: tuple[str, ...]
    environment: dict[str, str]
    directory: str


@frozen
class SweepRun:
    """Kill what is left of a run whose parent is dead, one pass; answered with Swept. `run` is job.serial."""

    run: str
    main: Main | None


@frozen
class Forked:
    """The process exists."""

    pid: int


@frozen
class Swept:
    """So many processes were still found, and sent SIGKILL."""

    found: int


@frozen
class Refused:
    """It could not be done; one clause for people."""

    text: str


Request = ForkRun | ForkWorker | SweepRun
Reply = Forked | Swept | Refused


def to_bytes(record: object) -> bytes:
    """A record as one line of JSON."""
    return codec.dumps(codec.to_data(record)).encode() + b"\n"
