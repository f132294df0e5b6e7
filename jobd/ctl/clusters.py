"""The commands about clusters: what there is, and a user's login there."""

from pathlib import Path

import click

from jobd.client import Client
from jobd.ctl import show
from jobd.ctl.command import NAME, USER, Said, command
from jobd.ctl.views import view
from schemas.clusterviews import ClustersView, LoginView

CLUSTER = click.argument("cluster", type=NAME)


@command()
def clusters(client: Client) -> ClustersView:
    """List the clusters that the site offers, with what a run may ask of each partition.

    \b
    jobctl clusters
    """
    return client.clusters()


@command(
    USER,
    CLUSTER,
    click.option("--username", required=True, help="The user's name at the cluster."),
    click.option("--key", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="A private key's file."),
    click.option("--code/--no-code", default=False, show_default=True, help="Ask for a one-time code too."),
)
def login(client: Client, user: str, cluster: str, username: str, key: Path | None, code: bool) -> LoginView:
    """Log a user in to a cluster; asks for what must stay secret, without echo.

    \b
    jobctl login alice hpc --username alice42 --code
    jobctl login alice hpc --username alice42 --key ~/.ssh/id_ed25519
    """
    password = passphrase = ""
    if key is None:
        password = click.prompt("Password", hide_input=True, err=True)
    else:
        passphrase = click.prompt("Passphrase (empty: none)", hide_input=True, err=True, default="", show_default=False)
    return client.login(
        user,
        cluster,
        username,
        password=password,
        code=click.prompt("One-time code", hide_input=True, err=True) if code else "",
        key=key.read_text() if key else "",
        passphrase=passphrase,
    )


@command(USER, CLUSTER)
def logged(client: Client, user: str, cluster: str) -> LoginView:
    """Show how a user's login at a cluster stands.

    \b
    jobctl logged alice hpc
    """
    return client.logged(user, cluster)


@command(USER, CLUSTER)
def logout(client: Client, user: str, cluster: str) -> Said:
    """End a user's login at a cluster; what runs there goes on, unseen until the next.

    \b
    jobctl logout alice hpc
    """
    client.logout(user, cluster)
    return Said(f"{user} is logged out of {cluster}", {"user": user, "cluster": cluster})


@view.register
def _(offered: ClustersView) -> None:
    rows = (
        (
            *(cluster.name, name, round(part.run_s_max), part.nodes_max, part.cores_per_node),
            *(part.memory_per_node_bytes, part.gpus_per_node, cluster.codes, cluster.title),
        )
        for cluster in offered.clusters
        for name, part in cluster.partitions.items()
    )
    headers = ("CLUSTER", "PARTITION", "RUN_S", "NODES", "CORES", "MEMORY_BYTES", "GPUS", "CODES", "TITLE")
    show.table(headers, rows)


@view.register
def _(login: LoginView) -> None:
    show.line((login.cluster, "bold"), f"  {login.state}{login.stage and f': {show.flat(login.stage)}'}")
    if login.failure:
        show.line((f"{login.failure.reason}: {show.flat(login.failure.text)}", "red"))
    known = {"username": login.username or None, "since": login.since, "unheard_s": login.unheard_s}
    show.fields(**{name: value for name, value in known.items() if value is not None})
