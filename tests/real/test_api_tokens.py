"""Minted tokens: what they open, for how long, and that nothing but their reader ever sees their text."""

import contextlib
import re
import threading
import time
from datetime import UTC, datetime

import httpx
import pytest
from asking import WAITS, bearer, go, good, minted, operator, problem, shell, wait_until
from realdaemon import Daemon

TOKENS_MAX = 6


@pytest.fixture(scope="module")
def daemon(make_module_daemon) -> Daemon:
    return make_module_daemon(requests={"tokens_per_user_max": TOKENS_MAX, "token_s_max": 7200.0}).start()


@pytest.fixture(scope="module")
def http(daemon: Daemon):
    with daemon.http() as http:
        yield http


@pytest.fixture
def user(job):
    """A user of this test's own."""
    return job[:100]


def test_a_token_is_told_once_and_opens_what_it_says_until_it_says(daemon, http, user):
    before = time.time()
    view = minted(http, user, lifetime_s=600)
    expires = datetime.fromisoformat(view["expires_at"]).astimezone(UTC).timestamp()
    assert before + 599 < expires < time.time() + 601
    assert len(view["token"]) >= 43, "256 random bits"
    assert good(http.get(f"/v1/users/{user}/tokens"))["tokens"] == [
        {"id": view["id"], "expires_at": view["expires_at"]}
    ]
    with bearer(daemon, view["token"]) as mine:
        assert good(mine.get(f"/v1/users/{user}/jobs")) == {"jobs": []}
    bound = minted(http, user, job="j", read_only=True)
    listed = {each["id"]: each for each in good(http.get(f"/v1/users/{user}/tokens"))["tokens"]}
    assert listed[bound["id"]] == {key: value for key, value in bound.items() if key != "token"}
    assert (bound["job"], bound["read_only"]) == ("j", True)


def test_a_minted_token_is_kept_from_caches_logs_and_the_store(daemon: Daemon, http, user):
    reply = http.post(f"/v1/users/{user}/tokens", json={})
    assert reply.headers["cache-control"] == "no-store"
    text = good(reply, 201)["token"]
    with bearer(daemon, text) as mine:
        mine.get(f"/v1/users/{user}/jobs")
        mine.get("/v1/admin/tree")
    assert text not in daemon.log()
    kept = [path for path in daemon.state.rglob("*") if path.is_file()]
    assert kept
    for path in kept:
        assert text.encode() not in path.read_bytes(), path


def test_a_users_own_program_runs_looks_and_cancels_in_the_users_name(daemon, http, user):
    with bearer(daemon, minted(http, user)["token"]) as mine:
        good(mine.put(f"/v1/users/{user}/jobs/j/run", json=shell(WAITS)), 202)
        daemon.until(user, "j", "running")
        good(mine.put(f"/v1/users/{user}/library/f", content=b"x"))
        assert mine.get(f"/v1/users/{user}/library/f").content == b"x"
        assert good(mine.post(f"/v1/users/{user}/jobs/j/cancel"))["cause"]["actor"] == user


def test_a_jobs_token_serves_a_whole_session_with_that_job(daemon, http, user):
    with bearer(daemon, minted(http, user, job="j")["token"]) as mine:
        path = f"/v1/users/{user}/jobs/j"
        good(mine.put(f"{path}/run", json=shell("echo frame > frames.txt")), 202)
        daemon.until(user, "j", "completed")
        assert good(mine.get(f"{path}/frames/lines/0"))["line"] == "frame"
        assert mine.get(f"{path}/files/frames.txt").text == "frame\n"
        for other in ("jobs/k", "jobs", "jobs/k/files/frames.txt", "library", "usage"):
            assert problem(mine.get(f"/v1/users/{user}/{other}"), 403)["code"] == "forbidden"
        good(mine.delete(path))


def test_a_token_ends_at_its_time_and_makes_room_for_another(daemon, http, user):
    short = [minted(http, user, lifetime_s=1.0) for _ in range(TOKENS_MAX)]
    full = problem(http.post(f"/v1/users/{user}/tokens", json={}), 429)
    assert (full["code"], full["limit"]) == ("quota", TOKENS_MAX)
    minted(http, "somebody-else-entirely")
    with bearer(daemon, short[0]["token"]) as mine:
        assert mine.get("/v1/codes").status_code == 200
        wait_until(lambda: mine.get("/v1/codes").status_code == 401, "it has expired")
    wait_until(lambda: good(http.get(f"/v1/users/{user}/tokens")) == {"tokens": []}, "all of them have")
    assert http.delete(f"/v1/users/{user}/tokens/{short[0]['id']}").status_code == 404
    minted(http, user)


def test_an_event_stream_ends_with_the_token_that_opened_it(daemon, http, user):
    lines: list[str] = []
    with bearer(daemon, minted(http, user, lifetime_s=1.5)["token"]) as mine:
        with mine.stream("GET", f"/v1/users/{user}/jobs/j/events") as reply:
            assert reply.status_code == 200
            lines.extend(reply.iter_lines())  # it ends, and cleanly
        assert mine.get(f"/v1/users/{user}/jobs/j/events").status_code == 401
    assert "event: status" in lines


def test_revoking_a_token_closes_it_at_once_and_no_other(daemon, http, user):
    gone, stays = minted(http, user), minted(http, user)
    with bearer(daemon, gone["token"]) as mine, bearer(daemon, stays["token"]) as other:
        assert mine.get("/v1/codes").status_code == 200
        assert http.delete(f"/v1/users/{user}/tokens/{gone['id']}").status_code == 204
        assert problem(mine.get("/v1/codes"), 401)["code"] == "unauthorized"
        assert other.get("/v1/codes").status_code == 200
    assert problem(http.delete(f"/v1/users/{user}/tokens/{gone['id']}"), 404)["code"] == "not_found"


LONG = {
    "an event stream": ("events", {}),
    "a followed log": ("log?follow=1", {}),
    "a long poll": ("", {"prefer": "wait=60"}),
}


@pytest.mark.parametrize(("what", "how"), [*((each, "revoked") for each in LONG), ("a followed log", "expired")])
def test_whatever_a_token_has_open_ends_with_it(daemon, http, user, what, how):
    """Revoking is what one does with a stolen token."""
    path, headers = LONG[what]
    base = f"/v1/users/{user}/jobs/j"
    good(http.put(f"{base}/run", json=shell(WAITS)), 202)
    daemon.until(user, "j", lambda now: "progress" in now)
    view = minted(http, user, lifetime_s=60 if how == "revoked" else 2.5)
    opened, statuses = threading.Event(), []

    def open_it():
        with bearer(daemon, view["token"]) as mine, contextlib.suppress(httpx.RemoteProtocolError):
            tag = mine.get(base).headers["etag"]
            with mine.stream("GET", f"{base}/{path}".rstrip("/"), headers={"if-none-match": tag, **headers}) as reply:
                statuses.append(reply.status_code)
                for _ in reply.iter_raw():
                    opened.set()

    thread = threading.Thread(target=open_it, daemon=True)
    thread.start()
    if what == "a long poll":
        wait_until(lambda: any(name.startswith("status") for name in daemon.tree("request")), "it waits")
    else:
        assert opened.wait(10)
    assert thread.is_alive()
    if how == "revoked":
        assert http.delete(f"/v1/users/{user}/tokens/{view['id']}").status_code == 204
    thread.join(15)
    assert not thread.is_alive(), "it goes on"
    assert statuses == ([401] if what == "a long poll" else [200])
    wait_until(lambda: not daemon.tree("request"), "nothing of it is left")
    assert daemon.status(user, "j")["state"] == "running"
    go(daemon, user, "j")
    daemon.until(user, "j", "completed")


def test_a_token_is_revoked_by_its_own_users_path_only(daemon, http, user):
    view = minted(http, user)
    with operator(daemon) as admin:
        for path in (f"/v1/users/another/tokens/{view['id']}", f"/v1/users/{user}/tokens/{view['token']}"):
            problem(http.delete(path), 404)
        problem(admin.delete(f"/v1/admin/tokens/{view['id']}"), 404)
    with bearer(daemon, view["token"]) as mine:
        assert mine.get("/v1/codes").status_code == 200


def test_an_operators_token_is_an_operator_until_it_is_revoked(daemon, http):
    with operator(daemon) as admin:
        view = minted(admin, "", lifetime_s=60)
        assert view["id"] in {each["id"] for each in good(admin.get("/v1/admin/tokens"))["tokens"]}
        with bearer(daemon, view["token"]) as mine:
            assert good(mine.get("/v1/admin/tree"))["tree"]
            assert mine.get("/metrics").status_code == 200
            assert good(mine.put("/v1/users/anyone", json={"tier": "default"}))["user"] == "anyone"
            good(mine.put("/v1/users/anyone/jobs/j/run", json=shell(WAITS)), 202)
            daemon.until("anyone", "j", "running")
            assert good(mine.post("/v1/users/anyone/jobs/j/cancel"))["cause"]["actor"] == "operator"
            assert admin.delete(f"/v1/admin/tokens/{view['id']}").status_code == 204
            assert mine.get("/v1/admin/tree").status_code == 401
    assert problem(http.post("/v1/admin/tokens", json={}), 403)["code"] == "forbidden"


def test_the_operators_tokens_are_no_users(daemon, http):
    """The user's name is part of the path: nobody reaches the operators' tokens by an empty or odd one."""
    with operator(daemon) as admin:
        view = minted(admin, "", lifetime_s=60)
        for path in (f"/v1/users//tokens/{view['id']}", f"/v1/users/%20/tokens/{view['id']}"):
            assert http.delete(path).status_code in (404, 422)
        with bearer(daemon, view["token"]) as mine:
            assert mine.get("/v1/admin/pools").status_code == 200


@pytest.mark.parametrize(
    ("ask", "field"),
    [
        ({"lifetime_s": 0.5}, "lifetime_s"), ({"lifetime_s": 7201}, "lifetime_s"), ({"lifetime_s": 1e99}, "lifetime_s"),
        ({"lifetime_s": "600"}, "lifetime_s"), ({"lifetime_s": None}, "lifetime_s"), ({"job": "../x"}, "job"),
        ({"job": ""}, "job"), ({"job": 7}, "job"), ({"read_only": 1}, "read_only"), ({"role": "operator"}, "role"),
        ({"user": "root"}, "user"), ({"sha256": "0" * 64}, "sha256"),
    ],
)  # fmt: skip
def test_a_bad_wish_is_refused_by_name(http, ask, field):
    assert problem(http.post("/v1/users/alice/tokens", json=ask), 422)["field"] == field


def test_the_word_bearer_is_of_any_case_and_nothing_else_passes(daemon, http, user):
    token = minted(http, user)["token"]
    with bearer(daemon, "") as plain:
        for said, status in (
            (f"bearer {token}", 200), (f"BEARER {token}", 200), (f"Bearer  {token}", 401),
            (f"Bearer {token[:-1]}", 401), (f"Bearer {token}{token}", 401), (token, 401),
            (f"Token {token}", 401), (f"Bearer {token},{token}", 401), ("Bearer " + "é" * 40, 401),
        ):  # fmt: skip
            reply = plain.get("/v1/codes", headers={"authorization": said.encode("latin-1")})
            assert reply.status_code == status, said
            if status == 401:
                assert re.search("Bearer", reply.headers["www-authenticate"])


def test_a_run_asked_for_with_a_token_outlives_it(daemon, http, user):
    view = minted(http, user)
    with bearer(daemon, view["token"]) as mine:
        good(mine.put(f"/v1/users/{user}/jobs/j/run", json=shell(WAITS)), 202)
    daemon.until(user, "j", "running")
    assert http.delete(f"/v1/users/{user}/tokens/{view['id']}").status_code == 204
    go(daemon, user, "j")
    daemon.until(user, "j", "completed")
