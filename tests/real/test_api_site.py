"""The site's side of the API: what browsers of other origins may, what a monitoring system scrapes, who answers how."""

import contextlib
import re
import threading

import httpx
import pytest
from asking import WAITS, bearer, go, good, minted, problem, shell, wait_until
from prometheus_client.parser import text_string_to_metric_families
from realdaemon import Daemon

from jobd.web.routes import ROUTES

HOME, ELSEWHERE = "https://site.example", "https://evil.example"


@pytest.fixture(scope="module")
def daemon(make_module_daemon) -> Daemon:
    return make_module_daemon(http={"origins": [HOME, "http://localhost:3000"]}).start()


@pytest.fixture(scope="module")
def http(daemon: Daemon):
    with daemon.http() as http:
        yield http


# --- pages of other origins -----------------------------------------------------------------------------------------


def allowed(reply) -> dict[str, str]:
    return {name: value for name, value in reply.headers.items() if name.startswith("access-control-")}


PATHS = ["/v1/codes", "/v1/users/alice/jobs/j", "/v1/users/alice/jobs/j/log", "/v1/users/alice/library/f", "/nowhere"]


@pytest.mark.parametrize("path", PATHS)
def test_a_page_of_a_configured_origin_may_ask_and_read(daemon, http, path):
    for origin in (HOME, "http://localhost:3000"):
        wanted = "authorization,last-event-id,if-none-match,prefer,range"
        preflight = {
            "origin": origin,
            "access-control-request-method": "PUT",
            "access-control-request-headers": wanted,
        }
        with bearer(daemon, "") as browser:  # which sends no credentials with a preflight
            reply = browser.options(path, headers=preflight)
            assert reply.status_code == 204
            told = allowed(reply)
            assert told["access-control-allow-origin"] == origin
            assert {"GET", "PUT", "POST", "DELETE"} <= set(told["access-control-allow-methods"].split(", "))
            assert set(wanted.split(",")) <= set(told["access-control-allow-headers"].split(", "))
            assert "origin" in reply.headers["vary"].lower()
            assert "access-control-allow-credentials" not in told, "there are no cookies to send"
            refused = browser.get(path, headers={"origin": origin})
            assert allowed(refused)["access-control-allow-origin"] == origin, "a page may read why it was refused"
        reply = http.get(path, headers={"origin": origin})
        assert allowed(reply)["access-control-allow-origin"] == origin
        assert {"etag", "jobd-serial", "retry-after"} <= set(
            allowed(reply)["access-control-expose-headers"].split(", ")
        )
        assert "origin" in reply.headers["vary"].lower()


@pytest.mark.parametrize("origin", [ELSEWHERE, "null", "https://site.example.evil.example", "http://site.example",
                                    "https://SITE.example", "https://site.example:8443", "*", ""])  # fmt: skip
@pytest.mark.parametrize("path", PATHS)
def test_a_page_of_any_other_origin_may_not(daemon, http, path, origin):
    for method in ("OPTIONS", "GET"):
        reply = http.request(method, path, headers={"origin": origin, "access-control-request-method": "PUT"})
        assert not allowed(reply), method


def test_an_event_stream_may_be_read_by_a_page(http):
    with http.stream("GET", "/v1/users/alice/jobs/j/events", headers={"origin": HOME}) as reply:
        assert reply.headers["access-control-allow-origin"] == HOME
        assert next(reply.iter_lines()) == "event: status"


# --- monitoring -----------------------------------------------------------------------------------------------------


def scraped(http) -> dict[tuple, float]:
    reply = http.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(reply.text))
    assert len({family.name for family in families}) == len(families)
    assert all(family.documentation for family in families)
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value for family in families for sample in family.samples
    }


def test_the_metrics_are_prometheus_and_move_with_what_happens(daemon, http):
    before = scraped(http)
    good(http.put("/v1/users/alice/jobs/m/run", json=shell(WAITS, resources={"cores": 3})), 202)
    daemon.until("alice", "m", "running")
    http.get("/v1/users/alice/jobs/m")
    http.get("/v1/users/alice/jobs/m/files/none")
    with bearer(daemon, "") as nobody:
        nobody.get("/v1/codes")
    now = scraped(http)
    running = ("jobd_open_runs", ("code", "shell"), ("state", "running"))
    used = ("jobd_host_slots", ("host", "local"), ("kind", "used"), ("unit", "cores"))
    assert (before.get(running, 0), now[running]) == (0, 1)
    assert now[used] - before[used] == 3
    assert now["jobd_host_slots", ("host", "local"), ("kind", "capacity"), ("unit", "cores")] == 8
    assert now["jobd_agents", ("linked", "yes")] >= 1
    assert now[("jobd_store_healthy",)] == 1
    assert now[("jobd_loop_lag_seconds_count",)] > 0

    def moved(route: str, status: str) -> float:
        key = ("jobd_http_requests_total", ("route", route), ("status", status))
        return now.get(key, 0) - before.get(key, 0)

    job = "/v1/users/{user}/jobs/{job}"
    assert moved(f"PUT {job}/run", "202") == 1
    assert moved(f"GET {job}", "200") >= 1
    assert moved(f"GET {job}/files/{{path}}", "404") == 1
    assert moved("refused", "401") == 1
    go(daemon, "alice", "m")
    daemon.until("alice", "m", "completed")
    assert running not in scraped(http)


def test_who_hangs_up_before_the_answer_is_counted_as_such(daemon, http):
    key = ("jobd_http_requests_total", ("route", "GET /v1/users/{user}/jobs/{job}"), ("status", "499"))
    before = scraped(http).get(key, 0)
    tag = http.get("/v1/users/alice/jobs/idle").headers["etag"]
    with contextlib.suppress(httpx.ReadTimeout), bearer(daemon, daemon.token) as mine:
        headers = {"if-none-match": tag, "prefer": "wait=60"}
        mine.get("/v1/users/alice/jobs/idle", headers=headers, timeout=0.3)
    wait_until(lambda: scraped(http).get(key, 0) == before + 1, "it is counted")


def test_the_metrics_name_no_user_no_job_and_no_token(daemon, http):
    """The labels are routes, so that nobody's name is told and no scan of paths fills the memory."""
    token = minted(http, "hidden-user")["token"]
    for number in range(30):
        http.get(f"/v1/users/hidden-user/jobs/hidden-job-{number}")
        http.get(f"/hidden-path/{number}")
        http.request(f"HIDDEN{number}", "/v1/codes")
    text = http.get("/metrics").text
    assert "hidden" not in text.lower()
    assert token not in text
    routes = {f"{route.method} {route.path}" for route in ROUTES} | {"refused"}
    told = set(re.findall(r'jobd_http_requests_total\{route="([^"]*)"', text))
    assert told <= routes, told - routes


# --- what is offered, and health ------------------------------------------------------------------------------------


def test_what_the_site_offers_is_described_for_a_page_that_shows_it(http):
    codes = {code["name"]: code for code in good(http.get("/v1/codes"))["codes"]}
    shell_code = codes["shell"]
    assert shell_code["inputs"] == ["script.sh"]
    assert shell_code["modes"]["parallel"] == {
        "cores": 2, "cores_max": 8, "memory_bytes": 256 << 20, "run_s": 40.0,
    }  # fmt: skip
    assert shell_code["views"] == ["lines"]
    assert "echo" in shell_code["methods"]
    assert "echo" in shell_code["compute"]
    assert codes["absent"]["methods"] == []
    assert good(http.get("/v1/clusters")) == {"clusters": []}


def test_a_daemon_that_stops_is_not_ready_any_more_and_says_so(make_daemon):
    """Whoever waits is told to come again: 503 with Retry-After, or the end of the stream."""
    daemon = make_daemon(http={"stop_grace_s": 3.0}).start()
    daemon.run("alice", "j", WAITS)
    daemon.until("alice", "j", lambda now: "progress" in now)
    replies = []
    with daemon.http() as http:
        tag = http.get("/v1/users/alice/jobs/j").headers["etag"]

        def wait():
            with daemon.http() as mine:
                headers = {"if-none-match": tag, "prefer": "wait=60"}
                replies.append(mine.get("/v1/users/alice/jobs/j", headers=headers))

        thread = threading.Thread(target=wait)
        thread.start()
        wait_until(lambda: any(name.startswith("status") for name in daemon.tree("request")), "it waits")
        daemon.sigterm()
        thread.join(10)
    (reply,) = replies
    assert problem(reply, 503)["code"] == "shutting_down"
    assert int(reply.headers["retry-after"]) >= 1
    daemon.start()
    go(daemon, "alice", "j")
    daemon.until("alice", "j", "completed")
