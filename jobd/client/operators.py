"""The calls of operators, below /v1/admin; the lists of jobs and tokens are in api.py, with those of users."""

from jobd.client.exchange import Exchange
from jobd.client.paths import named
from schemas.views import AgentsView, AgentView, HostsView, HostView, PoolsView, TokenView, TreeView


class OperatorCalls(Exchange):
    """For a client on the admin socket, or with an operator's token."""

    async def agents(self) -> AgentsView:
        """Every agent."""
        return await self._get(AgentsView, "GET", "/v1/admin/agents")

    async def stop_agent(self, agent: str) -> AgentView:
        """End an agent's process, its runs go on; raises UncertainError."""
        return await self._get(AgentView, "POST", f"/v1/admin/agents/{named('agent', agent)}/stop", repeat=False)

    async def forget_agent(self, agent: str, reason: str) -> AgentView:
        """Take an agent for gone, on the operator's word; raises UncertainError."""
        path = f"/v1/admin/agents/{named('agent', agent)}/forget"
        return await self._get(AgentView, "POST", path, repeat=False, json={"reason": reason})

    async def hosts(self) -> HostsView:
        """Every host."""
        return await self._get(HostsView, "GET", "/v1/admin/hosts")

    async def drain(self, host: str, draining: bool = True) -> HostView:
        """Start nothing new on a host, or again."""
        path = f"/v1/admin/hosts/{named('host', host)}/drain"
        return await self._get(HostView, "POST", path, json={"draining": draining})

    async def pools(self) -> PoolsView:
        """The pools of slots."""
        return await self._get(PoolsView, "GET", "/v1/admin/pools")

    async def tree(self) -> TreeView:
        """The live cancel-scope tree."""
        return await self._get(TreeView, "GET", "/v1/admin/tree")

    async def mint_operator(self, lifetime_s: float = 3600.0) -> TokenView:
        """An operator's token; raises UncertainError."""
        return await self._get(TokenView, "POST", "/v1/admin/tokens", repeat=False, json={"lifetime_s": lifetime_s})
