"""The life of one agent: started in stages with deadlines, watched while it is linked, looked for while it is away.

When it has died its next generation is started if somebody needs it; when nobody does it is culled. Where agents are
enclosed with their runs, its death is also the proof that its runs are over.
"""

import hashlib
import logging
import typing
from collections.abc import Callable
from contextlib import nullcontext

import attrs
import trio

from backends.base import BackendError, Epitaph, HostUnreachable
from jobd import states
from jobd.agent import Agent
from jobd.causes import CAUSES, cause
from jobd.hosts import Host
from jobd.scopes import Scope
from jobd.world import backoff
from schemas.link import End
from schemas.records import Cause

if typing.TYPE_CHECKING:
    from jobd.fleet import Fleet

log = logging.getLogger(__name__)


class Tending:
    """One agent on its host, and what its fleet knows."""

    def __init__(
        self,
        fleet: "Fleet",
        host: Host,
        agent: Agent,
        scope: Scope | None = None,
        tell: Callable[[str], object] = lambda stage: None,
    ) -> None:
        self._fleet = fleet
        self._host = host
        self._backend = host.backend
        self._agent = agent
        self._scope = scope
        self._tell = tell  # whoever waits for its start, stage by stage
        self._config = fleet.config.agents

    async def live(self) -> None:
        """All of its life, until nobody needs it and it is gone."""
        agent = self._agent
        while self._fleet.is_needed(agent) or agent.record.awake:
            try:
                await self._backend.prepare(self._fleet.spec(agent))
                async with nullcontext() if self._host.remote else self._fleet.gateway.doors(agent):
                    while self._fleet.is_needed(agent):
                        await self._one_round()
                    await self._retire()
            except (BackendError, OSError) as error:
                await self._back_off(f"its directory cannot be used: {error}")

    async def arrive(self) -> None:
        """Have it running and linked, where only its user's session lets us start it; raises BackendError. One that is
        linked stays as it is."""
        if self._agent.link is None:
            await self._start()
        await self._call_home()

    async def _one_round(self) -> None:
        """Have it running and linked, and watch until it is not; a failure waits for its back-off."""
        agent = self._agent
        try:
            if not await self._is_alive():
                await self._bury()
                if not self._fleet.is_needed(agent):
                    return
                await self._start()
            await self._call_home()
            await self._watch()
        except HostUnreachable as error:
            # Nothing is known of it: it may live, and its runs with it.
            self._host.lose(str(error))
            await self._back_off(f"its host cannot be reached: {error}.")
        except (BackendError, OSError) as error:
            tail = await self._log_tail()  # where it is enclosed, its log goes with it
            await self.end()
            await self._back_off(f"{error}. The end of its log: {tail}" if tail else f"{error}.")

    async def _call_home(self) -> None:
        self._stage("waiting for the agent to call home")
        with trio.move_on_after(self._config.call_home_s):
            await self._linked()
        if self._agent.link is None:
            raise BackendError(f"it did not call home within {self._config.call_home_s:g} s")
        self._stage("connected")

    async def _log_tail(self) -> str:
        try:
            return await self._backend.log_tail(self._fleet.spec(self._agent))
        except (BackendError, OSError):
            return ""

    async def _back_off(self, reason: str) -> None:
        agent = self._agent
        agent.failures += 1
        agent.failure = reason
        log.warning("agent %s of %s: %s", agent.record.id, agent.user.name, reason)
        self._stage("waiting to start the agent again")
        backoff_s = backoff(agent.failures, self._config.backoff_s, self._config.backoff_s_max)
        await trio.sleep(backoff_s * (1 + self._fleet.world.jitter() / 2))

    async def _start(self) -> None:
        """A new generation: the intent first, durably, then the deed, then what came of it."""
        agent, store = self._agent, self._fleet.store
        while not self._fleet.make_room(self._host, agent):
            self._stage("waiting for another agent to make room")
            await trio.sleep(self._config.poll_s)
        await self._fetch_image()
        self._stage("starting the agent")
        token = self._fleet.world.new_token()
        digest = hashlib.sha256(token.encode()).hexdigest()
        agent.record = attrs.evolve(
            agent.record, generation=agent.record.generation + 1, awake=True, token_sha256=digest, handle=""
        )
        await store.durable(store.put(agent.record))
        with trio.move_on_after(self._config.start_s):
            spec = self._fleet.spec(agent, token)
            await self._backend.prepare(spec)
            handle = await self._backend.start(spec)
            agent.record = attrs.evolve(agent.record, handle=handle)
            store.put(agent.record)
            return
        raise BackendError(f"it did not start within {self._config.start_s:g} s")

    async def _fetch_image(self) -> None:
        spec = self._fleet.spec(self._agent)
        if self._host.enclosure is None or spec.box is None:
            return
        with trio.move_on_after(self._fleet.config.docker.image_s):
            digest = await self._host.enclosure.fetch(spec.box.image, self._stage)
            self._agent.record = attrs.evolve(self._agent.record, image_digest=digest)
            return
        raise BackendError(f"its image was not there within {self._fleet.config.docker.image_s:g} s")

    async def _watch(self) -> None:
        """Return when it is dead or culled; raise BackendError when it lives but stays away."""
        agent = self._agent
        away_since: float | None = None
        while self._fleet.is_needed(agent):
            if agent.link is not None:
                await self._fit()
            with trio.move_on_after(self._config.poll_s):
                await agent.changed.wait()
            if agent.link is not None:
                away_since = None
                continue
            if not await self._is_alive():
                return
            away_since = away_since or trio.current_time()
            if trio.current_time() - away_since > self._config.away_s:
                raise BackendError(f"it was away for {self._config.away_s:g} s")

    async def _fit(self) -> None:
        """Give its enclosure the size of the run that waits for it."""
        agent = self._agent
        slots, box = agent.slots, self._fleet.spec(agent).box
        if self._host.enclosure is not None and box is not None and slots is not None and not agent.fits(slots):
            await self._host.enclosure.fit(agent.record.handle, box)
            agent.fitted = agent.record.handle, slots
            agent.changed.notify()

    async def _retire(self) -> None:
        """Nobody needs it: tell it to end and see that it is gone. Its token dies with it; its record stays."""
        agent = self._agent
        if agent.link is not None:
            agent.link.post(End("idle"))
            with trio.move_on_after(self._config.stop_s):
                while agent.link is not None:
                    await agent.changed.wait()
        if await self.end():
            agent.record = attrs.evolve(agent.record, awake=False, token_sha256="", handle="")
            self._fleet.store.put(agent.record)
        else:
            await self._back_off("it could not be ended")

    async def end(self) -> bool:
        """Whether no process of it exists afterwards; where that cannot be had, the log says why."""
        agent = self._agent
        if agent.link is not None:
            agent.link.close()
        try:
            with trio.fail_after(self._config.stop_s * 2):
                handle = agent.record.handle or await self._backend.adopt(self._fleet.spec(agent))
                if handle:
                    await self._backend.stop(handle)
        except (BackendError, OSError, trio.TooSlowError) as error:
            log.warning("agent %s could not be ended: %s", agent.record.id, error)
            return False
        return True

    async def prove(self, *, believed: bool) -> bool:
        """See Fleet.prove: what is left is ended together with the agent."""
        agent, enclosure = self._agent, self._host.enclosure
        assert enclosure is not None, "where agents are not enclosed their word is the proof"
        handle = agent.record.handle
        try:
            with trio.fail_after(self._config.stop_s * 2):
                if handle and believed and await enclosure.clear(handle):
                    return True
                handle = handle or await self._backend.adopt(self._fleet.spec(agent)) or ""
                if handle:
                    await self._backend.stop(handle)
        except (BackendError, trio.TooSlowError) as error:
            log.warning("agent %s: the end of its run is not proved: %s", agent.record.id, error)
            return False
        return True

    async def _is_alive(self) -> bool:
        agent = self._agent
        if not agent.record.handle:
            # jobd may have died between the deed and its record.
            handle = await self._backend.adopt(self._fleet.spec(agent)) if agent.record.awake else None
            if handle is None:
                return False
            agent.record = attrs.evolve(agent.record, handle=handle)
            self._fleet.store.put(agent.record)
        return await self._backend.alive(agent.record.handle)

    async def _bury(self) -> None:
        """It is dead; where it was enclosed with its runs, so are they, and that proves their end."""
        runs = self._fleet.jobs.runs_on(self._agent.record.id)
        if self._host.enclosure is None or not runs:
            return
        why = await self._why_dead()
        for run in runs:
            self._fleet.jobs.advance(run, states.Proved(why))

    async def _why_dead(self) -> Cause:
        agent, enclosure = self._agent, self._host.enclosure
        assert enclosure is not None
        handle = agent.record.handle
        epitaph = await enclosure.epitaph(handle) if handle else Epitaph("agent_lost", "its container is gone")
        if epitaph.code == "agent_lost" and await self._host.was_lost(agent.linked_at):
            return cause("host")
        return cause(epitaph.code, f"{CAUSES[epitaph.code][1].removesuffix('.')} ({epitaph.text}).")

    async def _linked(self) -> None:
        agent = self._agent
        while agent.link is None:
            with trio.move_on_after(self._config.poll_s) as pause:
                await agent.changed.wait()
            if pause.cancelled_caught and not await self._is_alive():
                raise BackendError("it ended before it called home")

    def _stage(self, stage: str) -> None:
        assert self._scope is not None, "only the tending task has stages"
        self._scope.doing = self._agent.stage = stage
        self._agent.changed.notify()
        self._tell(stage)
