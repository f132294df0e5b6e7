"""From the configuration to the hosts that agents are on: this machine, or Docker engines."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from backends._ssh import Target
from backends.containers import Hardening
from backends.disks import SharedDisk
from backends.docker import DockerBackend
from backends.engine import Engine
from backends.images import Source
from backends.local import LocalBackend
from backends.slurm import SlurmBackend
from backends.volumes import DOORS, RELAY_DIR, VolumeDisk
from jobd.clusters import Cluster, Site
from jobd.codes import Code
from jobd.config import Config, ConfigError, DockerHost
from jobd.hosts import Host, Hosts, cluster_host, this_machine
from schemas.ids import new_id
from schemas.setups import Home, RelaySetup

SSH_PORT = 22


def hosts_of(config: Config, codes: Mapping[str, Code]) -> Hosts:
    """The Docker hosts, if any are configured, or else this machine; raises ConfigError."""
    if not config.docker.hosts:
        return this_machine(config, _local(config))
    instance = instance_of(config.directory)
    config.directory.chmod(0o711)  # the agents' uids pass through, and see nothing
    return Hosts([_docker(config, instance, name, host, codes) for name, host in config.docker.hosts.items()])


def cluster_hosts(config: Config, sites: Mapping[str, Site]) -> list[Host]:
    """The clusters, each a host of its own; raises ConfigError."""
    if sites and config.tls is None:
        raise ConfigError("clusters: agents there call home over TLS: set [tls]")
    taken = {"local", *config.docker.hosts} & set(sites)
    if taken:
        raise ConfigError(f"clusters: {', '.join(taken)} is the name of a host too")
    return [_cluster(config, site.cluster) for site in sites.values()]


def _cluster(config: Config, cluster: Cluster) -> Host:
    targets = []
    for node in cluster.login_nodes:
        host, _, port = node.partition(":")
        targets.append(Target(host, int(port or SSH_PORT), cluster.host_keys))

    def home() -> Home:
        certificates, port = _tls_door(config)
        return Home(cluster.home, port, cluster.home, certificates, cluster.proxy)

    backend = SlurmBackend(
        name=cluster.name,
        targets=tuple(targets),
        zipapp=_zipapp(config.local.zipapp, "local.zipapp"),
        home=home,
        slurm=cluster.slurm,
        directory=f"{cluster.directory}/{instance_of(config.directory)}",
        python=cluster.python,
        lonely_s=cluster.lonely_s,
    )
    return cluster_host(cluster.name, backend)


def _tls_door(config: Config) -> tuple[str, int]:
    """The certificates to trust, and the port."""
    assert config.tls is not None
    port = config.tls.port or int((config.directory / "tls-address").read_text().rpartition(":")[2])
    return Path(config.tls.certificate_file).read_text(), port


def instance_of(state: Path) -> str:
    """The name of this jobd on engines that others use too; made once, and kept with the state."""
    path = state / "instance"
    if not path.exists():
        path.write_text(new_id("i") + "\n")
    return path.read_text().strip()


def _docker(config: Config, instance: str, name: str, host: DockerHost, codes: Mapping[str, Code]) -> Host:
    docker = config.docker
    tls = (host.tls_ca, host.tls_cert, host.tls_key) if host.tls_cert else None
    for path in tls or ():
        if not os.access(path, os.R_OK):
            raise ConfigError(f"docker.hosts.{name}: {path} cannot be read")
    remote = host.url.startswith("tcp://")
    zipapp = _zipapp(docker.zipapp, "docker.zipapp")
    backend = DockerBackend(
        engine=Engine(host.url, docker.call_s, tls),
        disk=_volumes(config, instance, name, host, zipapp, codes) if remote else SharedDisk(zipapp),
        instance=instance,
        uid_first=docker.uid_first,
        uid_count=docker.uid_count,
        hardening=Hardening(docker.tmp_bytes, docker.processes, docker.open_files, _seccomp(docker.seccomp)),
        stop_s=config.agents.stop_s,
        ping_s=docker.ping_s,
        image_source=_image_source(config),
    )
    slots = host.cores, host.memory_bytes
    return Host(name, backend, slots, group=host.group, agents_max=host.agents_max, remote=remote)


def _volumes(
    config: Config, instance: str, name: str, host: DockerHost, zipapp: Path, codes: Mapping[str, Code]
) -> VolumeDisk:
    if config.tls is None or not host.home:
        raise ConfigError(f"docker.hosts.{name}: agents there need [tls], and `home`: where that is for them")
    image = next((code.docker for code in codes.values() if code.docker), None)
    if image is None:
        raise ConfigError(f"docker.hosts.{name}: no code has an image, and the relay there is started from one")

    def home() -> RelaySetup:
        certificates, port = _tls_door(config)
        return RelaySetup(host.home, port, host.home, certificates, f"{RELAY_DIR}/{DOORS}")

    relay_uid = config.docker.uid_first + config.docker.uid_count  # the first that is no user's
    return VolumeDisk(instance, zipapp, image.image, image.python, _image_source(config), relay_uid, home)


def _image_source(config: Config) -> Source:
    docker = config.docker
    return Source(Path(docker.image_files) if docker.image_files else None, docker.pull == "missing")


def _seccomp(path: str) -> str:
    if not path:
        return ""
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"docker.seccomp: {path}: {error}") from None


def _zipapp(path: str, name: str) -> Path:
    zipapp = Path(path) if path else Path(__file__).parent.parent / "build" / "jobd-agent.pyz"
    if not zipapp.exists():
        raise ConfigError(f"there is no agent at {zipapp}: run `make agent`, or set {name}")
    return zipapp


def _local(config: Config) -> LocalBackend:
    local = config.local
    if os.getuid() == 0 and local.uid_first is None and not local.allow_root:
        raise ConfigError(
            "jobd runs as root, and so would every user's code: set local.uid_first to the first uid of a range for "
            "the users' agents, or local.allow_root = true"
        )
    zipapp = _zipapp(local.zipapp, "local.zipapp")
    uid_first = local.uid_first if os.getuid() == 0 else None
    if uid_first is not None:
        config.directory.chmod(0o711)  # the agents' uids pass through, and see nothing
    return LocalBackend(local.python or sys.executable, zipapp, uid_first, local.uid_count, config.agents.stop_s)
