"""What is asked of the engine for an agent's container: everything that isolates and limits it, in one place.

Isolated by default: no network, no capabilities, a read-only root, the user's own uid, the user's own directory and
nothing else of the host. Memory has no swap behind it. docs/docker.md tells operators what each of these holds.
"""

from typing import Any

from attrs import frozen
from docker.types import DeviceRequest, HostConfig, LogConfig, Mount, Ulimit

from backends.base import AgentSpec, Box

API_VERSION = "1.41"
AGENT_DIR, USER_DIR = "/jobd/agent", "/jobd/user"
LABEL = "jobd"  # the prefix of our labels
CPU_PERIOD_US = 100_000
LOG_BYTES_MAX = "1m"


@frozen
class Hardening:
    """The site's limits for every container (jobd.toml, [docker])."""

    tmp_bytes: int
    processes: int
    open_files: int
    seccomp: str  # the text of a profile; empty: the engine's own


def name_of(instance: str, agent: str) -> str:
    """One container for each agent: the engine itself refuses a second one of the name."""
    return f"jobd-{instance}-{agent}"


def labels_of(instance: str, spec: AgentSpec) -> dict[str, str]:
    """By these a container is known again."""
    return {
        f"{LABEL}.instance": instance,
        f"{LABEL}.user": spec.user,
        f"{LABEL}.agent": spec.agent,
        f"{LABEL}.generation": str(spec.generation),
    }


def creation(
    instance: str, spec: AgentSpec, uid: int, zipapp: str, mounts: list[Mount], hardening: Hardening
) -> dict[str, Any]:
    """The arguments of `create_container`."""
    box = spec.box
    assert box is not None, "the fleet says what encloses an agent"
    return {
        "image": box.image,
        "name": name_of(instance, spec.agent),
        "labels": labels_of(instance, spec),
        "entrypoint": [box.python],
        "command": [zipapp, AGENT_DIR],
        "user": f"{uid}:{uid}",
        "hostname": "jobd",
        "working_dir": "/",
        "environment": {"LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"},
        "host_config": HostConfig(
            API_VERSION,
            network_mode=box.network or "none",
            mounts=mounts,
            read_only=True,
            tmpfs={"/tmp": f"rw,nosuid,nodev,size={hardening.tmp_bytes},mode=1777"},  # noqa: S108 - the container's own
            cap_drop=["ALL"],
            security_opt=["no-new-privileges", *([f"seccomp={hardening.seccomp}"] if hardening.seccomp else [])],
            ipc_mode="private",
            pids_limit=hardening.processes,
            ulimits=[
                Ulimit(name="nofile", soft=hardening.open_files, hard=hardening.open_files),
                Ulimit(name="core", soft=0, hard=0),
            ],
            shm_size=box.shm_bytes,
            init=True,
            log_config=LogConfig(type="json-file", config={"max-size": LOG_BYTES_MAX, "max-file": "1"}),
            device_requests=_gpus(box),
            **size(box),
        ),
    }


def size(box: Box) -> dict[str, Any]:
    """What a container may use, for its creation and for an update."""
    return {
        "mem_limit": box.memory_bytes,
        "memswap_limit": box.memory_bytes,  # the sum of memory and swap: no swap
        "cpu_period": CPU_PERIOD_US,
        "cpu_quota": int(box.cores * CPU_PERIOD_US),
    }


def bind(source: str, target: str, *, read_only: bool) -> Mount:
    """A directory or file of the host in the container."""
    return Mount(target=target, source=source, type="bind", read_only=read_only)


def _gpus(box: Box) -> list[DeviceRequest]:
    if box.gpu_ids:
        return [DeviceRequest(device_ids=list(box.gpu_ids), capabilities=[["gpu"]])]
    return [DeviceRequest(count=box.gpus, capabilities=[["gpu"]])] if box.gpus else []
