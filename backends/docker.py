"""Agents in Docker containers: isolated, limited, one for each agent, found again by name and labels.

A container encloses an agent together with its run, so it is an Enclosure: that nothing is left of a run is seen from
outside, by the engine. Its directories come by a Disk: mounted from one that jobd shares with the engine (disks.py), or
volumes (volumes.py). The container's root process is docker-init, which ends with its child: an agent
that is killed takes its container along.
"""

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import trio
from attrs import define, field

from backends import homes, images
from backends.base import AgentSpec, BackendError, Box, Epitaph, foreign
from backends.containers import (
    LABEL,
    Hardening,
    creation,
    labels_of,
    name_of,
    size,
)
from backends.disks import Disk
from backends.engine import Engine, Missing, Taken

LOG_LINES = 40
LOG_TAIL_BYTES = 2000
HANDLE_PREFIX = "docker."
LOOKS_MAX = 40
LOOK_PAUSE_S = 0.1

log = logging.getLogger(__name__)


@define
class DockerBackend:
    """See backends.base.Backend and Enclosure. A handle is 'docker.' and the container's id."""

    engine: Engine
    disk: Disk
    instance: str
    uid_first: int
    uid_count: int
    hardening: Hardening
    stop_s: float
    ping_s: float
    image_source: images.Source
    _own: dict[str, frozenset[str]] = field(factory=dict, init=False)  # the agent's own processes, by handle
    _sizes: dict[str, Box] = field(factory=dict, init=False)  # what a container was given, by handle

    # --- Backend ----------------------------------------------------------------------------------------------------

    async def prepare(self, spec: AgentSpec) -> None:
        """Make what can be made without a container."""
        await self.disk.prepare(spec, self._uid(spec))

    async def start(self, spec: AgentSpec) -> str:
        """Look before create, and again when another call of ours, cut off, is still at it in its thread."""
        for _ in range(LOOKS_MAX):
            try:
                identity = await self._look_or_create(spec)
                await self.engine.call("start", identity)  # one that runs already is no error
            except Taken:
                await trio.sleep(LOOK_PAUSE_S)
                continue
            assert spec.box is not None, "the fleet says what encloses an agent"
            self._sizes[handle := HANDLE_PREFIX + identity] = spec.box
            return handle
        raise BackendError(f"the name {name_of(self.instance, spec.agent)} does not become free")

    async def _look_or_create(self, spec: AgentSpec) -> str:
        """The container of this generation, which is there already or is made: any other of its agent is removed."""
        found = await self._inspect(name_of(self.instance, spec.agent))
        if found is not None:
            self._check_ours(found, spec)
            is_this = found["Config"]["Labels"].get(f"{LABEL}.generation") == str(spec.generation)
            if is_this and found["State"]["Status"] == "running":
                return str(found["Id"])
            if not is_this or found["State"]["Status"] != "created":
                await self._remove(found["Id"])
                found = None
        if found is None:
            mounts, uid = self.disk.mounts(spec), self._uid(spec)
            options = creation(self.instance, spec, uid, self.disk.zipapp_path, mounts, self.hardening)
            found = await self.engine.call("create_container", **options)
        await self.disk.fill(self.engine, found["Id"], spec, self._uid(spec))
        return str(found["Id"])

    async def adopt(self, spec: AgentSpec) -> str | None:
        """Look for a running container with this agent's name and our labels."""
        found = await self._inspect(name_of(self.instance, spec.agent))
        if found is None or not found["State"]["Running"]:
            return None
        self._check_ours(found, spec)
        return HANDLE_PREFIX + str(found["Id"])

    async def alive(self, handle: str) -> bool:
        """Whether the container runs."""
        found = await self._inspect(_identity(handle))
        return found is not None and bool(found["State"]["Running"])

    async def stop(self, handle: str) -> None:
        """SIGTERM, SIGKILL after `stop_s`, and remove what is left."""
        identity = _identity(handle)
        with suppress(Missing):
            await self.engine.call("stop", identity, timeout=max(1, round(self.stop_s)))
        await self._remove(identity)
        self._own.pop(handle, None)
        self._sizes.pop(handle, None)

    async def log_tail(self, spec: AgentSpec) -> str:
        """The last lines that the agent has logged."""
        try:
            text: bytes = await self.engine.call("logs", name_of(self.instance, spec.agent), tail=LOG_LINES)
        except Missing:
            return ""
        return text[-LOG_TAIL_BYTES:].decode(errors="replace").strip()

    # --- Enclosure --------------------------------------------------------------------------------------------------

    async def fetch(self, image: str, tell: Callable[[str], None]) -> str:
        """Have the image there."""
        return await images.fetch(self.engine, image, self.image_source, tell)

    async def fit(self, handle: str, box: Box) -> None:
        """Update the container's limits if they are others; note the agent's own processes."""
        identity = _identity(handle)
        if self._sizes.get(handle) != box:
            await self.engine.call("update_container", identity, **size(box))
            self._sizes[handle] = box
        if handle not in self._own:
            self._own[handle] = await self._processes(identity)

    async def clear(self, handle: str) -> bool:
        """Compare with what was noted."""
        own = self._own.get(handle)
        if own is None:
            return False
        strays = await self._processes(_identity(handle)) - own
        if strays:
            log.warning("container %s: %d processes are left of a run", handle[:24], len(strays))
        return not strays

    async def epitaph(self, handle: str) -> Epitaph:
        """What the engine remembers of the container."""
        found = await self._inspect(_identity(handle))
        if found is None:
            return Epitaph("agent_lost", "its container was removed")
        state = found["State"]
        if state["OOMKilled"]:
            limit = found["HostConfig"]["Memory"]
            return Epitaph("out_of_memory", f"its container may use {limit >> 20} MiB")
        said = f"its container ended with exit code {state['ExitCode']}"
        return Epitaph("agent_lost", f"{said}: {state['Error']}" if state["Error"] else said)

    async def until_lost(self, found: Callable[[], None]) -> None:
        """Ask the engine whether it is there, for ever."""
        while True:
            await self.engine.call("ping")
            await self.disk.ready(self.engine)
            found()
            await trio.sleep(self.ping_s)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _uid(self, spec: AgentSpec) -> int:
        return homes.uid_of(spec, self.uid_first, self.uid_count)

    async def _inspect(self, identity: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = await self.engine.call("inspect_container", identity)
        except Missing:
            return None
        return found

    def _check_ours(self, found: dict[str, Any], spec: AgentSpec) -> None:
        ours = labels_of(self.instance, spec)
        labels = found["Config"]["Labels"] or {}
        for key in (f"{LABEL}.instance", f"{LABEL}.user", f"{LABEL}.agent"):
            if labels.get(key) != ours[key]:
                raise BackendError(f"a container that is not ours has the name {found['Name'].lstrip('/')}")

    async def _remove(self, identity: str) -> None:
        with suppress(Missing, Taken):  # gone, or on its way
            await self.engine.call("remove_container", identity, force=True, v=True)

    async def _processes(self, identity: str) -> frozenset[str]:
        """Process ids, as the engine's machine sees them, with the time of their start: a pid may come again."""
        try:
            table = await self.engine.call("top", identity, "-eo pid,lstart")
        except Missing:
            return frozenset()
        rows: Iterable[list[str]] = table["Processes"] or ()
        return frozenset(" ".join(row) for row in rows)


def _identity(handle: str) -> str:
    identity = handle.removeprefix(HANDLE_PREFIX)
    if identity == handle or len(identity) != 64 or not identity.isalnum():
        raise foreign(handle, "docker")
    return identity
