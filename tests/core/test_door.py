"""Who is let in at the agents' doors, whom strangers give way to, and whose token is good over TLS."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from jobd.agent import Agent
from jobd.config import Agents
from jobd.facts import _refusal
from jobd.gateway import Door, Identify
from jobd.tls import TlsGateway
from schemas.link import PROTOCOL, PROTOCOL_MIN, Hello
from schemas.records import AgentRecord, Instant, UserRecord

CONFIG = Agents(unauthenticated_s=5.0, connections_max=2)


def agent_of(name: str, place: str = "docker") -> Agent:
    """An agent whose token is its name."""
    record = AgentRecord(name, "u", place, 1, True, hashlib.sha256(name.encode()).hexdigest())
    return Agent(UserRecord("u", "user", "default", 0), record, Instant(0.0, 0.0, ""))


class Peer:
    """Whoever has come to a door."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self.stream = trio.SocketStream(sock)

    async def shows(self, token: str) -> None:
        await self.stream.send_all(token.encode())
        await trio.testing.wait_all_tasks_blocked(0.01)

    async def is_open(self) -> bool:
        with trio.move_on_after(0.05):
            try:
                return bool(await self.stream.receive_some(1))
            except trio.BrokenResourceError:
                return False
        return True


class Sockets:
    """A door with real sockets and virtual time."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener
        self.known: list[str | None] = []

    async def connect(self) -> Peer:
        sock = trio.socket.socket()
        await sock.connect(self._listener.socket.getsockname())
        await trio.testing.wait_all_tasks_blocked(0.01)
        return Peer(sock)

    async def serve(self, identify: Identify, stream: trio.SocketStream) -> None:
        """Tells whoever is not known, and keeps the others."""
        token = bytes(await stream.receive_some(100)).decode()
        agent = identify(token)
        self.known.append(agent and agent.record.id)
        if agent is None:
            await stream.send_all(b"401")
        else:
            await trio.sleep_forever()


@asynccontextmanager
async def door(strangers_max: int = 3) -> AsyncIterator[Sockets]:
    agents = {name: agent_of(name) for name in ("alice", "bob")}
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        sockets = Sockets(listener)
        nursery.start_soon(Door("test", CONFIG, agents.get, strangers_max).accept, [listener], sockets.serve)
        yield sockets
        nursery.cancel_scope.cancel()


async def test_the_stranger_who_came_first_gives_way() -> None:
    async with door() as at:
        known = await at.connect()
        await known.shows("alice")
        strangers = [await at.connect() for _ in range(3)]
        assert all([await each.is_open() for each in strangers])
        await strangers[1].shows("bob")  # no stranger any more
        later = [await at.connect()]
        assert await strangers[0].is_open()
        later.append(await at.connect())
        assert not await strangers[0].is_open()
        assert [await each.is_open() for each in (known, *strangers[1:], *later)] == [True] * 5


async def test_a_stranger_has_a_deadline_and_who_is_known_has_none(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        visits = Door("test", CONFIG, {"alice": agent_of("alice")}.get, 3)
        ended = []

        async def visit(token: str) -> None:
            stranger = visits._enter()
            with stranger.scope:
                if token:
                    assert stranger.identify(token)
                await trio.sleep(100)
            ended.append((token, stranger.scope.cancelled_caught, trio.current_time()))
            stranger.leave()

        began = trio.current_time()
        nursery.start_soon(visit, "")
        nursery.start_soon(visit, "alice")
        await trio.sleep(200)
        assert ended == [("", True, began + 5), ("alice", False, began + 100)]
        assert not visits.strangers
        assert not visits.places


async def test_one_connection_too_many_of_an_agent_is_cut_off_without_a_word() -> None:
    """An agent that is told 401 ends itself; this one has only lost a connection."""
    async with door() as at:
        peers = [await at.connect() for _ in range(3)]
        for each in peers:
            await each.shows("alice")
        assert at.known == ["alice", "alice", None]
        assert bytes(await peers[2].stream.receive_some(10)) == b""
        await peers[0].stream.aclose()
        other = await at.connect()
        await other.shows("bob")
        assert at.known[-1] == "bob"


async def test_who_is_not_known_is_told_so() -> None:
    async with door() as at:
        peer = await at.connect()
        await peer.shows("mallory")
        assert bytes(await peer.stream.receive_some(10)) == b"401"


# --- over TLS -------------------------------------------------------------------------------------------------------


def is_remote(agent: Agent) -> bool:
    return not agent.record.place.startswith("local")


def gateway(*agents: Agent) -> TlsGateway:
    made = TlsGateway.__new__(TlsGateway)
    made._everyone, made._admits, made._by_digest = lambda: agents, is_remote, {}
    return made


def test_a_token_is_its_agents_as_long_as_its_generation_lives() -> None:
    alice, bob = agent_of("alice"), agent_of("bob")
    tls = gateway(alice, bob)
    assert (tls.agent_of("alice"), tls.agent_of("bob"), tls.agent_of("carol")) == (alice, bob, None)
    new = hashlib.sha256(b"new").hexdigest()
    alice.record = attrs.evolve(alice.record, generation=2, token_sha256=new)
    assert (tls.agent_of("alice"), tls.agent_of("new"), tls.agent_of("bob")) == (None, alice, bob)
    alice.record = attrs.evolve(alice.record, awake=False, token_sha256="")
    assert (tls.agent_of("new"), tls.agent_of("")) == (None, None)


@pytest.mark.parametrize(("place", "is_let_in"), [("local", False), ("docker", True), ("nersc", True)])
def test_only_agents_elsewhere_come_over_tls(place: str, is_let_in: bool) -> None:
    agent = agent_of("alice", place)
    assert gateway(agent).agent_of("alice") is (agent if is_let_in else None)


def test_an_agent_that_was_retired_since_it_showed_its_token_is_told_to_end() -> None:
    """The door is not closed behind it, as an agent's own sockets are."""
    agent = agent_of("aaaaaaaaaa")
    hello = Hello(PROTOCOL, PROTOCOL_MIN, "aaaaaaaaaa", 1, "boot", "3.11", 1, 0)
    assert _refusal(agent, hello) == ""
    agent.record = attrs.evolve(agent.record, awake=False, token_sha256="")
    assert _refusal(agent, hello) == "it has been retired"
