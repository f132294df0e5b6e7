"""Agents as tasks of this process, for tests: the same seam, no machine.

A `Place` stands for the machine: it holds what was prepared and what runs, and outlives any jobd that uses it. A
`FakeBackend` is one jobd's way to it. Before and after each deed it asks `mishap`, which may take its time or raise
BackendError; the default does neither, so a plain FakeBackend is a backend that always works at once.
"""

import itertools
from collections.abc import Awaitable, Callable

import trio
from attrs import define, field

from backends.base import AgentSpec, BackendError, foreign

Mishap = Callable[[str], Awaitable[None]]


async def no_mishap(_deed: str) -> None:
    """Nothing goes wrong."""
    await trio.lowlevel.checkpoint()


@define(eq=False)
class Process:
    """One agent that runs, or ran."""

    handle: str
    spec: AgentSpec
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    gone: trio.Event = field(factory=trio.Event)


@define(eq=False)
class Place:
    """The machine. `live` is what an agent does with its life; it is cancelled to kill it."""

    nursery: trio.Nursery
    live: Callable[[AgentSpec], Awaitable[None]]
    processes: dict[str, Process] = field(factory=dict, init=False)  # those that run, by handle
    setups: dict[str, AgentSpec] = field(factory=dict, init=False)  # the newest that was prepared, by agent
    _numbers: "itertools.count[int]" = field(factory=lambda: itertools.count(1), init=False)

    def spawn(self, agent: str) -> Process:
        """Start an agent with the setup that was prepared for it."""
        process = Process(f"fake-{next(self._numbers)}", self.setups[agent])
        self.processes[process.handle] = process
        self.nursery.start_soon(self._run, process, name=f"agent {agent} {process.handle}")
        return process

    def kill(self, handle: str) -> None:
        """End a process without any warning."""
        if process := self.processes.get(handle):
            process.scope.cancel(reason="killed")

    def find(self, agent: str) -> Process | None:
        """The newest process of this agent that runs."""
        found = [process for process in self.processes.values() if process.spec.agent == agent]
        return found[-1] if found else None

    async def _run(self, process: Process) -> None:
        try:
            with process.scope:
                await self.live(process.spec)
        finally:
            del self.processes[process.handle]
            process.gone.set()


@define
class FakeBackend:
    """See backends.base.Backend."""

    place: Place
    mishap: Mishap = no_mishap

    async def prepare(self, spec: AgentSpec) -> None:
        """Note the setup; for a new generation also its token."""
        await self.mishap("prepare")
        if spec.token or spec.agent not in self.place.setups:
            self.place.setups[spec.agent] = spec

    async def start(self, spec: AgentSpec) -> str:
        """End whatever runs for this agent, then start the new generation."""
        await self.mishap("start")
        while older := self.place.find(spec.agent):
            await self.stop(older.handle)
        handle = self.place.spawn(spec.agent).handle
        await self.mishap("started")
        return handle

    async def adopt(self, spec: AgentSpec) -> str | None:
        """What runs for this agent, whatever its generation."""
        await self.mishap("adopt")
        process = self.place.find(spec.agent)
        return process.handle if process else None

    async def alive(self, handle: str) -> bool:
        """Whether it runs."""
        await self.mishap("alive")
        return self._process(handle) is not None

    async def stop(self, handle: str) -> None:
        """Kill it, and return when it is gone."""
        await self.mishap("stop")
        if process := self._process(handle):
            self.place.kill(handle)
            await process.gone.wait()

    async def log_tail(self, spec: AgentSpec) -> str:
        """A log that says what it is."""
        await self.mishap("log_tail")
        return f"the log of {spec.agent}"

    def _process(self, handle: str) -> Process | None:
        if not handle.startswith("fake-"):
            raise foreign(handle, "fake")
        return self.place.processes.get(handle)


def failing(deeds: set[str]) -> Mishap:
    """A mishap that lets these deeds fail, for as long as they are in the set."""

    async def mishap(deed: str) -> None:
        await trio.lowlevel.checkpoint()
        if deed in deeds:
            raise BackendError(f"{deed} failed, as the test wanted")

    return mishap
