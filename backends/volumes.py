"""A host elsewhere, where nothing of ours can be mounted: volumes that are filled through the engine, and a relay.

The zipapp is in a volume named by its contents; each user has a volume for good; an agent's setup and token are in a
volume that goes with its container. Agents have no network: they call home through the sockets of one relay container
(agents/relay.py), which joins them to jobd's TLS port. The relay knows no secret.
"""

import hashlib
import io
import logging
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import define, field
from docker.types import HostConfig, LogConfig, Mount

from backends.base import AgentSpec, BackendError
from backends.containers import AGENT_DIR, API_VERSION, LABEL, LOG_BYTES_MAX, USER_DIR
from backends.disks import setup_of
from backends.engine import Engine, Missing
from backends.images import Source, fetch
from schemas.codec import dumps, to_data
from schemas.setups import RelaySetup

CODE_DIR, RELAY_DIR = "/jobd/code", "/jobd/relay"
HOME, DOORS = "home", "doors"  # in the volumes of a user and of the relay, each its owner's
RELAY_MEMORY_BYTES = 256 << 20
RELAY_PROCESSES = 64

log = logging.getLogger(__name__)


@define
class VolumeDisk:
    """See backends.disks.Disk. `home` says where the host finds jobd's TLS port, once that is known."""

    instance: str
    zipapp: Path
    image: str  # for the relay: any of the codes'
    python: str
    image_source: Source
    relay_uid: int
    home: Callable[[], RelaySetup]
    zipapp_path: str = field(default=f"{CODE_DIR}/agent.pyz", init=False)
    _digest: str = field(default="", init=False)

    async def ready(self, engine: Engine) -> None:
        """The zipapp's volume is filled and the relay runs, with its present setup."""
        setup = dumps(to_data(self.home()))
        mark = hashlib.sha256(f"{setup} {self._code_volume}".encode()).hexdigest()
        name = f"jobd-{self.instance}-relay"
        with suppress(Missing):
            found = await engine.call("inspect_container", name)
            if found["State"]["Running"] and (found["Config"]["Labels"] or {}).get(f"{LABEL}.relay") == mark:
                return
            await engine.call("remove_container", name, force=True, v=True)
        log.info("starting the relay %s", name)
        await fetch(engine, self.image, self.image_source, log.info)
        created = await engine.call("create_container", **self._relay(name, mark))
        identity = created["Id"]
        for directory, content in (
            (CODE_DIR, _file("agent.pyz", self.zipapp.read_bytes(), 0, 0o444)),
            (RELAY_DIR, _directory(DOORS, self.relay_uid, 0o755)),
            (AGENT_DIR, _file("relay.json", setup.encode(), self.relay_uid)),
        ):
            await engine.call("put_archive", identity, directory, content)
        await engine.call("start", identity)

    async def prepare(self, spec: AgentSpec, uid: int) -> None:
        """Nothing can be made without a container."""

    def mounts(self, spec: AgentSpec) -> list[Mount]:
        """Volumes, made by the engine with the container."""
        return [
            _volume(self._code_volume, CODE_DIR, read_only=True),
            _volume(f"jobd-{self.instance}-relay", RELAY_DIR, read_only=True),
            _volume(f"jobd-{self.instance}-user-{spec.user}", USER_DIR),
            _volume(None, AGENT_DIR),
        ]

    async def fill(self, engine: Engine, identity: str, spec: AgentSpec, uid: int) -> None:
        """Setup and token, which the user reads and cannot change; the user's directory is the user's own."""
        if not spec.token:
            raise BackendError("its token is not known any more")
        setup = dumps(to_data(setup_of(spec, f"{USER_DIR}/{HOME}", f"{RELAY_DIR}/{DOORS}")))
        for directory, content in (
            (AGENT_DIR, _file("agent.json", setup.encode(), uid)),
            (AGENT_DIR, _file("token", spec.token.encode(), uid)),
            (USER_DIR, _directory(HOME, uid, 0o700)),
        ):
            await engine.call("put_archive", identity, directory, content)

    @property
    def _code_volume(self) -> str:
        if not self._digest:
            self._digest = hashlib.sha256(self.zipapp.read_bytes()).hexdigest()
        return f"jobd-{self.instance}-code-{self._digest[:16]}"

    def _relay(self, name: str, mark: str) -> dict[str, Any]:
        return {
            "image": self.image,
            "name": name,
            "labels": {f"{LABEL}.instance": self.instance, f"{LABEL}.relay": mark},
            "entrypoint": [self.python],
            "command": [self.zipapp_path, "--relay", f"{AGENT_DIR}/relay.json"],
            "user": f"{self.relay_uid}:{self.relay_uid}",
            "host_config": HostConfig(
                API_VERSION,
                network_mode="bridge",
                mounts=[
                    _volume(self._code_volume, CODE_DIR),
                    _volume(f"jobd-{self.instance}-relay", RELAY_DIR),
                    _volume(None, AGENT_DIR),
                ],
                read_only=True,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                mem_limit=RELAY_MEMORY_BYTES,
                memswap_limit=RELAY_MEMORY_BYTES,
                pids_limit=RELAY_PROCESSES,
                init=True,
                restart_policy={"Name": "always"},
                log_config=LogConfig(type="json-file", config={"max-size": LOG_BYTES_MAX, "max-file": "1"}),
            ),
        }


def _volume(name: str | None, target: str, *, read_only: bool = False) -> Mount:
    """A named volume, or one that goes with its container."""
    return Mount(target=target, source=name, type="volume", read_only=read_only, no_copy=True)


def _file(name: str, content: bytes, uid: int, mode: int = 0o400) -> bytes:
    """A tar of one file that its owner reads and, because the directory is root's, cannot replace."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.uid, info.gid = len(content), mode, uid, uid
    return _tar(info, content)


def _directory(name: str, uid: int, mode: int) -> bytes:
    """A tar of one directory. The root of a volume stays root's: the engine does not change its owner (measured)."""
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.uid, info.gid = tarfile.DIRTYPE, mode, uid, uid
    return _tar(info, b"")


def _tar(info: tarfile.TarInfo, content: bytes) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        tar.addfile(info, io.BytesIO(content))
    return target.getvalue()
