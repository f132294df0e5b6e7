"""The clusters that the site offers: each is a TOML file that says how to log in there, what a run may ask for, and
where the codes are. docs/slurm.md tells how to write one; deploy/clusters/ has examples.

A code is offered on a cluster that has a [codes.<name>] for it, in mode batch: its own description, whose placeholders
{prefix} and {here} stand for what that table says.
"""

import math
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from attrs import evolve, field, frozen

from jobd.codes import Code, Paths, load_code
from jobd.config import read_toml
from jobd.errors import Invalid
from schemas import codec
from schemas.api import BatchRequest
from schemas.codec import at_most, between, checked, refuse
from schemas.ids import check_name
from schemas.link import Batch
from schemas.setups import Slurm

MINUTE_S = 60
SPARE_S = 60.0  # a run's own parent ends it so long before the scheduler would
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,:=&|*\[\]@-]{0,127}")  # of a directive's value; never an option


@frozen
class Partition:
    """What one job may ask of a partition, at most."""

    run_s_max: float = field(validator=between(120, 366 * 86400))
    nodes_max: int = field(default=1, validator=between(1, 1 << 20))
    cores_per_node: int = field(default=1, validator=between(1, 1 << 20))
    memory_per_node_bytes: int = field(default=4 << 30, validator=between(1 << 20, 1 << 50))
    gpus_per_node: int = field(default=0, validator=between(0, 1024))


@frozen
class SiteCode:
    """Where a code is at this site."""

    prefix: str = "/usr"  # what {prefix} stands for
    here: str = ""  # what {here} stands for
    setup: tuple[str, ...] = field(default=(), validator=at_most(32))  # lines of shell: module load ...
    container: tuple[str, ...] = ()  # the command's prefix: ("apptainer", "exec", "/images/code.sif")


@frozen
class Size:
    """Of a run: cores for each task, memory for each node, wall time."""

    cores: int
    memory_bytes: int
    run_s: float


@frozen
class Cluster:
    """One cluster with Slurm."""

    name: str = field(validator=checked(check_name))
    title: str
    login_nodes: tuple[str, ...] = field(validator=at_most(16))  # name or name:port; one that answers is used
    host_keys: tuple[str, ...] = field(validator=at_most(64))  # theirs: "ssh-ed25519 AAAA..."
    home: str  # the name or address by which the login nodes reach jobd's [tls] port
    partitions: dict[str, Partition]  # the first is used when a run names none
    proxy: str = ""  # host:port of an HTTP proxy on the way there
    directory: str = "~/.jobd"  # on a file system that the compute nodes share; $VARIABLES are the site's
    python: str = "python3"  # 3.10 or newer, on all nodes
    accounts: tuple[str, ...] = ()  # that a run may name; the first is used when it names none
    qos: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    directives: tuple[str, ...] = field(default=(), validator=at_most(32))  # of sbatch, for every run
    launcher: tuple[str, ...] = ("srun",)  # in front of a command of several tasks
    setup: tuple[str, ...] = field(default=(), validator=at_most(32))  # lines of shell in front of every run
    warn_signal: int = field(default=0, validator=between(0, 64))
    warn_s: float = field(default=0.0, validator=between(0, 86400))
    runs_max: int = field(default=10, validator=between(1, 1000))  # active ones of one user
    login_s: float = field(default=60.0, validator=between(1, 600))  # from the connection until the agent calls home
    lonely_s: float = field(default=7 * 86400.0, validator=between(60, 366 * 86400))  # an idle agent waits for jobd
    slurm: Slurm = field(factory=Slurm)
    codes: dict[str, SiteCode] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        for name in ("login_nodes", "host_keys", "partitions"):
            if not getattr(self, name):
                refuse(name, "must not be empty")
        for name in ("accounts", "qos", "constraints"):
            for value in getattr(self, name):
                if not _WORD.fullmatch(value):
                    refuse(name, f"has {value!r}, which is no such name")

    def run_s_max(self, partition: str) -> float:
        """The wall time that a partition (empty: the first) allows; raises Invalid."""
        return self._partition(partition)[1].run_s_max

    def check(self, ask: BatchRequest, size: Size) -> None:
        """Whether the site takes such a run; raises Invalid that names field and limit."""
        name, partition = self._partition(ask.partition)
        tasks = math.ceil(ask.tasks / ask.nodes)  # on the fullest node
        for part, wanted, most, unit in (
            ("batch.nodes", ask.nodes, partition.nodes_max, "nodes"),
            ("batch.tasks", tasks * size.cores, partition.cores_per_node, "cores on a node"),
            ("batch.gpus_per_node", ask.gpus_per_node, partition.gpus_per_node, "GPUs on a node"),
            ("resources.memory_bytes", size.memory_bytes, partition.memory_per_node_bytes, "bytes of memory on a node"),
            ("limits.run_s", size.run_s, partition.run_s_max, "seconds"),
        ):
            if wanted > most:
                raise Invalid(f"'{name}' of '{self.name}' gives at most {most:g} {unit}, not {wanted:g}.", field=part)
        if ask.tasks < ask.nodes:
            raise Invalid(f"{ask.tasks} tasks cannot be on {ask.nodes} nodes.", field="batch.tasks")
        for part in ("account", "qos", "constraint"):
            offered, value = self._offered(part), getattr(ask, part)
            if value and value not in offered:
                known = ", ".join(offered) or "none to choose"
                raise Invalid(f"'{self.name}' has {known}.", field=f"batch.{part}")

    def batch(self, ask: BatchRequest, code: str, size: Size) -> Batch:
        """How such a run, which was checked, is submitted."""
        name, partition = self._partition(ask.partition)
        minutes = math.ceil(min(size.run_s + SPARE_S, partition.run_s_max) / MINUTE_S)
        words = {
            "partition": name,
            "nodes": ask.nodes,
            "ntasks": ask.tasks,
            "cpus-per-task": size.cores,
            "mem": f"{size.memory_bytes >> 20}M",
            "time": minutes,
            "gpus-per-node": ask.gpus_per_node or "",
            "account": ask.account or next(iter(self.accounts), ""),
            "qos": ask.qos or next(iter(self.qos), ""),
            "constraint": ask.constraint,
        }
        return Batch(
            directives=(*(f"--{key}={value}" for key, value in words.items() if value), *self.directives),
            setup=(*self.setup, *self.codes[code].setup),
            python=self.python,
            warn_signal=self.warn_signal,
            warn_s=self.warn_s,
        )

    def command(self, ask: BatchRequest, code: str, command: tuple[str, ...]) -> tuple[str, ...]:
        """The code's command as it is executed there: a launcher where there are several tasks, then its container."""
        launcher = self.launcher if ask.tasks > 1 else ()
        return (*launcher, *self.codes[code].container, *command)

    def _partition(self, name: str) -> tuple[str, Partition]:
        name = name or next(iter(self.partitions))
        if name not in self.partitions:
            raise Invalid(f"'{self.name}' has the partitions {', '.join(self.partitions)}.", field="batch.partition")
        return name, self.partitions[name]

    def _offered(self, part: str) -> tuple[str, ...]:
        return {"account": self.accounts, "qos": self.qos, "constraint": self.constraints}[part]


@frozen
class Site:
    """A cluster, and the codes as they are there."""

    cluster: Cluster
    codes: dict[str, Code]


def load_clusters(directory: Path, codes: Path) -> dict[str, Site]:
    """Every *.toml of the directory, by name; raises CodecError that names file and field."""
    if not directory.is_dir():
        raise codec.CodecError("clusters", f"{directory} is not a directory")
    sites: dict[str, Site] = {}
    for path in sorted(directory.glob("*.toml")):
        site = _load(path, codes)
        if site.cluster.name in sites:
            raise codec.CodecError(str(path), f"describes '{site.cluster.name}', which another file describes too")
        sites[site.cluster.name] = site
    return sites


def _load(path: Path, codes: Path) -> Site:
    try:
        cluster: Cluster = codec.from_data(read_toml(path), Cluster)
    except codec.CodecError as error:
        raise codec.CodecError(f"{path}: {error.field}", error.problem) from None
    return Site(cluster, _codes(path, cluster.codes, codes))


def _codes(path: Path, offered: Mapping[str, SiteCode], codes: Path) -> dict[str, Code]:
    found = {}
    for described in sorted(codes.glob("*.toml")):
        code = load_code(described, partial(_paths_of, offered))
        if code.name not in offered:
            continue
        if "batch" not in code.modes:
            raise codec.CodecError(f"{path}: codes.{code.name}", f"{described} has no mode batch")
        found[code.name] = evolve(code, docker=None)
    for name in offered:
        if name not in found:
            raise codec.CodecError(f"{path}: codes.{name}", "is not described by the site's codes")
    return found


def _paths_of(offered: Mapping[str, SiteCode], code: Code) -> Paths:
    there = offered.get(code.name, SiteCode())
    return Paths(there.prefix, there.here)
