"""What an attacker sends to the gateway's door, and what a code puts in the way of whoever looks at its run."""

import json
import socket
from urllib.parse import urlsplit

import httpx
import pytest
from realdaemon import Daemon, wait_until

RUN = "/v1/users/alice/jobs/j/run"
GOOD = {"code": "shell", "inputs": {"script.sh": {"text": "true"}}}


@pytest.fixture(autouse=True)
def the_daemon_goes_on(daemon):
    yield
    assert daemon.process.poll() is None, daemon.log()
    assert httpx.get(f"{daemon.url}/healthz").status_code == 200


def problem(reply: httpx.Response, *statuses: int) -> dict:
    assert reply.status_code in statuses, (reply.status_code, reply.text)
    assert reply.headers["content-type"] == "application/problem+json"
    document = reply.json()
    assert {"type", "title", "status", "code", "detail"} <= set(document)
    assert document["status"] == reply.status_code
    assert "Traceback" not in reply.text
    return document


def wire(daemon: Daemon, data: bytes) -> str:
    """What comes back for these bytes, until the connection ends."""
    where = urlsplit(daemon.url)
    with socket.create_connection((where.hostname, where.port), timeout=10) as sock:
        answer = b""
        try:
            sock.sendall(data)
            while piece := sock.recv(65536):
                answer += piece
        except (ConnectionResetError, BrokenPipeError):
            pass
    return answer.decode("latin-1")


def raw(daemon: Daemon, method: str, target: str, body: str = "") -> tuple[int, str]:
    """A request whose target no client library has tidied up: status and everything."""
    head = f"{method} {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {daemon.token}\r\nconnection: close\r\n"
    answer = wire(daemon, f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
    return int(answer.split()[1]), answer


# --- who calls --------------------------------------------------------------------------------------------------------

CALLS = [
    ("PUT", "/v1/users/{}/jobs/{}/run"),
    ("GET", "/v1/users/{}/jobs/{}"),
    ("POST", "/v1/users/{}/jobs/{}/cancel"),
    ("GET", "/v1/users/{}/jobs/{}/events"),
    ("GET", "/v1/users/{}/jobs/{}/log"),
    ("GET", "/v1/users/{}/jobs/{}/files"),
    ("GET", "/v1/users/{}/jobs/{}/files/script.sh"),
    ("GET", "/v1/users/{}/jobs/{}/frames/lines/0"),
    ("POST", "/v1/users/{}/jobs/{}/analysis/echo"),
    ("GET", "/v1/codes"),
    ("GET", "/v1/admin/tree"),
]


def test_without_the_token_nothing_is_told(daemon: Daemon):
    daemon.done("alice", "secret", "echo frame > frames.txt")
    token = daemon.token
    wrong = ["", "Bearer", "Bearer ", "Bearer x", f"Bearer {token}x", f"Bearer {token[:-1]}", f"Basic {token}", token]
    wrong += ["Bearer " + "x" * 5000, "Bearer \xff\xfe"]
    answers = set()
    # A new connection each: one is closed by an answer that comes before the body was read.
    with httpx.Client(base_url=daemon.url, headers={"connection": "close"}, trust_env=False) as http:
        for method, path in CALLS:
            for names in (("alice", "secret"), ("nobody", "nothing"), ("_", "_")):
                for each in wrong if names[0] == "alice" else wrong[:1]:
                    headers = [(b"authorization", each.strip().encode("latin-1"))] if each else []
                    body = None if method == "GET" else b"{not json"
                    reply = http.request(method, path.format(*names), headers=headers, content=body)
                    problem(reply, 401)
                    assert reply.headers["www-authenticate"] == "Bearer"
                    answers.add(reply.text)
        problem(http.get(f"/v1/users/alice/jobs/secret?token={token}&access_token={token}"), 401)
    assert len(answers) == 1, "the same answer, whatever exists"
    assert token not in daemon.log()


def test_an_operators_resources_are_closed_at_the_public_door(daemon: Daemon):
    with daemon.http() as http:
        assert problem(http.get("/v1/admin/tree"), 403)["code"] == "forbidden"
    for name in ("admin.sock", "service-token", "jobd.sqlite", "jobd.sqlite-wal"):
        assert (daemon.state / name).stat().st_mode & 0o077 == 0, name


# --- names and paths --------------------------------------------------------------------------------------------------

NAMES = [
    "..",
    ".",
    ".hidden",
    "-x",
    "a" * 129,
    "a%20b",
    "%00",
    "a%00",
    "a%2fb",
    "%2e%2e",
    "%ff%fe",
    "a%0ab",
    "a;b",
    "~",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_name_is_refused_or_leads_nowhere(daemon: Daemon, name):
    for user, job in ((name, "j"), ("alice", name)):
        for method, rest in (("GET", ""), ("PUT", "/run"), ("GET", "/events"), ("POST", "/cancel"), ("GET", "/log")):
            target = f"/v1/users/{user}/jobs/{job}{rest}"
            status, text = raw(daemon, method, target, json.dumps(GOOD) if method == "PUT" else "")
            assert status in (400, 404, 422), (method, target, text)


PATHS = [
    "../script.sh", "%2e%2e%2f%2e%2e%2fjobd.sqlite", "..%2f..%2f..%2fservice-token", "a/../../x", "/etc/passwd",
    "%2fetc%2fpasswd", ".", "..", "a//b", "a%00b", "a%0ab", "x" * 600, "/".join("x" * 20), "%ff", "a\\..\\b", "*", "",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_a_bad_path_is_refused_and_shows_nothing(daemon: Daemon, path):
    if daemon.status("alice", "j")["state"] == "missing":
        daemon.done("alice", "j", "true")
    status, text = raw(daemon, "GET", f"/v1/users/alice/jobs/j/files/{path}")
    assert status in (400, 404, 422), text
    assert "root:" not in text
    assert daemon.token not in text
    with daemon.http() as http:
        if "%" not in path:
            ask = {"code": "shell", "inputs": {"script.sh": {"text": "true"}, path: {"text": "x"}}}
            assert problem(http.put("/v1/users/alice/jobs/bad/run", json=ask), 422)["field"] == "inputs"


# --- bodies -----------------------------------------------------------------------------------------------------------

BODIES: dict[str, tuple[object, str]] = {
    "no code": ({}, "code"),
    "an unknown code": ({"code": "none"}, "code"),
    "a code of the wrong type": ({"code": 7}, "code"),
    "an unknown key": ({**GOOD, "uid": 0}, "uid"),
    "an unknown mode": ({**GOOD, "mode": "turbo"}, "mode"),
    "a mode that the code has not": ({**GOOD, "code": "absent", "mode": "parallel"}, "mode"),
    "mode batch without a cluster": ({**GOOD, "mode": "batch"}, "batch"),
    "a cluster that is not there": ({**GOOD, "mode": "batch", "batch": {"cluster": "x"}}, "batch.cluster"),
    "no required input": ({"code": "shell"}, "inputs.script.sh"),
    "inputs as a list": ({"code": "shell", "inputs": []}, "inputs"),
    "an input as text": ({"code": "shell", "inputs": {"script.sh": "true"}}, "inputs.script.sh"),
    "an empty input": ({"code": "shell", "inputs": {"script.sh": {}}}, "inputs.script.sh.text"),
    "both kinds": ({"code": "shell", "inputs": {"script.sh": {"text": "", "json": 1}}}, "inputs.script.sh.text"),
    "a file below a file": (
        {"code": "shell", "inputs": {"script.sh": {"text": ""}, "script.sh/x": {"text": ""}}},
        "inputs.script.sh/x",
    ),
    "too many files": ({"code": "shell", "inputs": {f"f{i}": {"text": ""} for i in range(1001)}}, "inputs"),
    "more files than the code takes": (
        {"code": "shell", "inputs": {"script.sh": {"text": ""}, **{f"f{i}": {"text": ""} for i in range(64)}}},
        "inputs",
    ),
    "no cores": ({**GOOD, "resources": {"cores": 0}}, "resources.cores"),
    "too many cores": ({**GOOD, "resources": {"cores": 9}}, "resources.cores"),
    "absurdly many cores": ({**GOOD, "resources": {"cores": 10**30}}, "resources.cores"),
    "cores as text": ({**GOOD, "resources": {"cores": "2"}}, "resources.cores"),
    "cores as truth": ({**GOOD, "resources": {"cores": True}}, "resources.cores"),
    "half a core": ({**GOOD, "resources": {"cores": 1.5}}, "resources.cores"),
    "all memory there is": ({**GOOD, "resources": {"memory_bytes": 1 << 49}}, "resources.memory_bytes"),
    "a negative time": ({**GOOD, "limits": {"run_s": -1}}, "limits.run_s"),
    "eternity": ({**GOOD, "limits": {"run_s": 1e300}}, "limits.run_s"),
    "force as text": ({**GOOD, "force": "yes"}, "force"),
    "null": (None, ""),
    "a list": ([], ""),
    "a number": (7, ""),
}


@pytest.mark.parametrize("body", BODIES)
def test_a_bad_body_is_refused_and_the_field_is_named(daemon: Daemon, body):
    ask, field = BODIES[body]
    with daemon.http() as http:
        assert problem(http.put("/v1/users/alice/jobs/refused/run", content=json.dumps(ask)), 422)["field"] == field
    assert daemon.status("alice", "refused")["state"] == "missing"


TEXTS = {
    "nothing like JSON": b"hello",
    "half of it": b'{"code": "shell", "inputs',
    "not UTF-8": b'{"code": "\xff"}',
    "a lone surrogate": b'{"code": "shell", "inputs": {"script.sh": {"text": "\\ud800"}}}',
    "not a number": b'{"code": "shell", "limits": {"run_s": NaN}}',
    "infinite": b'{"code": "shell", "limits": {"run_s": 1e999}}',
    "a number of 10,000 digits": b'{"code": "shell", "resources": {"cores": ' + b"9" * 10_000 + b"}}",
    "very deep": b'{"code": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep JSON input": b'{"code": "shell", "inputs": {"script.sh": {"json": ' + b"[" * 100 + b"]" * 100 + b"}}}",
    "a key twice": b'{"code": "shell", "code": 7}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"reason": "\u00fc"}'.encode("utf-16-le"),
    "a surrogate as bytes": b'{"code": "shell", "inputs": {"script.sh": {"text": "\xed\xa0\x80"}}}',
}


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_not_proper_json_is_refused(daemon: Daemon, text):
    with daemon.http() as http:
        for path in (RUN, "/v1/users/alice/jobs/j/cancel", "/v1/users/alice/jobs/j/analysis/echo"):
            problem(http.request("PUT" if path == RUN else "POST", path, content=TEXTS[text]), 422)


def test_a_body_that_is_too_large_is_refused_with_the_limit(daemon: Daemon):
    body = b'{"code": "' + b"x" * (6 << 20) + b'"}'

    def pieces():
        for _ in range(96):
            yield b" " * 65536

    with daemon.http() as http:
        for method, path in (("PUT", RUN), ("POST", "/v1/users/alice/jobs/j/analysis/echo")):
            assert problem(http.request(method, path, content=body), 413)["limit"] == 5 << 20
            try:
                reply = http.request(method, path, content=pieces())  # chunked: nobody has said how much
            except httpx.HTTPError:
                continue  # cut while it still sent
            problem(reply, 413)


def test_queries_and_headers_that_make_no_sense_are_refused(daemon: Daemon):
    daemon.done("alice", "q", "echo frame > frames.txt")
    base = "/v1/users/alice/jobs/q"
    with daemon.http() as http:
        for path, field in (
            ("files?serial=0", "serial"), ("files?serial=-1", "serial"), ("files?serial=x", "serial"),
            ("files?serial=1e3", "serial"), ("files/script.sh?serial=x", "serial"),
            ("files/script.sh?follow=1&offset=x", "offset"), ("frames/lines/-1", "index"), ("frames/lines/x", "index"),
            ("frames/lines/1.5", "index"), ("frames/lines/0?width=x", "width"), (f"frames/lines/{'9' * 40}", "index"),
        ):  # fmt: skip
            assert problem(http.get(f"{base}/{path}"), 422)["field"] == field, path
        for path in (f"files?serial={1 << 60}", "files/script.sh?serial=99", "files?serial=99", "log?serial=0"):
            problem(http.get(f"{base}/{path}"), 409, 422)
        for wait in ("wait=-1", "wait=x", "wait=9999999"):
            problem(http.get(base, headers={"if-none-match": '"1"', "prefer": wait}), 422)
        for last in ("x", "-1", "1" * 50):
            reply = http.get(f"{base}/events", headers={"last-event-id": last})
            assert problem(reply, 422)["field"] == "last-event-id"
        for tag in ("x", '"x"', '"99999999999999999999999999"', "*", '"1", "2"'):
            assert http.get(base, headers={"if-none-match": tag}).status_code in (200, 304)
        problem(http.post(f"{base}/cancel", json={"serial": 0}), 422)
        problem(http.post(f"{base}/cancel", json={"serial": 99}), 409)
        problem(http.post(f"{base}/cancel", json={"reason": "x" * 501}), 422)
        problem(http.post(f"{base}/analysis/nothing"), 404)
        problem(http.post(f"{base}/analysis/echo", json={"arguments": {}, "x": 1}), 422)
        for method, path in (("DELETE", f"{base}/run"), ("PATCH", f"{base}/run"), ("POST", base), ("GET", "/nowhere")):
            problem(http.request(method, path), 404, 405)


WIRES = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x00" * 1000 + b"\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /v1/codes HTTP/1.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade, close\r\nsec-websocket-key: x\r\n"
    b"sec-websocket-extensions: \xff\r\nsec-websocket-version: 13\r\n\r\n",
    b"PUT /x HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n",
    b"PUT /x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"GET http://evil/v1/codes HTTP/1.1\r\nhost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n",
    b"PUT / HTTP/1.1\r\nhost: x\r\n" + b"x: y\r\n" * 10_000 + b"\r\n",
]


def test_no_bytes_on_the_wire_harm_the_others(daemon: Daemon):
    with daemon.http() as http:
        for data in WIRES:
            text = wire(daemon, data)
            assert not text or text.startswith(("HTTP/1.1 4", "HTTP/1.1 505")), (data, text)
            assert http.get("/v1/codes").status_code == 200


def test_many_silent_connections_do_not_shut_the_others_out(daemon: Daemon):
    where = urlsplit(daemon.url)
    silent = [socket.create_connection((where.hostname, where.port)) for _ in range(200)]
    assert daemon.status("alice", "x")["state"] == "missing"
    for sock in silent:
        sock.close()


# --- what a code puts in the way -------------------------------------------------------------------------------------


def test_links_pipes_and_devices_in_a_run_directory_are_not_served(daemon: Daemon):
    script = r"""
    ln -s /etc/passwd link; ln -s /etc dir; ln -s . loop; mkfifo pipe; mkdir d; ln -s ../../../.. d/up
    ln -s ../../../../jobd.sqlite store; ln -s /proc/self/environ env
    touch 'sp ace'; touch "$(printf 'new\nline')"; touch "$(printf 'bad\377name')"; mkdir deep; cd deep
    for i in $(seq 30); do mkdir x && cd x; done; touch bottom
    """
    daemon.done("alice", "links", script)
    base = "/v1/users/alice/jobs/links"
    with daemon.http() as http:
        assert {file["path"] for file in http.get(f"{base}/files").json()["files"]} == {"script.sh", "sp ace"}
        for path in ("link", "dir/passwd", "loop/script.sh", "pipe", "d/up/jobd.sqlite", "store", "env", "d", "dir"):
            reply = http.get(f"{base}/files/{path}")
            assert problem(reply, 404)["code"] == "file_not_found", path
            assert "root:" not in reply.text
        assert http.get(f"{base}/files/sp ace").status_code == 200


def test_a_run_directory_that_was_swapped_for_a_link_is_not_followed(daemon: Daemon):
    daemon.done("alice", "swap", 'cd ..; mv 1 old; ln -s /etc 1; echo "log"')
    base = "/v1/users/alice/jobs/swap"
    with daemon.http() as http:
        problem(http.get(f"{base}/files/passwd"), 404)
        problem(http.get(f"{base}/files"), 404)
        assert http.get(f"{base}/log").text == "log\n"
    assert daemon.done("alice", "swap", "echo works")["log_tail"] == "works\n"


def test_a_worker_that_fails_is_the_failure_of_one_question(daemon: Daemon):
    daemon.run("alice", "worker", "echo frame > frames.txt; while [ ! -e go ]; do sleep 0.05; done")
    daemon.until("alice", "worker", "running")
    base = "/v1/users/alice/jobs/worker"
    with daemon.http() as http:
        for method in ("crash", "garbage", "hang"):
            document = problem(http.post(f"{base}/analysis/{method}", json={}), 502)
            assert document["code"] == "analysis_failed", method
            assert "worker of shell" in document["detail"]
            if method == "crash":
                assert "the worker has crashed, as it was asked to" in document["detail"]
            assert http.get(f"{base}/frames/lines/0").json()["line"] == "frame", method
    assert daemon.status("alice", "worker")["state"] == "running"
    daemon.file("alice", "worker", "go").touch()
    daemon.until("alice", "worker", "completed")


@pytest.mark.parametrize("kind", ["text/html", "a\r\nset-cookie: x=y", "\u00fc", "\u6771", " ", "", "x" * 99])
def test_no_type_of_an_answer_breaks_the_reply(daemon: Daemon, kind):
    daemon.done("alice", "j", "true")
    with daemon.http() as http:
        reply = http.post("/v1/users/alice/jobs/j/analysis/type", json={"arguments": {"type": kind}})
        assert "set-cookie" not in reply.headers
        if reply.status_code == 200:
            assert reply.content == b"abc"
            assert "sandbox" in reply.headers["content-security-policy"]
        else:
            assert problem(reply, 502)["code"] == "analysis_failed"


def test_a_code_is_told_no_secret(daemon: Daemon):
    daemon.done("alice", "env", "tr '\\0' ' ' < /proc/$PPID/cmdline; echo; tr '\\0' '\\n' < /proc/$PPID/environ; env")
    said = daemon.status("alice", "env")["log_tail"]
    assert daemon.token not in said
    assert daemon.agent("alice").token not in said
    names = {line.split("=")[0] for line in said.splitlines() if "=" in line}
    assert names <= {"HOME", "TMPDIR", "PATH", "JOBD_RUN", "PWD", "OLDPWD", "SHLVL", "_", "LANG"}


def test_a_user_sees_nothing_of_another(daemon: Daemon):
    daemon.done("alice", "mine", "echo secret > out")
    daemon.done("bob", "other", "true")
    with daemon.http() as http:
        assert http.get("/v1/users/bob/jobs/mine").json()["state"] == "missing"
        for path in ("files", "files/out", "log", "frames/lines/0"):
            problem(http.get(f"/v1/users/bob/jobs/mine/{path}"), 404)
    inside = daemon.file("alice", "mine", "out").relative_to(daemon.state / "runs")
    status, text = raw(daemon, "GET", f"/v1/users/bob/jobs/other/files/../../../{inside}")
    assert status == 422, text
    wait_until(lambda: not daemon.tree("request"))
