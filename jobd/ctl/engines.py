"""What `jobctl doctor` looks at where agents are in Docker: each engine, the codes' images there, and, in a throw-away
container with the very options of an agent's, that what must not work does not."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import trio

from backends.base import AgentSpec, BackendError, Box
from backends.containers import creation
from backends.docker import DockerBackend
from jobd.codes import Code, Image
from jobd.config import Config
from jobd.ctl.rehearsal import Unwell
from jobd.hosting import hosts_of
from jobd.hosts import Host
from schemas.ids import new_id

PATIENCE_S = 60.0
MEMORY_BYTES = 64 << 20

# Writes a JSON list of what this container may do and must not.
TRIES = """
import ctypes, json, os
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
libc = ctypes.CDLL(None, use_errno=True)
found = []
def may(name, deed):
    try:
        if deed() is not False:
            found.append(name)
    except OSError:
        pass
if os.getuid() == 0: found.append("it is root")
if int(status["CapEff"], 16): found.append("it has capabilities")
if status.get("NoNewPrivs") != "1": found.append("it may gain privileges")
if status.get("Seccomp") != "2": found.append("no seccomp profile filters its system calls")
if sorted(os.listdir("/sys/class/net")) != ["lo"]: found.append("it has a network")
may("it can write into its image", lambda: os.open("/written", os.O_CREAT | os.O_WRONLY))
may("it can make device nodes", lambda: os.mknod("/tmp/node", 0o600 | 0o060000, os.makedev(8, 0)))
may("it can mount", lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0)
may("it can make user namespaces", lambda: libc.unshare(0x10000000) == 0)
may("it sees the engine's socket", lambda: os.path.exists("/var/run/docker.sock"))
may("it can write to the kernel's settings", lambda: os.open("/proc/sys/kernel/hostname", os.O_WRONLY))
os.write(1, json.dumps(found).encode() + b"\\n")
"""


def engine_checks(config: Config, codes: dict[str, Code]) -> Iterator[tuple[str, Callable[[], str]]]:
    """Name and check of everything about the engines; a check raises Unwell, BackendError or ConfigError."""
    for host in hosts_of(config, codes):
        yield f"host {host.name}", partial(trio.run, _engine, host)
        for image in {code.docker.image: code.docker for code in codes.values() if code.docker}.values():
            yield f"image {host.name}", partial(trio.run, _image, host, image)
            yield f"isolation {host.name}", partial(trio.run, _isolation, config, host, image)


async def _engine(host: Host) -> str:
    info = await _backend(host).engine.call("info")
    words = f"Docker {info['ServerVersion']}, {info['NCPU']} cores, cgroup v{info.get('CgroupVersion', '1')}"
    cores, memory_bytes = host.pool.capacity
    if cores > info["NCPU"] or memory_bytes > info["MemTotal"]:
        raise Unwell(f"{words}: it has less than its cores or memory_bytes say", "see [docker.hosts]")
    return words if info.get("LiveRestoreEnabled") else f"{words}; without live-restore its restart ends every run"


async def _image(host: Host, image: Image) -> str:
    try:
        return f"{image.image} is {await _backend(host).fetch(image.image, lambda _: None)}"
    except BackendError as error:
        raise Unwell(str(error), "see `pull` and `image_files` of [docker]") from None


async def _isolation(config: Config, host: Host, image: Image) -> str:
    said = await _tried(config, _backend(host), image)
    try:
        allowed = json.loads(said)
    except ValueError:
        problem = f"{image.image}: the self-test said {said[-300:]!r}"
        raise Unwell(problem, f"is {image.python} in it 3.10 or newer?") from None
    if allowed:
        raise Unwell(f"{image.image}: {', '.join(allowed)}", "see docs/docker.md")
    return f"{image.image}: what must not work in a container does not"


async def _tried(config: Config, backend: DockerBackend, image: Image) -> str:
    """What a container that is like an agent's, but for its program and mounts, has said."""
    box = Box(image.image, image.python, 1.0, MEMORY_BYTES)
    nowhere = Path("/nonexistent")
    spec = AgentSpec(new_id("a"), 1, "doctor", 0, nowhere, nowhere, "", 0.0, 0.0, box)
    options: dict[str, Any] = creation(backend.instance, spec, config.docker.uid_first, "", [], backend.hardening)
    options["command"] = ["-c", TRIES]
    created = await backend.engine.call("create_container", **options)
    try:
        with trio.fail_after(PATIENCE_S):
            await backend.engine.call("start", created["Id"])
            await backend.engine.run(lambda client: client.wait(created["Id"], timeout=PATIENCE_S))
            said: bytes = await backend.engine.call("logs", created["Id"])
    except trio.TooSlowError:
        problem = f"{image.image}: the self-test took longer than {PATIENCE_S:g} s"
        raise Unwell(problem, "is the machine overloaded?") from None
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + PATIENCE_S):
            await backend.engine.call("remove_container", created["Id"], force=True, v=True)
    return said.decode(errors="replace").strip()


def _backend(host: Host) -> DockerBackend:
    assert isinstance(host.backend, DockerBackend), "only Docker's hosts are looked at"
    return host.backend
