"""An agent is as untrusted as the code beside it: whatever comes to its sockets can harm only its own user."""

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest
import trio
from realdaemon import AgentSeen, Daemon, wait_until
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream

from schemas import codec
from schemas.link import PROTOCOL, PROTOCOL_MIN, Answer, Ended, Epoch, Fact, Hello, Order, Progress, Started

WAITS = "while [ ! -e go ]; do sleep 0.05; done; echo done"


@pytest.fixture(scope="module")
def daemon(make_module_daemon) -> Daemon:
    daemon = make_module_daemon(agents={"stall_s": 1.0}).start()
    for user in ("alice", "bob"):
        daemon.done(user, "warm", "echo frame > frames.txt")
    return daemon


@pytest.fixture(autouse=True)
def bob_notices_nothing(daemon, job):
    """A run of another user that goes on meanwhile, and whose agent answers."""
    daemon.run("bob", job, WAITS)
    daemon.until("bob", job, "running")
    agent = daemon.agent("bob")
    yield
    assert daemon.process.poll() is None, daemon.log()
    status = daemon.status("bob", job)
    assert (status["state"], status["known"]["state"]) == ("running", "fresh")
    with daemon.client() as client:
        assert client.file("bob", "warm", "frames.txt") == b"frame\n"
    daemon.file("bob", job, "go").touch()
    assert daemon.until("bob", job, "completed")["log_tail"] == "done\n"
    assert daemon.agent("bob").pid == agent.pid
    # And alice herself has an agent again that works.
    assert daemon.done("alice", job, "echo works", force=True)["log_tail"] == "works\n"


@pytest.fixture
def alice(daemon: Daemon) -> Iterator[AgentSeen]:
    """Alice's agent, held still while the test takes its place."""
    agent = daemon.agent("alice")
    agent.signal(signal.SIGSTOP)
    yield agent
    with contextlib.suppress(ProcessLookupError):
        agent.signal(signal.SIGCONT)


def hello(agent: AgentSeen, /, **changes) -> Hello:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    facts = {"agent": agent.id, "generation": agent.generation, "boot": boot, "python": "3.11.2", "pid": os.getpid()}
    return Hello(**{"protocol": PROTOCOL, "protocol_min": PROTOCOL_MIN, "fact": agent.fact, **facts, **changes})


@asynccontextmanager
async def websocket(agent: AgentSeen, token: str) -> AsyncIterator[WebSocketConnection]:
    async with trio.open_nursery() as nursery:
        stream = await trio.open_unix_socket(str(agent.directory / "control.sock"))
        headers = [(b"authorization", b"Bearer " + token.encode("latin-1"))]
        yield await wrap_client_stream(nursery, stream, "jobd", "/", extra_headers=headers)
        nursery.cancel_scope.cancel()


def impostor(agent: AgentSeen, *messages: "str | bytes | Fact", greet: bool = True) -> list[Order]:
    """Send these on a link of this agent; returns the orders that came before jobd closed it or said nothing more."""

    async def talk() -> list[Order]:
        orders: list[Order] = []
        async with websocket(agent, agent.token) as link:
            with contextlib.suppress(ConnectionClosed):
                for message in (hello(agent), *messages) if greet else messages:
                    await link.send_message(message if isinstance(message, str | bytes) else codec.encode(message))
                with trio.move_on_after(1.0):
                    while True:
                        orders.append(codec.decode(await link.get_message(), Order, 1 << 20))
                orders.append("it stayed open")
        return orders

    return trio.run(talk)


def kinds(orders: list[Order]) -> list[str]:
    return [order if isinstance(order, str) else type(order).__name__ for order in orders if not is_beat(order)]


def is_beat(order: Order) -> bool:
    return type(order).__name__ == "Beat"


def epoch_of(daemon: Daemon, user: str, job: str) -> Epoch:
    directory = daemon.file(user, job, "")
    return Epoch(directory.parent.name, int(directory.name))


# --- who is let in ------------------------------------------------------------------------------------------------


def test_a_connection_that_proves_nothing_is_closed(daemon: Daemon, alice):
    tokens = ["x", alice.token[:-1], alice.token + "x", daemon.agent("bob").token, daemon.token, "\xff" * 50]

    async def connect(token: str) -> None:
        async with websocket(alice, token):
            pass

    unauthorized = pytest.RaisesExc(ConnectionRejected, check=lambda error: error.status_code == 401)
    for token in tokens:
        with pytest.RaisesGroup(unauthorized, flatten_subgroups=True):
            trio.run(connect, token)


@pytest.mark.parametrize("door", ["control.sock", "bulk.sock"])
def test_garbage_and_silence_are_closed_in_time(daemon: Daemon, alice, door):
    for data in (
        b"",
        b"\x00" * 100_000,
        b"GET / HTTP/1.1\r\n\r\n",
        b"{}\n",
        b"x" * 100_000,
        b'{"token": "x"}\n',
        b"\n",
    ):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(str(alice.directory / door))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(data)
                while sock.recv(65536):
                    pass


def test_a_hundred_silent_connections_are_bounded(daemon: Daemon, alice):
    descriptors = Path(f"/proc/{daemon.process.pid}/fd")
    before = len(list(descriptors.iterdir()))
    socks = []
    for door in ("control.sock", "bulk.sock"):
        for _ in range(100):
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(0.1)
            with contextlib.suppress(OSError):
                sock.connect(str(alice.directory / door))
            socks.append(sock)
    assert len(list(descriptors.iterdir())) <= before + 45, "connections_max is 20 for each door"
    assert daemon.status("bob", "warm")["state"] == "completed"
    wait_until(lambda: len(list(descriptors.iterdir())) <= before + 2, "unauthenticated_s is 1 s")
    for sock in socks:
        sock.close()


HELLOS: dict[str, Callable[[Daemon, AgentSeen], "str | bytes | Fact"]] = {
    "no hello": lambda daemon, agent: Started(1, Epoch("jaaaaaaaaa", 1), 0.0),
    "another agent's": lambda daemon, agent: hello(agent, agent=daemon.agent("bob").id),
    "an old generation": lambda daemon, agent: hello(agent, generation=agent.generation - 1),
    "a generation to come": lambda daemon, agent: hello(agent, generation=agent.generation + 1),
    "a protocol to come": lambda daemon, agent: hello(agent, protocol=99, protocol_min=98),
    "an ancient protocol": lambda daemon, agent: hello(agent, protocol=0, protocol_min=0),
}


@pytest.mark.parametrize("which", HELLOS)
def test_a_wrong_hello_is_told_to_end(daemon: Daemon, alice, which):
    orders = impostor(alice, HELLOS[which](daemon, alice), greet=False)
    assert kinds(orders) == ["End"]


MESSAGES = {
    "text that is no JSON": "hello",
    "an unknown message": '{"is": "Root", "command": "id"}',
    "an order": '{"is": "Start"}',
    "an unknown key": '{"is": "Beat", "count": 1, "x": 1}',
    "a wrong type": '{"is": "Beat", "count": "1"}',
    "too large": '{"is": "Beat", "count": 1' + " " * (300 << 10) + "}",
    "very deep": "[" * 50_000 + "]" * 50_000,
    "bytes": b'{"is": "Beat", "count": 1}',
    "not finite": '{"is": "Progress", "epoch": {"job": "jaaaaaaaaa", "serial": 1}, "fraction": 1e999}',
    "out of bounds": '{"is": "Progress", "epoch": {"job": "jaaaaaaaaa", "serial": 1}, "fraction": 7}',
    "no id": '{"is": "Taken", "epoch": {"job": "../../etc", "serial": 1}}',
    "a skipped fact": Started(10**6, Epoch("jaaaaaaaaa", 1), 0.0),
}


@pytest.mark.parametrize("which", MESSAGES)
def test_nonsense_closes_the_link(daemon: Daemon, alice, which):
    assert kinds(impostor(alice, MESSAGES[which])) == ["Welcome"]


def test_a_second_hello_closes_the_link(daemon: Daemon, alice):
    assert kinds(impostor(alice, hello(alice))) == ["Welcome"]


# --- what it may say ----------------------------------------------------------------------------------------------


def test_facts_about_another_users_run_change_nothing(daemon: Daemon, alice, job):
    foreign = epoch_of(daemon, "bob", job)
    facts: list[Fact] = [
        Started(alice.fact + 1, foreign, 0.0),
        Ended(alice.fact + 2, foreign, "exited", 0.0, exit_code=0),
        Progress(foreign, 1.0, "mine now"),
        Ended(alice.fact + 3, Epoch("jaaaaaaaaa", 7), "exited", 0.0, exit_code=0),
    ]
    orders = impostor(alice, *facts)
    assert kinds(orders) == ["Welcome", "Ack", "Ack", "Ack", "it stayed open"], "acknowledged, so that it forgets them"
    assert daemon.status("bob", job)["progress"]["text"] != "mine now"
    # The numbers are used up; the true agent must be able to go on all the same. (Checked by the fixture.)


def test_a_claim_to_hold_another_users_run_is_answered_with_stop_and_nothing_else(daemon: Daemon, alice, job):
    foreign = epoch_of(daemon, "bob", job)
    held = f'{{"epoch": {{"job": "{foreign.job}", "serial": {foreign.serial}}}, "state": "running"}}'
    text = codec.encode(hello(alice)).replace('"is"', f'"held": [{held}], "is"', 1)
    orders = impostor(alice, text, greet=False)
    assert kinds(orders)[0] == "Welcome"
    assert orders[0].stop == (foreign,)


def test_an_agent_that_denies_its_own_run_loses_it_and_no_other(daemon: Daemon, job):
    name = f"{job}-own"
    daemon.run("alice", name, "sleep 30")
    daemon.until("alice", name, "running")
    agent = daemon.agent("alice")
    agent.signal(signal.SIGSTOP)
    assert kinds(impostor(agent))[0] == "Welcome"
    agent.signal(signal.SIGCONT)
    assert daemon.until("alice", name, "failed")["cause"]["code"] == "lost"
    wait_until(lambda: not daemon.processes("JOBD_RUN=", str(daemon.file("alice", name, ""))), "it was ended")


def test_a_flood_of_facts_delays_nobody(daemon: Daemon, alice):
    stop = threading.Event()

    def flood() -> None:
        epoch = Epoch("jaaaaaaaaa", 1)

        async def talk() -> None:
            async with websocket(alice, alice.token) as link:
                with contextlib.suppress(ConnectionClosed):
                    await link.send_message(codec.encode(hello(alice)))
                    while not stop.is_set():
                        await link.send_message(codec.encode(Progress(epoch, 0.5, "x" * 200)))

        trio.run(talk)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        time.sleep(0.3)
        for _ in range(10):
            began = time.monotonic()
            assert daemon.status("bob", "warm")["state"] == "completed"
            assert time.monotonic() - began < 3.0
    finally:
        stop.set()
        thread.join()


# --- how it answers -----------------------------------------------------------------------------------------------

Behave = Callable[[WebSocketConnection, AgentSeen, str], Awaitable[None]]


@contextmanager
def answering(agent: AgentSeen, behave: Behave) -> Iterator[None]:
    """Take the agent's place, and do this with each question."""
    linked, token = threading.Event(), []

    async def serve(link: WebSocketConnection) -> None:
        await link.send_message(codec.encode(hello(agent)))
        while True:
            order = codec.decode(await link.get_message(), Order, 1 << 20)
            linked.set()
            if hasattr(order, "op") and type(order).__name__ != "Drop":
                await behave(link, agent, order.op)

    async def live() -> None:
        token.append(trio.lowlevel.current_trio_token())
        async with websocket(agent, agent.token) as link:
            with contextlib.suppress(ConnectionClosed):
                await serve(link)

    async def main() -> None:
        with trio.CancelScope() as scope:
            token.append(scope)
            await live()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    try:
        assert linked.wait(5)
        yield
    finally:
        scope, trio_token = token
        with contextlib.suppress(trio.RunFinishedError):
            trio.from_thread.run_sync(scope.cancel, trio_token=trio_token)
        thread.join(5)


async def push(agent: AgentSeen, op: str, announced: int, data: bytes, token: str = "") -> bytes:
    """A bulk stream: header, jobd's reply, bytes."""
    async with await trio.open_unix_socket(str(agent.directory / "bulk.sock")) as stream:
        header = {"token": token or agent.token, "transfer": op, "bytes": announced}
        await stream.send_all(json.dumps(header).encode() + b"\n")
        reply = await stream.receive_some(4096)
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(data)
        return reply


async def says(link: WebSocketConnection, answer: Answer) -> None:
    await link.send_message(codec.encode(answer))


async def never_sends(link, agent, op):
    await says(link, Answer(op, bytes=10))


async def sends_too_little(link, agent, op):
    await says(link, Answer(op, bytes=1000))
    await push(agent, op, 1000, b"x" * 10)


async def sends_too_much(link, agent, op):
    await says(link, Answer(op, bytes=10))
    await push(agent, op, 10, b"x" * 1_000_000)


async def stalls(link, agent, op):
    await says(link, Answer(op, bytes=1000))
    async with await trio.open_unix_socket(str(agent.directory / "bulk.sock")) as stream:
        await stream.send_all(json.dumps({"token": agent.token, "transfer": op}).encode() + b"\nxxx")
        await trio.sleep(2.5)


async def hangs_up_at_once(link, agent, op):
    await says(link, Answer(op, bytes=1000))
    stream = await trio.open_unix_socket(str(agent.directory / "bulk.sock"))
    await stream.send_all(json.dumps({"token": agent.token, "transfer": op}).encode() + b"\n")
    await trio.aclose_forcefully(stream)


async def announces_the_universe(link, agent, op):
    await says(link, Answer(op, bytes=1 << 50))


async def invents_an_error(link, agent, op):
    await says(link, Answer(op, error="root", text="<script>\r\nalert(1)\x00"))


async def smuggles_a_header(link, agent, op):
    await says(link, Answer(op, bytes=3, type="a/b\r\nset-cookie: x=y", result={"a\r\nb": "\u2028\r\n"}))
    await push(agent, op, 3, b"abc")


async def answers_other_questions_too(link, agent, op):
    await says(link, Answer("oaaaaaaaaa", result={"x": 1}))
    await says(link, Answer(op, result={"mine": True}))
    await says(link, Answer(op, error="second", text="thoughts"))


async def leaves(link, agent, op):
    await link.aclose()


HEAD = "answered before it could be known"
ANSWERS: list[tuple[Behave, set[object]]] = [
    (never_sends, {503}),
    (sends_too_little, {502, HEAD}),
    (sends_too_much, {200}),
    (stalls, {502, HEAD}),
    (hangs_up_at_once, {502, 503, HEAD}),
    (announces_the_universe, {413}),
    (invents_an_error, {502}),
    (smuggles_a_header, {200}),
    (answers_other_questions_too, {200}),
]


@pytest.mark.parametrize(("behave", "expected"), ANSWERS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_bad_answer_is_an_error_of_that_question(daemon: Daemon, alice, behave, expected):
    with answering(alice, behave), daemon.http() as http:
        try:
            reply = http.get("/v1/users/alice/jobs/warm/files/frames.txt")
        except httpx.RemoteProtocolError:
            outcome: object = HEAD  # the head was sent, and then the connection was cut: no short file
        else:
            outcome = reply.status_code
            assert "set-cookie" not in reply.headers
            if reply.status_code == 200:
                assert reply.content in (b"x" * 10, b"abc", b'{"mine":true}')
            else:
                assert reply.headers["content-type"] == "application/problem+json"
    assert outcome in expected
    wait_until(lambda: not daemon.tree("request"), "nothing of the question is left")


def test_a_question_of_an_agent_that_always_leaves_ends_at_its_deadline(make_daemon):
    daemon = make_daemon(requests={"analysis_s": 1.5}).start()
    daemon.done("alice", "warm", "true")
    agent = daemon.agent("alice")
    agent.signal(signal.SIGSTOP)
    with answering(agent, leaves), daemon.http() as http:
        reply = http.get("/v1/users/alice/jobs/warm/files/script.sh")
        assert (reply.status_code, reply.json()["code"]) == (504, "deadline")
    agent.signal(signal.SIGCONT)


def test_a_bulk_stream_for_what_nobody_asked_is_refused(daemon: Daemon, alice, job):
    foreign = epoch_of(daemon, "bob", job)

    async def refused(transfer: str, token: str) -> bytes:
        return await push(alice, transfer, 10, b"x" * 10, token)

    from hashlib import sha256

    from schemas.ids import new_id

    digest = sha256(f"{foreign.job}.{foreign.serial}.script.sh".encode()).digest()
    of_bob = new_id("t", int.from_bytes(digest[:6], "big"))
    for transfer, token in (("oaaaaaaaaa", ""), ("taaaaaaaaa", ""), (of_bob, ""), ("oaaaaaaaaa", "x" * 43)):
        reply = json.loads(trio.run(refused, transfer, token))
        assert reply["error"] in ("no such transfer", "unauthorized"), transfer
    assert trio.run(refused, "not an id", "") == b""
