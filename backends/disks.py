"""How an agent's container gets its directories: from the disk that jobd shares with the engine."""

from pathlib import Path
from typing import Protocol

import trio
from attrs import frozen
from docker.types import Mount

from backends import homes
from backends.base import AgentSpec
from backends.containers import AGENT_DIR, USER_DIR, bind
from backends.engine import Engine
from schemas.setups import AgentSetup

ZIPAPP = "/jobd/agent.pyz"


class Disk(Protocol):
    """The way of directories and files into the containers of one engine."""

    @property
    def zipapp_path(self) -> str:
        """In a container."""

    async def ready(self, engine: Engine) -> None:
        """Whatever agents on this engine need besides is there; repeated as long as the engine is watched."""

    async def prepare(self, spec: AgentSpec, uid: int) -> None:
        """Before the start: what can be made without a container."""

    def mounts(self, spec: AgentSpec) -> list[Mount]:
        """What is mounted into the agent's container."""

    async def fill(self, engine: Engine, identity: str, spec: AgentSpec, uid: int) -> None:
        """Between the container's creation and its start: what cannot be made without it."""


def setup_of(spec: AgentSpec, root: str = USER_DIR, doors: str = "") -> AgentSetup:
    """What an agent in a container reads at its start."""
    return AgentSetup(
        agent=spec.agent,
        generation=spec.generation,
        root=root,
        silence_s=spec.silence_s,
        lonely_s=spec.lonely_s,
        inherits=True,
        sweeps_ipc=True,
        doors=doors,
    )


@frozen
class SharedDisk:
    """The agent's own directory (sockets, token, setup), its user's and the zipapp are bind-mounted."""

    zipapp: Path

    @property
    def zipapp_path(self) -> str:
        """In a container."""
        return ZIPAPP

    async def ready(self, engine: Engine) -> None:
        """Nothing is needed besides."""

    async def prepare(self, spec: AgentSpec, uid: int) -> None:
        """Make the directories and, for a new generation, write setup and token."""
        try:
            await trio.to_thread.run_sync(homes.prepare, spec, uid, setup_of(spec))
        except OSError as error:
            raise homes.refused(error) from None

    def mounts(self, spec: AgentSpec) -> list[Mount]:
        """Directories, because a socket's file is dead once its listener is made anew."""
        return [
            bind(str(spec.directory.absolute()), AGENT_DIR, read_only=True),
            bind(str(self.zipapp.absolute()), ZIPAPP, read_only=True),
            bind(str(spec.root.absolute()), USER_DIR, read_only=False),
        ]

    async def fill(self, engine: Engine, identity: str, spec: AgentSpec, uid: int) -> None:
        """Everything is there."""
