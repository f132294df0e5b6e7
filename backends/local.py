"""Agents as processes on this machine: for a laptop, for development, and for a site that trusts its users.

The agent process is detached (its own session), so it outlives jobd; its runs outlive it. It is found again, when jobd
died between starting it and recording that, by its command line, which ends with its directory, as the leader of a
session that writes the agent's log: the processes that it forks have its command line too, and must not be taken for
it. Started as root with a uid range, each user's agent runs under a uid of its own; only Docker isolates beyond that.
"""

import contextlib
import functools
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio
from attrs import define, field

from backends.base import AgentSpec, BackendError, foreign
from backends.homes import prepare, refused, uid_of
from schemas.setups import AgentSetup

T = TypeVar("T")

LOG_TAIL_BYTES = 2000
LOG_BYTES_MAX = 1 << 20
STOP_STEP_S = 0.02
FINDABLE_STEPS_MAX = 50
_HANDLE = re.compile(r"([1-9][0-9]{0,9})\.[0-9]{1,20}\.[0-9a-f-]{36}")


@define
class LocalBackend:
    """See backends.base.Backend. A handle is 'pid.start ticks.boot id'."""

    python: str
    zipapp: Path
    uid_first: int | None
    uid_count: int
    stop_s: float
    _children: dict[int, "subprocess.Popen[bytes]"] = field(factory=dict, init=False)
    _threads: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(8), init=False)

    async def prepare(self, spec: AgentSpec) -> None:
        """Make the directories and, for a new generation, write setup and token."""
        await self._in_thread(self._prepare, spec)

    async def start(self, spec: AgentSpec) -> str:
        """End whatever runs for this agent, then start the new generation."""
        while older := await self.adopt(spec):
            await self.stop(older)
        return await self._in_thread(self._spawn, spec)

    async def adopt(self, spec: AgentSpec) -> str | None:
        """Look for a process whose last argument is the agent's directory."""
        return await self._in_thread(_find, spec.directory)

    async def alive(self, handle: str) -> bool:
        """Whether this very process, not a later one of its pid, still runs."""
        pid = _pid(handle)
        if (child := self._children.get(pid)) is not None and child.poll() is not None:
            del self._children[pid]  # poll has reaped it
        return _handle(pid) == handle

    async def stop(self, handle: str) -> None:
        """SIGTERM, then SIGKILL after `stop_s`; returns when it is gone."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if await self.alive(handle):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(_pid(handle), sign)
            with trio.move_on_after(self.stop_s):
                while await self.alive(handle):  # noqa: ASYNC110 - an adopted process is no child: nothing tells us
                    await trio.sleep(STOP_STEP_S)
                return
        raise BackendError(f"process {_pid(handle)} does not end")

    async def log_tail(self, spec: AgentSpec) -> str:
        """The last lines that the agent has logged."""
        return await self._in_thread(_tail, spec.directory / "agent.log")

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        try:
            return await trio.to_thread.run_sync(function, *arguments, limiter=self._threads)
        except OSError as error:
            raise refused(error) from None

    def _prepare(self, spec: AgentSpec) -> None:
        setup = AgentSetup(
            agent=spec.agent,
            generation=spec.generation,
            root=str(spec.root),
            silence_s=spec.silence_s,
            lonely_s=spec.lonely_s,
        )
        prepare(spec, self._owner(spec), setup)

    def _spawn(self, spec: AgentSpec) -> str:
        owner = self._owner(spec)
        own = owner == os.getuid()
        log_path = spec.directory / "agent.log"
        mode = "wb" if log_path.exists() and log_path.stat().st_size > LOG_BYTES_MAX else "ab"
        with log_path.open(mode) as log:
            process = subprocess.Popen(  # noqa: S603 - the command is the operator's
                [self.python, str(self.zipapp), str(spec.directory)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={"PATH": os.defpath, "LANG": "C.UTF-8"},
                start_new_session=True,
                user=None if own else owner,
                group=None if own else owner,
                extra_groups=None if own else (),
            )
        handle = _findable(process.pid, spec.directory)
        if handle is None:
            process.wait()  # a zombie has no handle, so nobody would ask for it again
            raise BackendError("it ended before it called home")
        self._children[process.pid] = process
        return handle

    def _owner(self, spec: AgentSpec) -> int:
        if self.uid_first is None:
            return os.getuid()
        return uid_of(spec, self.uid_first, self.uid_count)


def _pid(handle: str) -> int:
    match = _HANDLE.fullmatch(handle)
    if match is None:
        raise foreign(handle, "local")
    return int(match[1])


def _handle(pid: int) -> str | None:
    """The handle of the process that has this pid now; None for a zombie or none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else f"{pid}.{fields[19]}.{_boot_id()}"


@functools.cache
def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _find(directory: Path) -> str | None:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                words = Path(entry.path, "cmdline").read_bytes().split(b"\0")
                if len(words) > 2 and words[-2] == os.fsencode(directory) and _is_agent(Path(entry.path), directory):
                    return _handle(int(entry.name))
            except OSError:
                continue  # gone, or another user's
    return None


def _findable(pid: int, directory: Path) -> str | None:
    """The handle of a process that was just made, once _find finds it: exec shows its command line a moment later, and
    a start that is repeated in that moment would make a second one. None when it has ended."""
    for _ in range(FINDABLE_STEPS_MAX):
        if _handle(pid) is None or _find(directory) is not None:
            break
        time.sleep(STOP_STEP_S)
    return _handle(pid)


def _is_agent(process: Path, directory: Path) -> bool:
    """Not its fork server, which is in its session, nor the parent of a run, which has let go of its log."""
    session = (process / "stat").read_text().rpartition(")")[2].split()[3]
    return session == process.name and (process / "fd" / "1").samefile(directory / "agent.log")


def _tail(path: Path) -> str:
    if not path.exists():
        return ""
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
        return log.read(LOG_TAIL_BYTES).decode(errors="replace").strip()
