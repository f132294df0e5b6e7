"""The seam between the fleet and the places where agents run. One conformance suite runs over every backend.

A backend starts a process (container, remote process) for one agent and generation and hands back a *handle*: its own
words for the native thing, stored as text, by which it knows it again after a restart of jobd. It never talks to the
agent: agents call home.
"""

from pathlib import Path
from typing import Protocol

from attrs import field, frozen


class BackendError(Exception):
    """The place refused or failed; the text is for operators and, shortened, for the user whose agent it was."""


def foreign(handle: str, backend: str) -> BackendError:
    """The error for a handle that is not in this backend's own words: the site's backend was changed under agents."""
    return BackendError(f"{handle[:80]!r} is no handle of the {backend} backend")


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
