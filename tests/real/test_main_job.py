"""The main job, as a gateway's web server and its users do it."""

import contextlib
import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from plainclient import Event, ProblemError
from realdaemon import OVER, Daemon, wait_until

SLOW = "echo begun; while [ ! -e go ]; do sleep 0.05; done; echo done"


@pytest.fixture
def slow(daemon, job):
    """A run that goes on until `go()`; ended in any case."""
    daemon.run("alice", job, SLOW)
    daemon.until("alice", job, "running")
    yield lambda: daemon.file("alice", job, "go").touch()
    with daemon.client() as client:
        client.cancel("alice", job)
    daemon.until("alice", job, lambda now: now["state"] in OVER and now["end_confirmed"])


@pytest.fixture
def path(job):
    return f"/v1/users/alice/jobs/{job}"


# --- a run: what it leaves ------------------------------------------------------------------------------------------


def test_a_run_leaves_its_files_its_log_and_its_exit_code(daemon: Daemon, job):
    status = daemon.done("alice", job, "echo hello; echo oops >&2; mkdir d; echo result > d/out.txt")
    assert status["state"] == "completed"
    assert status["cause"]["code"] == "completed"
    assert status["usage"]["exit_code"] == 0
    assert status["log_tail"] == "hello\noops\n"
    assert [stage["name"] for stage in status["timeline"]] == ["accepted", "admitted", "ordered", "started", "ended"]
    with daemon.client() as client:
        assert b"".join(client.log("alice", job)) == b"hello\noops\n"
        assert client.file("alice", job, "d/out.txt") == b"result\n"
        files = {file["path"]: file["bytes"] for file in client.files("alice", job)["files"]}
    assert files["d/out.txt"] == 7
    assert set(files) == {"d/out.txt", "script.sh"}


def test_inputs_arrive_byte_for_byte(daemon: Daemon, job):
    texts = {
        "unicode.txt": "Zürich 東京 \U0001f680\r\n\ttab\x00nul no newline at the end",
        "empty": "",
        "a/b/c/deep name.txt": "deep",
        "three megabytes": "0123456789abcde\n" * (3 << 16),
    }
    daemon.done("alice", job, 'find . -type f ! -name sums -exec sha256sum "{}" + > sums', files=texts)
    with daemon.client() as client:
        sums = client.file("alice", job, "sums").decode()
        for name, text in texts.items():
            assert f"{hashlib.sha256(text.encode()).hexdigest()}  ./{name}\n" in sums
            assert client.file("alice", job, name) == text.encode()


def test_a_json_input_is_written_canonically(daemon: Daemon, job):
    inputs = {"script.sh": {"text": "cat p.json"}, "p.json": {"json": {"b": [1, 2.5, None], "a": "ü"}}}
    with daemon.client() as client:
        client.run("alice", job, code="shell", inputs=inputs)
        assert json.loads(daemon.until("alice", job, "completed")["log_tail"]) == inputs["p.json"]["json"]


# --- when a run is asked for again ------------------------------------------------------------------------------------


def test_the_same_input_twice_is_the_same_run_while_it_is_active_and_when_it_has_completed(daemon, job, slow, path):
    with daemon.http() as http:
        ask = {"code": "shell", "inputs": {"script.sh": {"text": SLOW}}}
        again = http.put(f"{path}/run", json=ask)
        assert (again.status_code, again.json()["serial"], again.json()["state"]) == (200, 1, "running")
        slow()
        daemon.until("alice", job, "completed")
        again = http.put(f"{path}/run", json=ask)
        assert (again.status_code, again.json()["serial"], again.json()["state"]) == (200, 1, "completed")
        assert http.put(f"{path}/run", json={**ask, "force": True}).status_code == 202
    assert daemon.until("alice", job, "running")["serial"] == 2


def test_another_input_while_one_is_active_is_refused_with_its_serial(daemon, job, slow):
    with pytest.raises(ProblemError) as refused:
        daemon.run("alice", job, "echo another")
    assert (refused.value.status, refused.value.code, refused.value.document["serial"]) == (409, "run_active", 1)
    assert daemon.status("alice", job)["state"] == "running"


def test_superseding_cancels_the_active_run_and_runs_the_new_one(daemon, job, slow):
    assert daemon.run("alice", job, "echo another", supersede=True)["serial"] == 2
    status = daemon.until("alice", job, "completed")
    assert (status["serial"], status["log_tail"]) == (2, "another\n")
    with daemon.client() as client:
        assert b"".join(client.log("alice", job)) == b"another\n"
        old = client.cancel("alice", job, serial=1)
    assert (old["state"], old["cause"]["code"], old["end_confirmed"]) == ("canceled", "superseded", True)


def test_a_failed_run_with_the_same_input_starts_anew_in_an_empty_directory(daemon, job):
    script = "ls; touch trace; exit 3"
    assert daemon.done("alice", job, script)["serial"] == 1
    again = daemon.done("alice", job, script)
    assert (again["serial"], again["state"], again["log_tail"]) == (2, "failed", "script.sh\n")


def test_ten_requests_at_the_same_moment_make_one_run(daemon, job, path):
    replies = []
    with daemon.http() as http:
        ask = {"code": "shell", "inputs": {"script.sh": {"text": "sleep 0.3; echo once"}}}

        def put():
            replies.append(http.put(f"{path}/run", json=ask))

        threads = [threading.Thread(target=put) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(reply.status_code for reply in replies) == [200] * 9 + [202]
    assert {reply.json()["serial"] for reply in replies} == {1}
    daemon.until("alice", job, "completed")


def test_a_job_that_never_ran_is_missing(daemon, path):
    with daemon.http() as http:
        assert http.get(path).json() == {"user": "alice", "job": path.rpartition("/")[2], "state": "missing"}
        assert http.get(f"{path}/log").json()["code"] == "no_run"
        assert http.post(f"{path}/cancel").json()["state"] == "missing"


# --- reading files ----------------------------------------------------------------------------------------------------


def test_a_range_of_a_file_is_served_as_such(daemon, job, path):
    daemon.done("alice", job, "printf 0123456789 > digits; : > empty")
    with daemon.http() as http:

        def get(span, name="digits"):
            return http.get(f"{path}/files/{name}", headers={"range": f"bytes={span}"})

        for span, expected in (("3-5", b"345"), ("7-", b"789"), ("0-99", b"0123456789"), ("0-0", b"0")):
            reply = get(span)
            assert (reply.status_code, reply.content) == (206, expected), span
            first = span.split("-")[0]
            assert reply.headers["content-range"].startswith(f"bytes {first}-{int(first) + len(expected) - 1}/"), span
        whole = http.get(f"{path}/files/digits")
        assert (whole.status_code, whole.content, whole.headers["accept-ranges"]) == (200, b"0123456789", "bytes")
        assert get("-3").content in (b"789", b"0123456789")
        assert get("11-").status_code == 416
        assert get("11-").json()["code"] == "range"
        assert get("10-").status_code == 416  # RFC 9110: the first position must be below the length
        assert get("5-3").status_code in (200, 416, 422)
        assert get("x-y").status_code == 200
        assert (http.get(f"{path}/files/empty").status_code, http.get(f"{path}/files/empty").content) == (200, b"")
        assert http.get(f"{path}/files/nothing").json()["code"] == "file_not_found"


def test_a_download_is_an_attachment_that_no_browser_runs(daemon, job, path):
    daemon.done("alice", job, "echo '<script>alert(1)</script>' > page.html")
    with daemon.http() as http:
        headers = http.get(f"{path}/files/page.html").headers
        assert headers["content-disposition"].startswith("attachment")
        assert headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in headers["content-security-policy"]
        assert headers["jobd-serial"] == "1"


def test_several_megabytes_arrive_whole(daemon, job, path):
    daemon.done("alice", job, "head -c 6000000 /dev/urandom > big; sha256sum big | cut -c1-64 > sum")
    with daemon.client() as client:
        content = client.file("alice", job, "big")
        assert len(content) == 6000000
        assert hashlib.sha256(content).hexdigest() == client.file("alice", job, "sum").decode().strip()
        with daemon.http() as http:
            middle = http.get(f"{path}/files/big", headers={"range": "bytes=1000000-4999999"})
            assert middle.content == content[1000000:5000000]


def test_a_followed_log_grows_with_the_run_and_ends_with_it(daemon, job, slow):
    pieces = []

    def follow():
        with daemon.client() as client:
            pieces.extend(client.log("alice", job, follow=True))

    thread = threading.Thread(target=follow)
    thread.start()
    wait_until(lambda: b"".join(pieces) == b"begun\n", "the log arrives while the run goes on")
    slow()
    thread.join(10)
    assert b"".join(pieces) == b"begun\ndone\n"


def test_an_older_run_is_read_by_its_serial(daemon, job, path):
    daemon.done("alice", job, "echo first > out")
    daemon.done("alice", job, "echo second > out")
    with daemon.http() as http:
        assert http.get(f"{path}/files/out").text == "second\n"
        old = http.get(f"{path}/files/out", params={"serial": 1})
        assert (old.text, old.headers["jobd-serial"]) == ("first\n", "1")
        assert http.get(f"{path}/files/out", params={"serial": 3}).json()["code"] == "stale_serial"


# --- analysis and frames ----------------------------------------------------------------------------------------------


def test_frames_are_answered_while_the_run_goes_on_and_afterwards(daemon, job, path):
    script = "for i in 0 1 2; do echo frame$i >> frames.txt; done; printf half >> frames.txt; " + SLOW
    daemon.run("alice", job, script)
    daemon.until("alice", job, lambda now: now.get("progress", {}).get("frames") == {"lines": 3})
    with daemon.http() as http:
        for _ in ("running", "ended"):
            assert http.get(f"{path}/frames/lines/0").json()["line"] == "frame0"
            assert http.get(f"{path}/frames/lines/2").json()["line"] == "frame2"
            assert http.get(f"{path}/frames/lines/latest").json()["index"] == 2
            missing = http.get(f"{path}/frames/lines/3")
            assert (missing.status_code, missing.json()["code"]) == (404, "no_frame")
            echo = http.post(f"{path}/analysis/echo", json={"arguments": {"a": [1, "ü"]}})
            assert echo.json()["echo"] == {"a": [1, "ü"]}
            daemon.file("alice", job, "go").touch()
            daemon.until("alice", job, "completed")
    assert daemon.status("alice", job)["progress"]["frames"] == {"lines": 3}


@pytest.mark.parametrize("size", [256, 65536, 65536 + 256, 5 << 20])
def test_an_answer_of_any_size_arrives_whole(daemon, size):
    path = "/v1/users/alice/jobs/sizes"
    daemon.done("alice", "sizes", "true")
    with daemon.http() as http:
        blob = http.post(f"{path}/analysis/blob", json={"arguments": {"bytes": size}})
        assert blob.content == bytes(range(256)) * (size // 256)
        assert json.loads(blob.headers["jobd-meta"]) == {"of": "worker"}
        text = http.post(f"{path}/analysis/json", json={"arguments": {"chars": size}})
        assert text.json()["json"] == "x" * size


@pytest.mark.parametrize("words", ["word " * 500, "x" * 1989 + " y"])
def test_long_words_beside_the_bytes_of_an_answer_do_no_harm(daemon, words):
    daemon.done("alice", "sizes", "true")
    with daemon.http() as http:
        reply = http.post("/v1/users/alice/jobs/sizes/analysis/meta", json={"arguments": {"words": words}})
        assert (reply.status_code, reply.content) == (200, b"abc")
        if "jobd-meta" in reply.headers:
            assert json.loads(reply.headers["jobd-meta"]) == {"words": words}


# --- waiting for changes ----------------------------------------------------------------------------------------------


def test_a_status_that_has_not_changed_is_304(daemon, job, path):
    daemon.done("alice", job, "true")
    with daemon.http() as http:
        tag = http.get(path).headers["etag"]
        same = http.get(path, headers={"if-none-match": tag})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
        assert http.get(path, headers={"if-none-match": f"W/{tag}"}).status_code == 304
        daemon.done("alice", job, "true", force=True)
        assert http.get(path, headers={"if-none-match": tag}).status_code == 200


def test_a_long_poll_returns_at_the_change_and_not_before(daemon, job, slow, path):
    with daemon.http() as http:
        for _ in range(100):  # the progress of its beginning may still change it
            tag = http.get(path).headers["etag"]
            still = http.get(path, headers={"if-none-match": tag, "prefer": "wait=1"})
            if still.status_code == 304:
                break
        assert still.status_code == 304
        timer = threading.Timer(0.5, slow)
        timer.start()
        began = time.monotonic()
        changed = http.get(path, headers={"if-none-match": tag, "prefer": "wait=15"})
        assert changed.status_code == 200
        assert changed.headers["etag"] != tag
        assert 0.4 < time.monotonic() - began < 10
        assert http.get(path, headers={"prefer": "wait=15"}).status_code == 200  # nothing to compare with: at once


def stages(daemon: Daemon, job: str, last: int, until: Callable[[Event], bool]) -> list[Event]:
    """The stage events after `last`, up to the event that ends the wait."""
    seen = []
    with daemon.client() as client:
        for event in client.events("alice", job, last=last):
            if event.name == "stage":
                seen.append(event)
            if until(event):
                return seen
    raise AssertionError("the stream ended")


def test_each_stage_is_pushed_once_and_resumes_after_a_sigkill(make_daemon, job):
    daemon = make_daemon().start()
    daemon.run("alice", job, SLOW)
    first = stages(daemon, job, 0, lambda event: event.name == "stage" and event.data["name"] == "started")
    assert [(event.number, event.data["name"]) for event in first] == [
        (1, "accepted"), (2, "admitted"), (3, "ordered"), (4, "started"),
    ]  # fmt: skip
    daemon.sigkill_and_restart()
    daemon.until("alice", job, lambda now: now["known"]["state"] == "fresh")
    daemon.file("alice", job, "go").touch()

    def over(event):
        return event.name == "status" and event.data["state"] in OVER and event.data["end_confirmed"]

    assert [(event.number, event.data["name"]) for event in stages(daemon, job, 4, over)] == [(5, "ended")]
    # A second run of the job goes on with the numbers, and an old id still tells all that came after it.
    daemon.done("alice", job, "true")
    assert [event.number for event in stages(daemon, job, 3, over)] == [4, 5, 6, 7, 8, 9, 10]


@pytest.fixture(scope="module", autouse=True)
def idle_stream(daemon):
    """The comments that an idle event stream has sent since the module's first test: nobody needs to wait for them."""
    comments = []

    def watch():
        with (
            contextlib.suppress(httpx.HTTPError),
            daemon.http() as http,
            http.stream("GET", "/v1/users/alice/jobs/idle/events", timeout=30) as reply,
        ):
            assert reply.headers["content-type"].startswith("text/event-stream")
            comments.extend(line for line in reply.iter_lines() if line.startswith(":"))

    threading.Thread(target=watch, daemon=True).start()
    return comments


# --- hanging up -------------------------------------------------------------------------------------------------------


def raw(daemon: Daemon, path: str, method: str = "GET", body: str = "", **headers: str) -> socket.socket:
    """A request whose answer nobody has read yet."""
    where = urlsplit(daemon.url)
    sock = socket.create_connection((where.hostname, where.port), timeout=10)
    headers |= {"host": "x", "authorization": f"Bearer {daemon.token}", "content-length": str(len(body))}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    sock.sendall(f"{method} {path} HTTP/1.1\r\n{lines}\r\n{body}".encode())
    return sock


def test_a_client_that_hangs_up_ends_what_only_served_it_and_never_the_run(daemon, job, slow, path):
    daemon.until("alice", job, lambda now: "progress" in now)
    with daemon.http() as http:
        tag = http.get(path).headers["etag"]
    before = daemon.tree()
    sockets = [
        raw(daemon, f"{path}/events"),
        raw(daemon, f"{path}/log?follow=1"),
        raw(daemon, f"{path}/analysis/sleep", "POST", '{"arguments": {"s": 1}}'),
        raw(daemon, f"{path}/analysis/echo", "POST", "{}"),  # waits behind the one before
        raw(daemon, path, if_none_match=tag, prefer="wait=60"),
    ]
    kinds = {"events", "read", "analysis", "status"}
    wait_until(lambda: {name.split()[0] for name in daemon.tree("request")} == kinds, "all are open")
    for sock in sockets:
        sock.close()
    wait_until(lambda: daemon.tree() == before, "their scopes have left the tree", 5)
    assert daemon.status("alice", job)["state"] == "running"
    with daemon.http() as http:
        assert http.post(f"{path}/analysis/echo", json={}).status_code == 200


def test_a_client_that_hangs_up_after_asking_for_a_run_has_one(daemon, job, path):
    body = json.dumps({"code": "shell", "inputs": {"script.sh": {"text": "echo nobody waited"}}})
    raw(daemon, f"{path}/run", "PUT", body).close()
    wait_until(lambda: daemon.status("alice", job)["state"] != "pending", "it was accepted, or never came")
    status = daemon.status("alice", job)
    assert status["state"] in ("missing", "running", "completed")  # accepted whole or not at all
    if status["state"] != "missing":
        daemon.until("alice", job, "completed")


def test_fifty_watchers_that_hang_up_leave_no_descriptor(daemon, job, slow, path):
    descriptors = Path(f"/proc/{daemon.process.pid}/fd")
    baseline = len(list(descriptors.iterdir()))
    sockets = [raw(daemon, f"{path}/events") for _ in range(50)]
    wait_until(lambda: len(daemon.tree("request")) >= 50, "fifty watch")
    for sock in sockets:
        sock.close()
    wait_until(lambda: len(list(descriptors.iterdir())) <= baseline, "the descriptors are back", 5)


def test_an_idle_event_stream_is_kept_alive(idle_stream):
    wait_until(lambda: idle_stream, "a comment keeps proxies from hanging up")


def test_what_the_site_offers_is_listed(daemon):
    with daemon.http() as http:
        codes = {code["name"]: code for code in http.get("/v1/codes").json()["codes"]}
    assert {"shell", "lammps", "absent"} <= set(codes)
    assert codes["shell"]["modes"]["sequential"]["cores_max"] == 8
    assert httpx.get(f"{daemon.url}/healthz").json() == {"status": "alive"}
    assert httpx.get(f"{daemon.url}/readyz").json() == {"status": "ready"}
