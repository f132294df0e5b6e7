"""The user's library: whole contents by their SHA-256, their names, their limits, and the runs that were given them."""

import hashlib
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from asking import WAITS, go, good, problem, shell, wait_until
from realdaemon import Daemon

UPLOAD_MAX = 3 << 20
QUOTA = {"library_files": 3, "library_bytes": 1000}


@pytest.fixture(scope="module")
def daemon(make_module_daemon) -> Daemon:
    tiers = {"default": {"sequential": 1, "parallel": 2, "pending_max": 30}, "small": {"sequential": 1, **QUOTA}}
    return make_module_daemon(tiers=tiers, http={"upload_bytes_max": UPLOAD_MAX, "stall_s": 2.0}).start()


@pytest.fixture(scope="module")
def http(daemon: Daemon):
    with daemon.http() as http:
        yield http


@pytest.fixture
def library(job):
    """The library of a user of this test's own."""
    return f"/v1/users/{job[:100]}/library"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def contents(daemon: Daemon) -> set[str]:
    """The contents that are kept, by SHA-256, and what is being received."""
    return {path.name for path in (daemon.state / "library").rglob("*") if path.is_file()}


# --- up and down ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65536, (1 << 20) + 1, UPLOAD_MAX])
def test_what_is_stored_comes_back_byte_for_byte(http, library, size):
    content = os.urandom(size)
    stored = http.put(f"{library}/f.bin", content=content)
    view = good(stored)
    assert (view["name"], view["bytes"], view["sha256"]) == ("f.bin", size, sha256(content))
    assert stored.headers["etag"] == f'"{sha256(content)}"'
    reply = http.get(f"{library}/f.bin")
    assert (reply.status_code, reply.content) == (200, content)
    assert reply.headers["content-length"] == str(size)
    assert good(http.get(library)) == {"files": [view]}


def test_a_body_of_unknown_length_is_taken_as_it_comes(http, library):
    pieces = [os.urandom(number) for number in (1, 100_000, 7, 700_000)]
    assert good(http.put(f"{library}/f", content=iter(pieces)))["sha256"] == sha256(b"".join(pieces))


def test_a_library_file_is_an_attachment_that_no_browser_runs(http, library):
    good(http.put(f"{library}/page.html", content=b"<script>alert(1)</script>"))
    headers = http.get(f"{library}/page.html").headers
    assert headers["content-disposition"].startswith("attachment")
    assert headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in headers["content-security-policy"]
    assert headers["content-type"] == "application/octet-stream"


def test_a_head_says_size_and_content_without_the_bytes(http, library):
    good(http.put(f"{library}/f", content=b"12345"))
    reply = http.head(f"{library}/f")
    assert (reply.status_code, reply.content) == (200, b"")
    assert (reply.headers["content-length"], reply.headers["etag"]) == ("5", f'"{sha256(b"12345")}"')
    assert http.get(f"{library}/f").content == b"12345", "the connection is good for the next request"
    assert http.head(f"{library}/none").status_code == 404
    assert http.get("/healthz").status_code == 200


def test_a_content_that_the_caller_has_is_304(http, library):
    tag = http.put(f"{library}/f", content=b"12345").headers["etag"]
    for said in (tag, f"W/{tag}", f'"{"0" * 64}", {tag}'):
        for method in ("GET", "HEAD"):
            reply = http.request(method, f"{library}/f", headers={"if-none-match": said})
            assert (reply.status_code, reply.content, reply.headers["etag"]) == (304, b"", tag), said
    for other in ('"x"', "x", tag.strip('"'), f'"{"0" * 64}"'):
        assert http.get(f"{library}/f", headers={"if-none-match": other}).status_code == 200, other
    good(http.put(f"{library}/f", content=b"123456"))
    assert http.get(f"{library}/f", headers={"if-none-match": tag}).content == b"123456"


def test_a_range_of_a_library_file_is_served_as_such(http, library):
    content = os.urandom(700_000)
    good(http.put(f"{library}/f", content=content))
    good(http.put(f"{library}/empty", content=b""))
    end = len(content) - 1
    spans = (("0-0", 0, 0), ("3-5", 3, 5), (f"{end}-", end, end), ("300000-", 300_000, end), ("0-9999999", 0, end))
    for span, first, last in spans:
        reply = http.get(f"{library}/f", headers={"range": f"bytes={span}"})
        assert (reply.status_code, reply.content) == (206, content[first : last + 1]), span
        assert reply.headers["content-range"].startswith(f"bytes {first}-{last}/"), span
    for span in ("700000-", "9999999-"):
        assert problem(http.get(f"{library}/f", headers={"range": f"bytes={span}"}), 416)["code"] == "range"
    assert problem(http.get(f"{library}/empty", headers={"range": "bytes=0-"}), 416)["code"] == "range"
    assert problem(http.get(f"{library}/f", headers={"range": "bytes=5-3"}), 422)["field"] == "range"
    for odd in ("bytes=-", "bytes=x-y", "lines=1-2", "bytes=0-1,5-6", "bytes=٣-", f"bytes={'9' * 30}-"):
        reply = http.get(f"{library}/f", headers={"range": odd.encode()})
        assert (reply.status_code, reply.content) == (200, content), odd


# --- names ----------------------------------------------------------------------------------------------------------


def test_a_name_stands_for_the_newest_content_and_is_taken_off(http, library):
    for content in (b"one", b"two"):
        good(http.put(f"{library}/f", content=content))
        assert http.get(f"{library}/f").content == content
    good(http.put(f"{library}/same", content=b"two"))
    assert [file["name"] for file in good(http.get(library))["files"]] == ["f", "same"]
    assert http.delete(f"{library}/f").status_code == 204
    assert problem(http.get(f"{library}/f"), 404)["code"] == "not_found"
    problem(http.delete(f"{library}/f"), 404)
    assert http.get(f"{library}/same").content == b"two", "another name of the same content stays"


def test_a_library_is_its_users_alone(http, library):
    good(http.put(f"{library}/f", content=b"mine"))
    other = library.replace("/library", "-2/library")
    assert good(http.get(other)) == {"files": []}
    for method in ("GET", "HEAD", "DELETE"):
        assert http.request(method, f"{other}/f").status_code == 404
    assert http.get(f"{library}/f").content == b"mine"


@pytest.mark.parametrize("name", ["..", ".f", "-f", "a" * 129, "a%20b", "a%2fb", "%2e%2e", "%00", "ü", "a;b"])
def test_a_bad_name_is_refused_or_leads_nowhere(daemon, http, library, name):
    before = contents(daemon)
    for method in ("PUT", "GET", "DELETE"):
        reply = http.request(method, f"{library}/{name}", content=b"x" if method == "PUT" else None)
        problem(reply, 404, 405, 422)
    assert contents(daemon) == before


# --- limits ---------------------------------------------------------------------------------------------------------


def test_an_upload_beyond_the_limit_is_refused_and_nothing_of_it_is_kept(daemon, http, library):
    before = contents(daemon)
    too_much = os.urandom(UPLOAD_MAX + 1)
    for content in (too_much, (too_much[start : start + 65536] for start in range(0, len(too_much), 65536))):
        with daemon.http() as mine:
            assert problem(mine.put(f"{library}/f", content=content), 413)["limit"] == UPLOAD_MAX
    assert problem(http.get(f"{library}/f"), 404)
    assert contents(daemon) == before


def torn(daemon: Daemon, path: str, data: bytes, announced: int) -> socket.socket:
    where = urlsplit(daemon.url)
    sock = socket.create_connection((where.hostname, where.port), timeout=10)
    head = (
        f"PUT {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {daemon.token}\r\ncontent-length: {announced}\r\n\r\n"
    )
    sock.sendall(head.encode() + data)
    return sock


@pytest.mark.parametrize("how", ["hangs up", "half-closes", "falls silent"])
def test_a_torn_upload_stores_nothing_and_leaves_what_was_there(daemon, http, library, how):
    good(http.put(f"{library}/f", content=b"whole"))
    before = contents(daemon)
    sock = torn(daemon, f"{library}/f", os.urandom(1_500_000), 2_000_000)
    wait_until(lambda: contents(daemon) > before, "it is being received")
    if how == "hangs up":
        sock.close()
    elif how == "half-closes":
        sock.shutdown(socket.SHUT_WR)
    wait_until(lambda: contents(daemon) == before, "what was received is gone")
    sock.close()
    assert http.get(f"{library}/f").content == b"whole"


def test_a_library_beyond_its_quota_is_refused_with_the_limit_and_keeps_nothing_of_it(daemon, http, library):
    good(http.put(library.removesuffix("/library"), json={"tier": "small"}))
    for name in ("a", "b"):
        good(http.put(f"{library}/{name}", content=os.urandom(400)))
    before = contents(daemon)
    refused = problem(http.put(f"{library}/c", content=os.urandom(201)), 429)
    assert refused["limit"] == QUOTA["library_bytes"]
    assert problem(http.put(f"{library}/c", content=iter([os.urandom(201)])), 429)["limit"] == QUOTA["library_bytes"]
    assert contents(daemon) == before, "what was refused is not kept"
    good(http.put(f"{library}/c", content=os.urandom(200)))
    before = contents(daemon)
    assert problem(http.put(f"{library}/d", content=b""), 429)["limit"] == QUOTA["library_files"]
    # What a replaced file frees counts at once.
    good(http.put(f"{library}/a", content=b"x"))
    good(http.put(f"{library}/b", content=os.urandom(799)))
    usage = good(http.get(library.replace("/library", "/usage")))
    assert (usage["library_files"], usage["library_bytes"]) == (3, 1000)
    assert http.delete(f"{library}/c").status_code == 204
    good(http.put(f"{library}/d", content=b""))


# --- runs -----------------------------------------------------------------------------------------------------------


def test_what_happens_to_a_name_after_the_acceptance_does_not_touch_the_run(daemon: Daemon, http, library):
    user = Path(library).parent.name
    good(http.put(f"{library}/lib", content=b"old\n"))
    good(http.put(f"{library}/gone", content=b"gone\n"))
    good(http.put(f"/v1/users/{user}/jobs/first/run", json=shell(WAITS)), 202)
    daemon.until(user, "first", "running")
    files = {"a/lib": {"library": "lib"}, "gone": {"library": "gone"}}
    good(http.put(f"/v1/users/{user}/jobs/waits/run", json=shell("cat a/lib gone", files=files)), 202)
    good(http.put(f"{library}/lib", content=b"new\n"))
    assert http.delete(f"{library}/gone").status_code == 204
    daemon.sigkill_and_restart()
    with daemon.http() as http:
        go(daemon, user, "first")
        assert daemon.until(user, "waits", "completed")["log_tail"] == "old\ngone\n"
        assert http.get(f"{library}/lib").content == b"new\n"
        inputs = good(http.get(f"/v1/users/{user}/jobs/waits/runs"))["runs"][0]["inputs"]
        assert {each["path"]: each["sha256"] for each in inputs if "library" in each} == {
            "a/lib": sha256(b"old\n"), "gone": sha256(b"gone\n"),
        }  # fmt: skip


def test_megabytes_of_library_arrive_at_the_run_byte_for_byte(daemon: Daemon, library):
    user, content = Path(library).parent.name, os.urandom(UPLOAD_MAX)
    with daemon.http() as http:
        good(http.put(f"{library}/big", content=content))
        ask = shell("sha256sum big copy", files={"big": {"library": "big"}, "copy": {"library": "big"}})
        good(http.put(f"/v1/users/{user}/jobs/j/run", json=ask), 202)
        said = daemon.until(user, "j", "completed")["log_tail"]
    assert said == f"{sha256(content)}  big\n{sha256(content)}  copy\n"
