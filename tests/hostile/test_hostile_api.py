"""The corpus against the public door: every refusal is clear, ends with its request or connection, and hurts nobody."""

import contextlib
import json
import re
import resource
import socket
from urllib.parse import urlsplit

import httpx
import pytest
from asking import bearer, good, minted, problem, wait_until
from corpus import FIELDS, GOOD, HEADERS, NAMES, ODD_QUERIES, PARTS, PATHS, QUERIES, TAKERS, TEXTS
from realdaemon import Daemon

from jobd.web.calls import Route
from jobd.web.routes import ROUTES

SILENT = 800


@pytest.fixture(scope="module")
def admin_token(daemon: Daemon) -> str:
    """What may do everything: nothing is refused for who asks."""
    with daemon.http() as http:
        good(http.put("/v1/users/bob/library/bobs", content=b"bob's"))
        good(http.put("/v1/users/alice/library/f", content=b"alice's"))
    with httpx.Client(
        base_url="http://jobd", transport=httpx.HTTPTransport(uds=str(daemon.state / "admin.sock"))
    ) as admin:
        return minted(admin, "")["token"]


@pytest.fixture(scope="module")
def http(daemon: Daemon, admin_token: str):
    with bearer(daemon, admin_token) as http:
        yield http


def connected(daemon: Daemon) -> socket.socket:
    where = urlsplit(daemon.url)
    return socket.create_connection((where.hostname, where.port), timeout=15)


def wire(daemon: Daemon, data: bytes) -> bytes:
    """What comes back for these bytes, until the connection ends."""
    answer = b""
    with connected(daemon) as sock, contextlib.suppress(ConnectionResetError, BrokenPipeError):
        sock.sendall(data)
        while piece := sock.recv(65536):
            answer += piece
    return answer


def raw(daemon: Daemon, token: str, method: str, target: str, body: bytes = b"") -> tuple[int, str]:
    """A request whose target no client library has tidied up: status and everything."""
    head = f"{method} {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\n"
    answer = wire(daemon, f"{head}content-length: {len(body)}\r\n\r\n".encode() + body).decode("latin-1")
    return int(answer.split()[1]), answer


def path_of(route: Route, **names: str) -> str:
    return route.path.format(**{**NAMES, **names})


def name_of(route: Route) -> str:
    return f"{route.method} {route.path}"


# --- bodies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", TAKERS, ids=name_of)
def test_a_body_that_is_no_json_of_ours_is_refused_and_changes_nothing(http, route):
    before = good(http.get("/v1/users/alice/jobs/warm"))
    for what, text in TEXTS.items():
        document = problem(http.request(route.method, path_of(route), content=text), 422)
        assert document["code"] == "invalid", what
        assert "field" in document, what
        assert len(document["detail"]) < 500, what
    assert good(http.get("/v1/users/alice/jobs/warm")) == before


@pytest.mark.parametrize("case", FIELDS, ids=lambda case: f"{case[0].__name__}-{case[2]}")
def test_a_wrong_field_is_named(http, case):
    kind, wrong, field = case
    for route in TAKERS:
        if route.request is kind:
            body = json.dumps({**GOOD[kind], **wrong})
            assert problem(http.request(route.method, path_of(route), content=body), 422)["field"] == field


@pytest.mark.parametrize("route", TAKERS, ids=name_of)
def test_an_oversize_body_is_413_said_or_not(daemon, http, admin_token, route):
    limit = 5 << 20

    def pieces():
        for _ in range(100):
            yield b" " * 65536

    with bearer(daemon, admin_token) as mine:
        assert problem(mine.request(route.method, path_of(route), content=b" " * (limit + 1)), 413)["limit"] == limit
    with bearer(daemon, admin_token) as mine, contextlib.suppress(httpx.WriteError, httpx.RemoteProtocolError):
        # Nobody has said how much. Who goes on to send is cut off, and may miss the answer.
        assert problem(mine.request(route.method, path_of(route), content=pieces()), 413)["limit"] == limit


def test_a_key_that_is_there_twice_counts_once(http):
    """The last one, as everywhere in JSON's world; what matters is that no part of jobd reads another one."""
    refused = b'{"code": "shell", "inputs": {"script.sh": {"text": "true"}}, "inputs": {"script.sh": {"text": 7}}}'
    assert problem(http.put("/v1/users/alice/jobs/twice/run", content=refused), 422)["field"] == "inputs.script.sh.text"


# --- paths ----------------------------------------------------------------------------------------------------------

NAMED = [(route, part) for route in ROUTES for part in re.findall(r"\{(\w+)\}", route.path) if part != "path"]


@pytest.mark.parametrize(("route", "part"), NAMED, ids=lambda each: each if isinstance(each, str) else name_of(each))
def test_no_odd_name_in_a_path_leads_anywhere(daemon, admin_token, route, part):
    body = json.dumps(GOOD[route.request]).encode() if route.request in GOOD else b""
    for name in PARTS:
        status, answer = raw(daemon, admin_token, route.method, path_of(route, **{part: name}), body)
        assert status in (400, 404, 405, 414, 422, 431), (name, answer[:300])
        assert "root:" not in answer
        assert "set-cookie" not in answer.lower()
        if status == 422:
            assert f'"field":"{part}"' in answer or route.method == "HEAD", (name, answer)


def test_no_odd_path_of_a_file_shows_anything(daemon, admin_token):
    for path in PATHS:
        status, answer = raw(daemon, admin_token, "GET", f"/v1/users/alice/jobs/warm/files/{path}")
        assert status in (400, 404, 405, 414, 422, 431), (path, answer[:300])
        assert "root:" not in answer
        assert daemon.token not in answer


def test_slashes_and_dots_in_the_way_to_a_resource_lead_nowhere(daemon, admin_token):
    for target in (
        "//v1/codes", "/v1//codes", "/v1/codes/", "/v1/./codes", "/v1/../v1/codes", "/V1/codes", "/v1/codes;x",
        "/v1/codes%2f", "/%76%31/codes%00", "\\v1\\codes", "/v1/users/bob/../alice/jobs",
        "/./healthz", "/v1/users/alice/jobs/warm/../../../admin/tree", "//v1/admin/tree",
        "/v1/users/alice//jobs/warm/files", "/v1/users/alice/jobs/warm//log", "*", "v1/codes", "?", "/?/v1/codes",
    ):  # fmt: skip
        status, answer = raw(daemon, admin_token, "GET", target)
        assert status in (400, 404, 405), (target, answer[:300])


# --- headers and queries --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(HEADERS)))
def test_an_odd_header_is_refused_or_means_nothing(http, number):
    headers, statuses = HEADERS[number]
    encoded = {name: value.encode("utf-8") for name, value in headers.items()}
    for path in (
        "/v1/users/alice/jobs/warm",
        "/v1/users/alice/jobs/warm/files/frames.txt",
        "/v1/users/alice/library/f",
    ):
        reply = http.get(path, headers=encoded)
        assert reply.status_code in statuses, (path, reply.text)
        assert "set-cookie" not in reply.headers
    assert good(http.get("/v1/users/alice/jobs/warm"))["state"] == "completed"


def test_two_credentials_are_none(daemon, admin_token):
    """Whichever of them a proxy in front has looked at."""
    good_one = f"Bearer {admin_token}"
    for both in (("Bearer x", good_one), (good_one, "Bearer x"), (good_one, good_one), ("Basic YTpi", good_one)):
        lines = "".join(f"authorization: {each}\r\n" for each in both)
        for path in ("/v1/admin/tree", "/v1/users/alice/jobs/warm"):
            answer = wire(daemon, f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{lines}\r\n".encode())
            assert answer.split()[1] == b"401", both


@pytest.mark.parametrize("reading", ["files", "log", "metrics", "explain", "files/frames.txt", "frames/lines/0"])
def test_an_odd_serial_is_refused_by_name(http, reading):
    for query in QUERIES:
        reply = http.get(f"/v1/users/alice/jobs/warm/{reading}?{query}")
        assert problem(reply, 422)["field"] == "serial", query
    for query in ODD_QUERIES:
        assert http.get(f"/v1/users/alice/jobs/warm/{reading}?{query}").status_code in (200, 422), query
    assert problem(http.get(f"/v1/users/alice/jobs/warm/{reading}?" + "a=1&" * 40), 422)["field"] == "query"


SMUGGLED = b"GET /v1/admin/tree HTTP/1.1\r\nhost: x\r\n\r\n"
WIRES = {
    "both lengths": b"POST /v1/codes HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n"
    b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": b"POST /v1/codes HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\ncontent-length: 40\r\n\r\n" + SMUGGLED,
    "a bad length": b"POST /v1/codes HTTP/1.1\r\nhost: x\r\ncontent-length: +5\r\n\r\nhello",
    "a negative length": b"POST /v1/codes HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\nhello",
    "a huge length": b"PUT /v1/codes HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999999\r\n\r\nhello",
    "a bad chunk": b"POST /v1/codes HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\nx",
    "a bad encoding": b"POST /v1/codes HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /healthz HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
    "a folded header": b"GET /healthz HTTP/1.1\r\nhost: x\r\na: b\r\n c\r\nconnection: close\r\n\r\n",
    "a space before the colon": b"GET /healthz HTTP/1.1\r\nhost: x\r\nauthorization : x\r\n\r\n",
    "a header without a name": b"GET /healthz HTTP/1.1\r\nhost: x\r\n: x\r\n\r\n",
    "a zero in a header": b"GET /healthz HTTP/1.1\r\nhost: x\r\na: \x00\r\n\r\n",
    "a bare line feed": b"GET /healthz HTTP/1.1\nhost: x\nconnection: close\n\n",
    "a bare carriage return": b"GET /healthz HTTP/1.1\rhost: x\r\r",
    "a long line": b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    "endless headers": b"GET /healthz HTTP/1.1\r\n" + b"a: b\r\n" * 20_000,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "another protocol": b"SSH-2.0-x\r\n\r\n",
    "an agent's hello": b'{"is": "Hello", "agent": "aaaaaaaaaa"}\n\r\n\r\n',
}  # fmt: skip


@pytest.mark.parametrize("what", WIRES)
def test_bytes_that_are_no_request_end_their_connection_and_smuggle_nothing(daemon, what):
    answer = wire(daemon, WIRES[what])
    heads = re.findall(rb"HTTP/1\.1 (\d+)", answer)
    assert len(heads) <= 1, answer
    assert b"operator" not in answer
    if what not in ("a folded header", "a bare line feed"):  # which HTTP/1.1 may still take
        assert not heads or heads[0].startswith(b"4") or heads[0] in (b"501", b"505"), answer


# --- what is another's ----------------------------------------------------------------------------------------------


def test_another_users_ids_open_nothing(daemon, http):
    """alice knows bob's job, serial, token id, agent id and file names, and has a token of her own."""
    with daemon.http() as gateway:
        hers, his = minted(gateway, "alice")["token"], minted(gateway, "bob")
    agent = daemon.agent("bob").id
    directory = daemon.file("bob", "bystander", "").relative_to(daemon.state / "runs")
    with bearer(daemon, hers) as alice:
        for method, path in (
            ("GET", "/v1/users/bob/jobs/bystander"), ("POST", "/v1/users/bob/jobs/bystander/cancel"),
            ("DELETE", "/v1/users/bob/jobs/bystander"), ("GET", "/v1/users/bob/jobs/warm/files/frames.txt"),
            ("GET", "/v1/users/bob/library/bobs"), ("DELETE", f"/v1/users/bob/tokens/{his['id']}"),
            ("DELETE", f"/v1/users/alice/tokens/{his['id']}"), ("POST", f"/v1/admin/agents/{agent}/stop"),
            ("PUT", "/v1/users/bob"), ("POST", "/v1/users/bob/tokens"), ("PUT", "/v1/users/alice"),
        ):  # fmt: skip
            assert problem(alice.request(method, path), 403)["code"] == "forbidden", path
        mine = "/v1/users/alice/jobs"
        assert good(alice.get(f"{mine}/bystander"))["state"] == "missing"
        assert good(alice.post(f"{mine}/bystander/cancel", json={"serial": None}))["state"] == "missing"
        for path in (f"../../../{directory}/script.sh", f"{directory}/script.sh", "bobs"):
            problem(alice.get(f"{mine}/warm/files/{path}"), 403, 404, 422)
        assert problem(alice.get("/v1/users/alice/library/bobs"), 404)
        ask = {"code": "shell", "inputs": {"script.sh": {"text": "cat x"}, "x": {"library": "bobs"}}}
        assert problem(alice.put(f"{mine}/thief/run", json=ask), 422)["field"] == "inputs.x.library"
        names = {view["job"] for view in good(alice.get(mine))["jobs"]}
        assert "bystander" not in names
    with bearer(daemon, his["token"]) as bob:
        assert good(bob.get("/v1/users/bob/jobs/bystander"))["state"] == "running", "his token is still good"


# --- crowds ---------------------------------------------------------------------------------------------------------


def test_eight_hundred_silent_connections_do_not_shut_the_others_out(daemon, http):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    silent = [connected(daemon) for _ in range(SILENT)]
    try:
        for sock in silent[: SILENT // 2]:  # half of them have begun a request and not ended it
            sock.sendall(b"GET /v1/codes HTTP/1.1\r\nhost: ")
        with daemon.http() as fresh:  # a new connection, and one that is there
            for each in (fresh, http):
                for _ in range(20):
                    assert good(each.get("/v1/users/bob/jobs/bystander"))["state"] == "running"
            assert fresh.get("/v1/users/bob/jobs/warm/files/frames.txt").text == "frame\n"
        wait_until(lambda: all(is_closed(sock) for sock in silent), "read_s is 3 s")
    finally:
        for sock in silent:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_one_connection_carries_many_large_bodies(http):
    """The next body begins while the answer before it is still on its way out; it is never read as a head."""
    for _ in range(100):
        for size in (200_014, 350_008):
            problem(http.post("/v1/users/alice/compute/shell/echo", content=b"x" * size), 422)


def is_closed(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return sock.recv(4096) == b"" or is_closed(sock)
    except BlockingIOError:
        return False
    except OSError:
        return True
