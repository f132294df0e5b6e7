"""The seam between the fleet and the places where agents run. One conformance suite runs over every backend.

A backend starts a process (container, remote process) for one agent and generation and hands back a *handle*: its own
words for the native thing, stored as text, by which it knows it again after a restart of jobd. It never talks to the
agent: agents call home.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol, runtime_checkable

from attrs import field, frozen


class BackendError(Exception):
    """The place refused or failed; the text is for operators and, shortened, for the user whose agent it was."""


class HostUnreachable(BackendError):
    """The place cannot be asked now, so nothing is known of what runs there; it may all go on."""


class LoginError(BackendError):
    """A cluster did not let the user in, or the agent could not be brought there. `code` is stable (docs/slurm.md);
    neither it nor the text ever holds a secret."""

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code


def foreign(handle: str, backend: str) -> BackendError:
    """The error for a handle that is not in this backend's own words: the site's backend was changed under agents."""
    return BackendError(f"{handle[:80]!r} is no handle of the {backend} backend")


@frozen
class Box:
    """What encloses an agent and its run: what it is made from, and all that they may use together."""

    image: str
    python: str  # the interpreter in the image, 3.10 or newer
    cores: float
    memory_bytes: int
    network: str = ""  # empty: none at all
    gpus: int = 0  # how many, any of them; -1: all
    gpu_ids: tuple[str, ...] = ()  # or exactly these
    shm_bytes: int = 64 << 20


@frozen
class Epitaph:
    """Why something that ran is gone, as far as its place can tell: a cause's code, and a clause for people."""

    code: str
    text: str


@frozen
class AgentSpec:
    """What a backend needs to know of an agent. `directory` is the agent's own (sockets, token, setup, log)."""

    agent: str
    generation: int
    user: str
    user_number: int
    directory: Path
    root: Path
    token: str = field(repr=False)
    lonely_s: float
    silence_s: float
    box: Box | None = None  # for a backend that encloses


@frozen
class Credentials:
    """What a user shows to a cluster; kept until the session is open, and then nowhere."""

    username: str
    password: str = field(default="", repr=False)
    code: str = field(default="", repr=False)  # the one-time code
    key: str = field(default="", repr=False)  # a private key, OpenSSH or PEM
    passphrase: str = field(default="", repr=False)  # of the key


class Backend(Protocol):
    """Start, find again and stop agents. Calls may be repeated and cut off at any await; each is idempotent."""

    async def prepare(self, spec: AgentSpec) -> None:
        """Make the directories and write setup and token, so that sockets can be opened and the agent can start."""

    async def start(self, spec: AgentSpec) -> str:
        """Make sure that this generation, and no older one, runs; returns its handle. Raises BackendError."""

    async def adopt(self, spec: AgentSpec) -> str | None:
        """The handle of the process that runs for this agent, if there is one, whatever jobd remembers."""

    async def alive(self, handle: str) -> bool:
        """Whether the thing of this handle still runs; raises BackendError when that cannot be known, as it cannot
        for a handle of another backend."""

    async def stop(self, handle: str) -> None:
        """End the agent (not its runs, where they outlive it) and return when it is gone; one that is gone is fine.
        Raises BackendError when it does not end, and for a handle of another backend."""

    async def log_tail(self, spec: AgentSpec) -> str:
        """The last lines that the agent has logged, for an error's text."""


@runtime_checkable
class Enclosure(Protocol):
    """What a backend can do besides when each agent is enclosed together with its run: it sees from outside what runs
    there, so the agent's word is not needed for the proof of an end. A handle's death ends all that was enclosed."""

    async def fetch(self, image: str, tell: Callable[[str], None]) -> str:
        """Have the image there; `tell` hears how far that is. Returns its digest; raises BackendError."""

    async def fit(self, handle: str, box: Box) -> None:
        """Before a run: give the enclosure the size of this box, and note what runs in it now as the agent's own."""

    async def clear(self, handle: str) -> bool:
        """After a run: whether nothing is left but what was the agent's own. False too when that was not noted."""

    async def epitaph(self, handle: str) -> Epitaph:
        """Why this agent, which does not live any more, has ended."""

    async def until_lost(self, found: Callable[[], None]) -> None:
        """Call `found` when the place can be reached; raise HostUnreachable when it cannot, or cannot any more."""


@runtime_checkable
class Portal(Protocol):
    """What a backend has besides when its place lets nobody in without a user's own credentials. Outside of the user's
    session every call for an agent of that user raises HostUnreachable."""

    def session(
        self, user: str, credentials: Credentials, tell: Callable[[str], None]
    ) -> AbstractAsyncContextManager[None]:
        """Inside it, this user's agents can be started there. `tell` hears the stages; raises LoginError."""
