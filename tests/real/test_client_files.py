"""Files up and down by the client: large, torn, resumed, replaced; whole and right, or an error and nothing."""

import hashlib
import random
import threading

import pytest
from realdaemon import Daemon, wait_until
from talking import Liar, Proxy, Speaker, reply

from jobd.client import JobdClientError, ProblemError, UnreachableError

pytestmark = pytest.mark.parametrize("kind", ["threads", "trio"])

OLD, NEW = random.Random(1).randbytes(8 << 20), random.Random(2).randbytes(8 << 20)


@pytest.fixture(scope="module")
def daemon(make_module_daemon) -> Daemon:
    return make_module_daemon(http={"upload_bytes_max": 10 << 20}).start()


@pytest.fixture
def user(kind: str, request: pytest.FixtureRequest) -> str:
    return f"{request.function.__name__}-{kind}"[:100]


def test_a_torn_upload_is_repeated_and_stored_once(jobd, direct, daemon, proxy, user, tmp_path):
    (tmp_path / "big").write_bytes(OLD)
    proxy.tears = [100_000, 5_000_000]
    proxy.lose_answers = 1
    view = jobd.upload(user, "big", tmp_path / "big")
    assert (view.bytes, view.sha256) == (len(OLD), hashlib.sha256(OLD).hexdigest())
    assert proxy.accepted == 4
    assert [file.bytes for file in direct.library(user).files] == [len(OLD)]
    parts = [path for path in daemon.state.rglob("*") if path.is_file() and path.stat().st_size in (100_000, 5_000_000)]
    assert parts == []


def test_an_upload_that_is_too_large_is_refused_in_the_middle(jobd, direct, user, tmp_path):
    (tmp_path / "big").write_bytes(OLD * 3)
    with pytest.raises(ProblemError) as refused:
        jobd.upload(user, "big", tmp_path / "big")
    assert (refused.value.status, refused.value.code, refused.value.document["limit"]) == (413, "too_large", 10 << 20)
    assert direct.library(user).files == ()


def test_an_upload_that_changes_meanwhile_is_told(kind, daemon, user, tmp_path):
    """The digest is of the file before; what arrived is another."""
    path = tmp_path / "file"
    path.write_bytes(OLD)
    proxy = Proxy(daemon.url)
    proxy.tears = [1_000_000]
    jobd = Speaker(kind, proxy.url, token=daemon.token)
    threading.Thread(target=lambda: (wait_until(lambda: proxy.accepted), path.write_bytes(NEW))).start()
    with pytest.raises(JobdClientError, match="did it change meanwhile"):
        jobd.upload(user, "f", path)
    proxy.close()


def test_a_download_goes_on_where_it_was_cut(jobd, direct, proxy, user, tmp_path):
    direct.upload(user, "big", OLD)
    proxy.cuts = [100, 1_000_000, 3_000_000, 500]
    assert jobd.download(user, "big", tmp_path / "to") == len(OLD)
    assert (tmp_path / "to").read_bytes() == OLD
    assert proxy.accepted == 5
    assert [path.name for path in tmp_path.iterdir()] == ["to"]


@pytest.mark.parametrize("there", [None, b"what was there"])
def test_a_file_that_is_replaced_meanwhile_is_an_error_and_nothing_else(jobd, direct, proxy, user, tmp_path, there):
    direct.upload(user, "big", OLD)
    to = tmp_path / "to"
    if there is not None:
        to.write_bytes(there)
    proxy.cuts = [2_000_000]
    proxy.then = lambda: direct.upload(user, "big", NEW)
    with pytest.raises(JobdClientError, match="was replaced"):
        jobd.download(user, "big", to)
    assert (to.read_bytes() if to.exists() else None) == there
    assert list(tmp_path.iterdir()) == ([to] if there else [])


def test_a_file_that_is_gone_meanwhile_is_an_error(jobd, direct, proxy, user, tmp_path):
    direct.upload(user, "big", OLD)
    proxy.cuts = [2_000_000]
    proxy.then = lambda: direct.remove(user, "big")
    with pytest.raises(ProblemError) as refused:
        jobd.download(user, "big", tmp_path / "to")
    assert refused.value.code == "not_found"
    assert list(tmp_path.iterdir()) == []


def test_two_downloads_to_one_place_do_not_mix(kind, jobd, direct, user, tmp_path):
    direct.upload(user, "old", OLD)
    direct.upload(user, "new", NEW)
    threads = [
        threading.Thread(target=jobd.download, args=(user, name, tmp_path / "to")) for name in ("old", "new") * 3
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "to").read_bytes() in (OLD, NEW)
    assert [path.name for path in tmp_path.iterdir()] == ["to"]


def test_a_runs_file_and_log_go_on_over_a_sigkill(make_daemon, kind, tmp_path):
    daemon = make_daemon().start()
    proxy = Proxy(daemon.url)
    jobd = Speaker(kind, proxy.url, token=daemon.token)
    text = "head -c 6000000 /dev/urandom > big; sha256sum big | cut -c1-64 > sum; seq 5000"
    jobd.run("alice", "j", "shell", inputs={"script.sh": text})
    jobd.result("alice", "j")

    def kill() -> None:
        daemon.sigkill_and_restart()
        proxy.target = daemon.url
        proxy.then = lambda: None

    proxy.cuts, proxy.then = [2_000_000], kill
    assert jobd.file("alice", "j", "big", tmp_path / "big") == 6000000
    jobd.file("alice", "j", "sum", tmp_path / "sum")
    assert hashlib.sha256((tmp_path / "big").read_bytes()).hexdigest() == (tmp_path / "sum").read_text().strip()
    log = "".join(f"{number}\n" for number in range(1, 5001)).encode()
    for follow in (False, True):
        proxy.cuts = [0, 10_000]  # first the status
        assert b"".join(jobd.log("alice", "j", follow=follow)) == log
    proxy.close()


# --- what only a liar or a strange proxy does -------------------------------------------------------------------------


def torn(body: bytes, length: int, **headers: str) -> list[bytes]:
    return reply(body, content_length=str(length), **headers)


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (reply(b"0123456789", etag='"a"'), "was replaced"),  # it knows no ranges
        (reply(b"56789", "206 Partial Content", etag='"a"', content_range="bytes 4-8/*"), "was replaced"),
        (reply(b"5678", "206 Partial Content", etag='"a"', content_range="bytes 5-8/*"), "was replaced"),
        (reply(b"56789", "206 Partial Content", etag='"b"', content_range="bytes 5-9/*"), "was replaced"),
        (reply(b"", "416 Range Not Satisfiable"), "416"),
    ],
)
def test_a_rest_that_is_none_is_refused(kind, second, says, tmp_path):
    liar = Liar(torn(b"01234", 10, etag='"a"'), second)
    with pytest.raises(JobdClientError, match=says):
        Speaker(kind, liar.url).download("alice", "f", tmp_path / "to")
    assert list(tmp_path.iterdir()) == []
    liar.close()


def test_a_rest_that_is_one_is_taken(kind, tmp_path):
    rest = reply(b"56789", "206 Partial Content", etag='"a"', content_range="bytes 5-9/10")
    liar = Liar(torn(b"01234", 10, etag='"a"'), rest)
    assert Speaker(kind, liar.url).download("alice", "f", tmp_path / "to") == 10
    assert (tmp_path / "to").read_bytes() == b"0123456789"
    liar.close()


def test_a_download_without_progress_ends_with_patience(kind, tmp_path):
    nothing = reply(b"", "206 Partial Content", etag='"a"', content_range="bytes 5-9/10", content_length="5")
    liar = Liar(torn(b"01234", 10, etag='"a"'), nothing)
    with pytest.raises(UnreachableError):
        Speaker(kind, liar.url, patience_s=0.5).download("alice", "f", tmp_path / "to")
    assert list(tmp_path.iterdir()) == []
    liar.close()


def test_a_body_without_a_length_is_no_download(kind, tmp_path):
    liar = Liar([b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", b"0123456789"])
    with pytest.raises(JobdClientError, match="cannot be read"):
        Speaker(kind, liar.url).download("alice", "f", tmp_path / "to")
    assert list(tmp_path.iterdir()) == []
    liar.close()


def test_an_upload_that_was_changed_on_its_way_is_told(kind):
    view = b'{"name": "f", "bytes": 1, "sha256": "0", "modified_at": ""}'
    liar = Liar(reply(view))
    with pytest.raises(JobdClientError, match="arrived with SHA-256 0"):
        Speaker(kind, liar.url).upload("alice", "f", b"x")
    liar.close()
