"""The replies about clusters and logins there; see views.py for the others."""

from typing import Literal

from attrs import frozen

from schemas.codec import Growing


@frozen
class PartitionView(Growing):
    """What one run may ask of a partition, at most."""

    run_s_max: float
    nodes_max: int
    cores_per_node: int
    memory_per_node_bytes: int
    gpus_per_node: int


@frozen
class ClusterView(Growing):
    """A cluster: where a run in mode batch may go, and what it may name."""

    name: str
    title: str
    partitions: dict[str, PartitionView]  # the first is used when a run names none
    accounts: tuple[str, ...]
    qos: tuple[str, ...]
    constraints: tuple[str, ...]
    codes: tuple[str, ...]
    runs_max: int  # active ones of one user


@frozen
class ClustersView(Growing):
    """The clusters that the site offers."""

    clusters: tuple[ClusterView, ...]


@frozen
class FailureView(Growing):
    """Why the last attempt failed."""

    reason: str
    text: str


@frozen
class LoginView(Growing):
    """How the user's login at a cluster stands. `ready`: the agent is there; `away`: nothing is heard of it since
    `unheard_s` seconds, and what runs there goes on; `none`: log in to start anything."""

    cluster: str
    state: Literal["none", "connecting", "ready", "away"]
    username: str = ""
    stage: str = ""
    since: str | None = None  # RFC 3339; of the last login, as far as this jobd remembers
    age_s: float | None = None
    unheard_s: float | None = None
    failure: FailureView | None = None
