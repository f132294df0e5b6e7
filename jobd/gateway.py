"""The agents' doors: for each agent two unix sockets in its own directory, one for its link, one for bulk streams.

A door serves one agent only, so a token is worth nothing at another's. Whoever connects has a short time to prove
itself, and few may try at once. Whatever happens on one connection is contained there.
"""

import logging
import os
import socket
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

Serve = Callable[[Agent, Transport], Awaitable[None]]
ServeBulk = Callable[[Agent, trio.SocketStream], Awaitable[None]]


class Gateway(Protocol):
    """Where agents call home. The simulation has one of memory streams."""

    def doors(self, agent: Agent) -> AbstractAsyncContextManager[None]:
        """Inside it, this agent can call home."""


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
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._accept, control, self._link_of, agent)
            nursery.start_soon(self._accept, bulk, self.serve_bulk, agent)
            yield
            nursery.cancel_scope.cancel(reason="the agent is retired")
        for name in DOORS:
            (directory / name).unlink(missing_ok=True)

    async def _accept(
        self, listener: trio.SocketListener, serve: Callable[[Agent, trio.SocketStream], Awaitable[None]], agent: Agent
    ) -> None:
        places = [0]  # how many connections there are, proved or not: an agent needs few

        async def contained(stream: trio.SocketStream) -> None:
            places[0] += 1
            try:
                if places[0] <= self._config.connections_max:
                    await serve(agent, stream)
            except Exception:
                log.exception("a connection of agent %s failed", agent.record.id)
            finally:
                places[0] -= 1
                await trio.aclose_forcefully(stream)

        await trio.serve_listeners(contained, [listener])

    async def _link_of(self, agent: Agent, stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            try:
                with trio.fail_after(self._config.unauthenticated_s):
                    request: WebSocketRequest = await websocket_on(
                        nursery, stream, max_message_size=MESSAGE_BYTES_MAX, receive_buffer_size=RECEIVE_BYTES
                    )
                    if not agent.accepts(_bearer(request)):
                        await request.reject(401)
                        return
                    connection = await request.accept()
            except (trio.TooSlowError, HandshakeError, ConnectionClosed, trio.BrokenResourceError) as error:
                log.info("agent %s: a connection did not prove itself: %r", agent.record.id, error)
            else:
                await self.serve(agent, WebSocketTransport(connection))
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
