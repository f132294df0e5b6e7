"""jobd itself, whose backend starts no processes: hollow_agents.py calls home in their place. For crowds of agents."""

import sys
from pathlib import Path

import trio

from backends.base import AgentSpec
from jobd import daemon
from jobd.config import load
from jobd.hosts import this_machine


class HollowBackend:
    """See backends.base.Backend: everything is always there."""

    async def prepare(self, spec: AgentSpec) -> None:
        spec.directory.mkdir(parents=True, exist_ok=True)
        if spec.token:
            draft = spec.directory / "hello.new"
            draft.write_text(f"{spec.generation} {spec.token}")
            draft.rename(spec.directory / "hello")
        await trio.lowlevel.checkpoint()

    async def start(self, spec: AgentSpec) -> str:
        await trio.lowlevel.checkpoint()
        return spec.agent

    async def adopt(self, spec: AgentSpec) -> str | None:
        await trio.lowlevel.checkpoint()
        return spec.agent

    async def alive(self, handle: str) -> bool:
        await trio.lowlevel.checkpoint()
        return True

    async def stop(self, handle: str) -> None:
        await trio.lowlevel.checkpoint()

    async def log_tail(self, spec: AgentSpec) -> str:
        await trio.lowlevel.checkpoint()
        return ""


if __name__ == "__main__":
    daemon.hosts_of = lambda config, _codes: this_machine(config, HollowBackend())
    trio.run(daemon.serve, load(Path(sys.argv[1])))
