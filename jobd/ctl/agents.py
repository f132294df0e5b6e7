"""The commands about what the daemon holds: agents, hosts, pools, and its scope tree."""

import click

from jobd.client import Client
from jobd.ctl.command import YES, Checked, command, confirm, group
from schemas.ids import check_id, check_name
from schemas.views import AgentsView, AgentView, HostsView, HostView, PoolsView, TreeView

agent = group("agent", "One agent, by its id, which `jobctl agents` shows.")

host = group("host", "One host, by its name in the configuration.")

AGENT = click.argument("agent", type=Checked("agent", check_id))


@command()
def agents(client: Client) -> AgentsView:
    """List every agent: whose it is, whether it is linked, its runs, and why its start failed.

    \b
    jobctl agents
    """
    return client.agents()


@command(AGENT, of=agent)
def stop(client: Client, agent: str) -> AgentView:
    """End an agent's process; its runs go on, and whoever needs it has it started again.

    \b
    jobctl agent stop aq2x7abc3d
    """
    return client.stop_agent(agent)


@command(
    AGENT,
    click.option("--reason", required=True, help="How you know; is kept with every run that it ends."),
    YES,
    of=agent,
)
def forget(client: Client, agent: str, reason: str, yes: bool) -> AgentView:
    """Take an agent for gone, on your word: its runs end as `failed` and their slots are free.

    Only when its machine is lost for good: what still runs there runs beside what comes next. On a terminal it asks
    first.

    \b
    jobctl agent forget aq2x7abc3d --reason 'node7 was taken apart'
    """
    confirm(f"Does nothing of agent {agent} run any more?", yes)
    return client.forget_agent(agent, reason)


@command()
def hosts(client: Client) -> HostsView:
    """List the hosts: whether each can be reached, its slots, and what is on it.

    \b
    jobctl hosts
    """
    return client.hosts()


@command(
    click.argument("name", type=Checked("host", check_name)),
    click.option("--undo", is_flag=True, help="Open it for new work again."),
    of=host,
)
def drain(client: Client, name: str, undo: bool) -> HostView:
    """Start nothing new on a host; what runs there ends by itself, and warm agents retire when they are idle.

    \b
    jobctl host drain node7
    jobctl host drain node7 --undo
    """
    return client.drain(name, not undo)


@command()
def pools(client: Client) -> PoolsView:
    """Show the pools of slots: what is used of what there is, and how many wait.

    \b
    jobctl pools
    """
    return client.pools()


@command()
def tree(client: Client) -> TreeView:
    """Print the live cancel-scope tree, with what each node awaits.

    \b
    jobctl tree | grep alice
    """
    return client.tree()
