"""The program of RemoteSite: jobd, whose agents are processes of this machine that live as on a remote Docker engine.

They have no sockets of their own, only the relay's in `doors` beside the state directory, and may call over TLS.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import attrs

from backends.base import AgentSpec
from backends.homes import _write
from backends.local import LocalBackend
from jobd import daemon
from jobd.__main__ import main
from jobd.agent import Agent
from jobd.config import Config
from jobd.gateway import UnixGateway
from jobd.hosts import Hosts, this_machine
from jobd.tls import TlsGateway
from schemas import codec
from schemas.setups import AgentSetup


class RelayedBackend(LocalBackend):
    def _prepare(self, spec: AgentSpec) -> None:
        super()._prepare(spec)
        path = spec.directory / "agent.json"
        if spec.token:
            setup: AgentSetup = codec.decode(path.read_bytes(), AgentSetup, 1 << 16)
            doors = str(spec.directory.parents[2] / "doors")
            _write(path, codec.dumps(codec.to_data(attrs.evolve(setup, doors=doors))), self._owner(spec))


class NoUnixGateway(UnixGateway):
    @asynccontextmanager
    async def doors(self, agent: Agent) -> AsyncGenerator[None, None]:
        yield


def relayed_hosts(config: Config, codes: Any) -> Hosts:
    local = hosts_of(config, codes)["local"].backend
    relayed = RelayedBackend(local.python, local.zipapp, local.uid_first, local.uid_count, local.stop_s)
    return this_machine(config, relayed)


hosts_of = daemon.hosts_of
daemon.hosts_of = relayed_hosts
daemon.UnixGateway = NoUnixGateway
daemon.TlsGateway = lambda config, agents, everyone, _: TlsGateway(config, agents, everyone, lambda _: True)

if __name__ == "__main__":
    main()
