"""The places over which the conformance suite runs: each makes its backend, and sees behind the backend's back.

A site for one more backend is one more class and one more entry in SITES.
"""

import contextlib
import hashlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import attrs
import trio

from backends.base import AgentSpec, Backend, Box
from backends.containers import Hardening
from backends.disks import SharedDisk
from backends.docker import DockerBackend
from backends.engine import Engine
from backends.fake import FakeBackend, Place, failing
from backends.images import Source
from backends.local import LocalBackend
from jobd.agent import Agent
from jobd.config import Agents
from jobd.gateway import Identify, UnixGateway
from jobd.link import LinkClosed, Transport
from schemas import codec, ids
from schemas.link import MESSAGE_BYTES_MAX, PROTOCOL, Fact, Hello, Welcome
from schemas.records import AgentRecord, Instant, UserRecord

ZIPAPP = Path(__file__).parents[2] / "build" / "jobd-agent.pyz"
STOP_S = 0.5
DEADLINE_S = 20.0  # of any step; far above what is needed, also on a busy machine
LONELY_S = 20.0  # a test that was killed leaves no agent for longer
FAULTS = ("no program", "ends at once", "ends without a word", "no directory")
BROKEN = "broken on purpose"  # what an agent that ends at once has said before


class Home:
    """jobd's end of the links: who has called, and with which generation."""

    def __init__(self) -> None:
        self._calls: set[tuple[str, int]] = set()
        self._changed = trio.Event()

    def note(self, agent: str, generation: int) -> None:
        self._calls.add((agent, generation))
        self._changed.set()
        self._changed = trio.Event()

    async def heard(self, spec: AgentSpec) -> None:
        """Until this generation of the agent has called."""
        while (spec.agent, spec.generation) not in self._calls:
            await self._changed.wait()


class Site(Protocol):
    """What the suite must know of a place."""

    home: Home
    never_started: str  # a handle in this backend's own words, of nothing that ever was

    def backend(self) -> Backend:
        """A new object, as a jobd that has just started has it."""

    def faulty(self, fault: str) -> tuple[Backend, str]:
        """A backend whose starts fail in this way, and words that the reason must hold."""

    def spec(self, user_number: int = 0) -> AgentSpec:
        """A new agent of this user, for sound backends."""

    def misplaced(self, spec: AgentSpec, fault: str) -> AgentSpec:
        """The same agent as this fault needs it."""

    def doors(self, spec: AgentSpec) -> AbstractAsyncContextManager[None]:
        """Inside, the agent, which is prepared, can call home."""

    async def kill(self, handle: str) -> None:
        """End this agent behind the backend's back."""

    def agents(self) -> list[str]:
        """The agents that run here, not counting their helpers."""

    def leftovers(self) -> list[str]:
        """Whatever of the agents still takes room on the machine: agents, their helpers, zombies."""


def new_spec(state: Path, user_number: int) -> AgentSpec:
    agent, user = ids.new_id("a"), ids.new_id("u")
    return AgentSpec(
        agent=agent,
        generation=1,
        user=user,
        user_number=user_number,
        directory=state / "agents" / agent,
        root=state / "runs" / user,
        token=ids.new_token(),
        lonely_s=LONELY_S,
        silence_s=60.0,
    )


# --- fake -----------------------------------------------------------------------------------------------------------


class FakeSite:
    never_started = "fake-999999"

    def __init__(self, state: Path, nursery: trio.Nursery) -> None:
        self.home = Home()
        self._state = state
        self._ends_at_once = False
        self._place = Place(nursery, self._live)

    def backend(self) -> Backend:
        self._ends_at_once = False
        return FakeBackend(self._place)

    def faulty(self, fault: str) -> tuple[Backend, str]:
        if fault.startswith("ends"):
            self._ends_at_once = True
            return FakeBackend(self._place), "the log of" if fault == "ends at once" else "ended"
        deed = {"no program": "start", "no directory": "prepare"}[fault]
        return FakeBackend(self._place, failing({deed})), f"{deed} failed"

    def spec(self, user_number: int = 0) -> AgentSpec:
        return new_spec(self._state, user_number)

    def misplaced(self, spec: AgentSpec, fault: str) -> AgentSpec:
        return spec

    @asynccontextmanager
    async def doors(self, spec: AgentSpec) -> AsyncIterator[None]:
        yield

    async def kill(self, handle: str) -> None:
        process = self._place.processes[handle]
        self._place.kill(handle)
        await process.gone.wait()

    def agents(self) -> list[str]:
        return list(self._place.processes)

    leftovers = agents

    async def _live(self, spec: AgentSpec) -> None:
        if not self._ends_at_once:
            self.home.note(spec.agent, spec.generation)
            await trio.sleep_forever()


# --- local ----------------------------------------------------------------------------------------------------------


class LocalSite:
    never_started = "999999999.1." + Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def __init__(
        self, state: Path, _: trio.Nursery, *, python: str = sys.executable, uid_first: int | None = None
    ) -> None:
        self.home = Home()
        self._zombies_before = set(zombies())  # of other tests in this process
        self._state = state
        self._python = python
        self._uid_first = uid_first
        self._gateway = UnixGateway(state, Agents())
        self._gateway.serve = self._serve
        self._gateway.serve_bulk = nothing_in_bulk

    def backend(self, python: str = "", zipapp: Path = ZIPAPP) -> LocalBackend:
        return LocalBackend(python or self._python, zipapp, self._uid_first, 3, STOP_S)

    def faulty(self, fault: str) -> tuple[Backend, str]:
        if fault == "ends at once":
            program = self._state / "broken.py"
            program.write_text(f"raise SystemExit('{BROKEN}')")
            return self.backend(zipapp=program), BROKEN
        if fault == "ends without a word":
            return self.backend(python="/bin/false"), "ended"
        if fault == "no program":
            return self.backend(python="/no/such/python"), "/no/such/python"
        return self.backend(), str(self._state / "file")

    def spec(self, user_number: int = 0) -> AgentSpec:
        return new_spec(self._state, user_number)

    def misplaced(self, spec: AgentSpec, fault: str) -> AgentSpec:
        if fault != "no directory":
            return spec
        (self._state / "file").touch()
        return attrs.evolve(spec, directory=self._state / "file" / "agents" / spec.agent)

    def doors(self, spec: AgentSpec) -> AbstractAsyncContextManager[None]:
        now = Instant(0.0, 0.0, "")
        record = AgentRecord(
            spec.agent, spec.user, "local", token_sha256=hashlib.sha256(spec.token.encode()).hexdigest()
        )
        return self._gateway.doors(Agent(UserRecord(spec.user, "alice", "default", spec.user_number), record, now))

    async def kill(self, handle: str) -> None:
        os.kill(pid := int(handle.split(".", maxsplit=1)[0]), signal.SIGKILL)
        while str(pid) in self.agents():
            await trio.sleep(0.01)

    def agents(self) -> list[str]:
        # An agent leads its session; what it forks does not, or has another command line.
        return [pid for pid, session in self.processes().items() if session == pid]

    def leftovers(self) -> list[str]:
        ours = set(zombies()) - self._zombies_before
        return [*self.processes(), *(f"zombie {pid}" for pid in ours)]

    def processes(self) -> dict[str, str]:
        """The sessions of all processes that have our directory in their command line, by pid."""
        found = {}
        for entry in os.scandir("/proc"):
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and str(self._state) in Path(entry.path, "cmdline").read_text():
                    found[entry.name] = stat(entry.name)[3]
        return found

    async def _serve(self, _: Agent, transport: Transport) -> None:
        with contextlib.suppress(LinkClosed):
            hello = codec.decode(await transport.receive(), Fact, MESSAGE_BYTES_MAX)
            assert isinstance(hello, Hello)
            await transport.send(codec.encode(Welcome(PROTOCOL, 0, 1.0)))
            self.home.note(hello.agent, hello.generation)
            while True:
                await transport.receive()


# --- docker ---------------------------------------------------------------------------------------------------------

IMAGE, MISSING = "jobd-shell:bed", "jobd-absent:bed"
NOTHING = Hardening(tmp_bytes=1 << 20, processes=64, open_files=256, seccomp="")


class DockerSite(LocalSite):
    """Containers of the test bed's engine; jobd's end of the links is the same as of local agents."""

    never_started = "docker." + "0" * 64

    def __init__(self, state: Path, nursery: trio.Nursery, client: Any) -> None:
        super().__init__(state, nursery)
        self._client = client
        self._instance = ids.new_id("i")
        (state / "agents").mkdir(mode=0o711)

    def backend(self, zipapp: Path = ZIPAPP) -> DockerBackend:  # type: ignore[override]
        return DockerBackend(
            engine=Engine(self._client.url, 5.0),
            disk=SharedDisk(zipapp),
            instance=self._instance,
            uid_first=200_000,
            uid_count=3,
            hardening=NOTHING,
            stop_s=STOP_S,
            ping_s=1.0,
            image_source=Source(None, pulls=False),
        )

    def faulty(self, fault: str) -> tuple[Backend, str]:
        if fault == "ends at once":
            program = self._state / "broken.py"
            program.write_text(f"raise SystemExit('{BROKEN}')")
            program.chmod(0o644)
            return self.backend(zipapp=program), BROKEN
        words = {"ends without a word": "ended", "no program": "/no/such/python"}
        return self.backend(), words.get(fault, str(self._state / "file"))

    def spec(self, user_number: int = 0) -> AgentSpec:
        box = Box(IMAGE, "/usr/bin/python3", 1.0, 128 << 20)
        return attrs.evolve(new_spec(self._state, user_number), box=box)

    def misplaced(self, spec: AgentSpec, fault: str) -> AgentSpec:
        pythons = {"ends without a word": "/bin/false", "no program": "/no/such/python"}
        if fault in pythons:
            return attrs.evolve(spec, box=attrs.evolve(spec.box, python=pythons[fault]))
        return super().misplaced(spec, fault)

    async def kill(self, handle: str) -> None:
        self._client.api.kill(handle.removeprefix("docker."))
        while handle.removeprefix("docker.") in self.agents():
            await trio.sleep(0.01)

    def agents(self) -> list[str]:
        return [each["Id"] for each in self._containers()]

    def leftovers(self) -> list[str]:
        return self.agents()  # one that has exited is kept for its last words, until the next start or a stop

    def clear(self) -> None:
        for each in self._containers(all=True):
            self._client.api.remove_container(each["Id"], force=True, v=True)

    def _containers(self, **options: Any) -> list[Any]:
        return self._client.api.containers(filters={"label": f"jobd.instance={self._instance}"}, **options)


async def nothing_in_bulk(_: Identify, stream: trio.abc.Stream) -> None:
    await stream.aclose()


def stat(pid: str) -> list[str]:
    """State, parent, group, session and so on."""
    return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()


def zombies() -> list[int]:
    """Our own children that ended and that nobody has reaped."""
    found = []
    for entry in os.scandir("/proc"):
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and stat(entry.name)[:2] == ["Z", str(os.getpid())]:
                found.append(int(entry.name))
    return found


# --- for the tests of all sites -------------------------------------------------------------------------------------


@asynccontextmanager
async def ready(site: Site, backend: Backend, user_number: int = 0) -> AsyncIterator[AgentSpec]:
    """A new agent that can be started, and can call home."""
    spec = site.spec(user_number)
    with trio.fail_after(3 * DEADLINE_S):
        await backend.prepare(spec)
        async with site.doors(spec):
            yield spec


async def eventually(condition: Callable[[], object]) -> None:
    with trio.fail_after(DEADLINE_S):
        while not condition():
            await trio.sleep(0.01)


async def clear(site: Site) -> None:
    """End every agent of the site, without its backend's help."""
    if isinstance(site, DockerSite):
        site.clear()
        return
    for each in site.agents():
        with contextlib.suppress(ProcessLookupError, KeyError):
            await site.kill(each)
    if isinstance(site, LocalSite):
        with trio.move_on_after(5):
            while site.processes():
                await trio.sleep(0.01)
        for pid in site.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    reap()


def reap() -> None:
    """Bury what belonged to backends that the test has dropped, as init does after the end of a jobd."""
    for zombie in zombies():
        os.waitpid(zombie, 0)


SITES = {"fake": FakeSite, "local": LocalSite, "docker": DockerSite}
