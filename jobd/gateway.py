"""The agents' doors: where their links and bulk streams come in.

A `Door` serves whoever shows a token that is good there; whatever happens on one connection is contained there. On this
machine each agent has two unix sockets in its own directory, whose doors know one token only, so that it is worth
nothing at another's. Agents on other hosts share one door (tls.py).
"""

import logging
import math
import os
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, WebSocketRequest
from trio_websocket import wrap_server_stream as websocket_on

from jobd.agent import Agent
from jobd.config import Agents
from jobd.link import LinkClosed, Transport
from schemas.link import MESSAGE_BYTES_MAX

log = logging.getLogger(__name__)

DOORS = ("control.sock", "bulk.sock")
BACKLOG = 16
RECEIVE_BYTES = 65536
GOODBYE_S = 0.1

Identify = Callable[[str], Agent | None]  # whose token this is, if it is good here
Serve = Callable[[Agent, Transport], Awaitable[None]]
ServeBulk = Callable[[Identify, trio.abc.Stream], Awaitable[None]]


class Gateway(Protocol):
    """Where agents call home. The simulation has one of memory streams."""

    def doors(self, agent: Agent) -> AbstractAsyncContextManager[None]:
        """Inside it, this agent can call home."""


class Door:
    """Lets connections in. One is a stranger until its token is known: it has a short time for that, and few places;
    when these are taken the stranger who came first gives way, so that silence keeps nobody out. Whoever is known takes
    a place of its agent instead."""

    def __init__(self, name: str, config: Agents, identify: Identify, strangers_max: int) -> None:
        self.name = name
        self.config = config
        self.identify = identify
        self.strangers: dict[Visit, None] = {}  # in the order in which they came
        self.places: Counter[str] = Counter()  # taken by each agent
        self._strangers_max = strangers_max

    async def accept(
        self, listeners: list[trio.SocketListener], serve: Callable[[Identify, trio.SocketStream], Awaitable[None]]
    ) -> None:
        """Serve each connection in a task of its own, for ever."""

        async def contained(stream: trio.SocketStream) -> None:
            visit = self._enter()
            try:
                with visit.scope:
                    await serve(visit.identify, stream)
                if visit.scope.cancelled_caught:
                    log.info("%s: a connection did not prove itself, or its agent has too many", self.name)
            except Exception:
                log.exception("%s: a connection failed", self.name)
            finally:
                visit.leave()
                await trio.aclose_forcefully(stream)

        await trio.serve_listeners(contained, listeners)

    def _enter(self) -> "Visit":
        if len(self.strangers) >= self._strangers_max:
            next(iter(self.strangers)).end("others want to come in")
        return Visit(self)


class Visit:
    """One connection at a door, from its acceptance to its end."""

    def __init__(self, door: Door) -> None:
        self.scope = trio.CancelScope(deadline=trio.current_time() + door.config.unauthenticated_s)
        self._door = door
        self._agent = ""
        door.strangers[self] = None

    def identify(self, token: str) -> Agent | None:
        """Whose it is. One too many of an agent is cut off without a word: told that it is not known, it would end."""
        agent = self._door.identify(token)
        if agent is None or self not in self._door.strangers:
            return None
        if self._door.places[agent.record.id] >= self._door.config.connections_max:
            self.end("its agent has too many connections")
            return None
        self._agent = agent.record.id
        self._door.places[self._agent] += 1
        del self._door.strangers[self]
        self.scope.deadline = math.inf
        return agent

    def end(self, reason: str) -> None:
        """Cut it off; its place is free at once."""
        self._door.strangers.pop(self, None)
        self.scope.cancel(reason=reason)

    def leave(self) -> None:
        """It is over, for whatever reason."""
        self._door.strangers.pop(self, None)
        if self._agent:
            self._door.places[self._agent] -= 1
            if not self._door.places[self._agent]:
                del self._door.places[self._agent]


class UnixGateway:
    """Unix sockets in the state directory. Whoever composes the daemon sets `serve` and `serve_bulk`."""

    def __init__(self, state: Path, config: Agents) -> None:
        self._state = state
        self._config = config
        self.serve: Serve
        self.serve_bulk: ServeBulk

    @asynccontextmanager
    async def doors(self, agent: Agent) -> AsyncGenerator[None, None]:
        """Inside it, this agent can call home."""
        directory = self._state / "agents" / agent.record.id
        control, bulk = [await _listen(directory / name) for name in DOORS]

        def identify(token: str) -> Agent | None:
            return agent if agent.accepts(token) else None

        async def link(identify: Identify, stream: trio.SocketStream) -> None:
            await serve_websocket(self.serve, identify, stream)

        async with trio.open_nursery() as nursery:
            for listener, serve in ((control, link), (bulk, self.serve_bulk)):
                door = Door(f"agent {agent.record.id}", self._config, identify, self._config.connections_max)
                nursery.start_soon(door.accept, [listener], serve)
            yield
            nursery.cancel_scope.cancel(reason="the agent is retired")
        for name in DOORS:
            (directory / name).unlink(missing_ok=True)


async def serve_websocket(serve: Serve, identify: Identify, stream: trio.abc.Stream) -> None:
    """An agent's link, if the handshake shows a token that is good here. The door's visit is its deadline."""
    async with trio.open_nursery() as nursery:
        try:
            request: WebSocketRequest = await websocket_on(
                nursery, stream, max_message_size=MESSAGE_BYTES_MAX, receive_buffer_size=RECEIVE_BYTES
            )
            agent = identify(_bearer(request))
            if agent is None:
                await request.reject(401)
                return
            connection = await request.accept()
        except (HandshakeError, ConnectionClosed, trio.BrokenResourceError) as error:
            log.info("a connection for a link did not prove itself: %r", error)
        else:
            await serve(agent, WebSocketTransport(connection))
        nursery.cancel_scope.cancel(reason="the link is over")


class WebSocketTransport:
    """A websocket as a Transport."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self._connection = connection

    async def send(self, text: str) -> None:
        """Send one message; raises LinkClosed."""
        try:
            await self._connection.send_message(text)
        except (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise LinkClosed(repr(error)) from None

    async def receive(self) -> str:
        """The next message; raises LinkClosed, also for a binary one."""
        try:
            message = await self._connection.get_message()
        except (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise LinkClosed(repr(error)) from None
        if not isinstance(message, str):
            raise LinkClosed("a binary message")
        return message

    async def aclose(self) -> None:
        """Close it, now. At shutdown the peer's goodbye finds nobody who reads it, so it is not waited for long."""
        with trio.move_on_after(GOODBYE_S):
            await self._connection.aclose()


def _bearer(request: WebSocketRequest) -> str:
    for name, value in request.headers:
        if name.lower() == b"authorization" and value.startswith(b"Bearer "):
            return value[7:].decode("latin-1")
    return ""


async def _listen(path: Path) -> trio.SocketListener:
    """A unix socket made anew in the agent's directory, whose group may connect."""
    path.unlink(missing_ok=True)
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await sock.bind(str(path))
    os.chown(path, -1, path.parent.stat().st_gid)
    path.chmod(0o660)
    sock.listen(BACKLOG)
    return trio.SocketListener(sock)
