"""What a person asks beside the status: why it waits or ended, its numbers over time, and questions about no run."""

import json
import time

import pytest
from asking import WAITS, go, good, problem, shell
from realdaemon import Daemon, wait_until

NARROW = {"tiers": {"default": {"sequential": 1, "parallel": 1, "batch": 0, "pending_max": 10},
                    "gold": {"sequential": 3, "parallel": 1, "pending_max": 10},
                    "none": {"sequential": 0, "parallel": 1, "pending_max": 10}},
          "host": {"cores": 4, "memory_bytes": 4 << 30}}  # fmt: skip
METRICS = "mv m.new metrics.json"


@pytest.fixture(scope="module")
def daemon(make_module_daemon) -> Daemon:
    return make_module_daemon(**NARROW).start()


@pytest.fixture(scope="module")
def http(daemon: Daemon):
    with daemon.http() as http:
        yield http


def explained(http, user: str, name: str, **query) -> dict:
    return good(http.get(f"/v1/users/{user}/jobs/{name}/explain", params=query))


def begin(daemon, http, user: str, name: str, **more) -> None:
    good(http.put(f"/v1/users/{user}/jobs/{name}/run", json=shell(WAITS, **more)), 202)


# --- why it waits ---------------------------------------------------------------------------------------------------


def test_a_waiting_run_is_told_its_pool_what_it_wants_and_how_far_back_it_stands(daemon, http):
    for name in ("a", "b", "c"):
        begin(daemon, http, "alice", name)
    daemon.until("alice", "a", "running")
    for name, ahead in (("b", 0), ("c", 1)):
        told = wait_until(lambda name=name: (seen := explained(http, "alice", name)).get("pool") and seen, "it waits")
        assert (told["state"], told["serial"], told["situation"]["code"]) == ("pending", 1, "user_runs")
        assert told["situation"].get("ahead", 0) == ahead
        assert told["wanted"] == [1]
        assert {key: told["pool"][key] for key in ("units", "capacity", "used", "waiting")} == {
            "units": ["runs"], "capacity": [1], "used": [1], "waiting": 2,
        }  # fmt: skip
        assert "another sequential run" in told["why"]
        assert ("1 ahead" in told["why"]) == (ahead == 1)
        assert told["limits"]["queue_s"] == 60.0
        assert [stage["name"] for stage in told["timeline"]] == ["accepted"]
    # With room for the user it waits for nothing but cores; nothing is forgotten by having been asked.
    begin(daemon, http, "bob", "wide", resources={"cores": 4})
    told = wait_until(lambda: (seen := explained(http, "bob", "wide")).get("pool") and seen, "it waits")
    assert (told["situation"]["code"], told["wanted"]) == ("host", [4, 256 << 20])
    assert told["pool"] == {"name": "host", "units": ["cores", "memory_bytes"], "capacity": [4, 4 << 30],
                            "used": [1, 256 << 20], "waiting": 1}  # fmt: skip
    for user, name in (("alice", "a"), ("bob", "wide"), ("alice", "b"), ("alice", "c")):
        daemon.until(user, name, "running")
        go(daemon, user, name)
        daemon.until(user, name, "completed")


def test_a_running_and_an_ended_run_are_explained_by_serial(daemon, http, job):
    begin(daemon, http, "alice", job)
    daemon.until("alice", job, "running")
    told = explained(http, "alice", job)
    assert (told["state"], told["why"]) == ("running", "It runs.")
    assert (told["agent"]["user"], told["agent"]["linked"]) == ("alice", True)
    assert told["agent"]["open_runs"] == [f"{job}/1"]
    with daemon.client() as client:
        client.cancel("alice", job, reason="not needed")
    daemon.until("alice", job, "canceled")
    daemon.done("alice", job, "exit 7")
    newest, old = explained(http, "alice", job), explained(http, "alice", job, serial=1)
    assert (newest["serial"], newest["state"], newest["cause"]["code"]) == (2, "failed", "exit_code")
    assert newest["why"] == newest["cause"]["text"]
    assert "7" in newest["why"]
    assert [stage["name"] for stage in newest["timeline"]] == ["accepted", "admitted", "ordered", "started", "ended"]
    assert "pool" not in newest
    assert (old["serial"], old["state"]) == (1, "canceled")
    assert "not needed" in old["why"]


def test_a_job_that_never_ran_says_so(http):
    assert explained(http, "alice", "never") == {"state": "missing", "why": "This job has no run."}


# --- a tier ---------------------------------------------------------------------------------------------------------


def test_a_better_tier_lets_waiting_runs_start_at_once_and_a_worse_one_ends_none(daemon, http):
    for name in ("a", "b", "c"):
        begin(daemon, http, "tiered", name)
    daemon.until("tiered", "a", "running")
    wait_until(lambda: explained(http, "tiered", "c").get("pool"), "it waits")
    assert good(http.put("/v1/users/tiered", json={"tier": "gold"})) == {"user": "tiered", "tier": "gold"}
    for name in ("b", "c"):
        daemon.until("tiered", name, "running")
    assert good(http.get("/v1/users/tiered/usage"))["tier"] == "gold"
    # A smaller tier counts for what comes; what runs goes on.
    good(http.put("/v1/users/tiered", json={"tier": "default"}))
    begin(daemon, http, "tiered", "d")
    told = wait_until(lambda: (seen := explained(http, "tiered", "d")).get("pool") and seen, "it waits")
    assert (told["pool"]["capacity"], told["pool"]["used"]) == ([1], [3])
    go(daemon, "tiered", "a", "b")
    for name in ("a", "b"):
        daemon.until("tiered", name, "completed")
    assert explained(http, "tiered", "d")["state"] == "pending", "c still runs"
    assert daemon.status("tiered", "c")["state"] == "running"
    good(http.put("/v1/users/tiered", json={"tier": "none"}))
    assert problem(http.put("/v1/users/tiered/jobs/e/run", json=shell("true")), 422)["field"] == "mode"
    good(http.put("/v1/users/tiered", json={"tier": "default"}))
    go(daemon, "tiered", "c")
    daemon.until("tiered", "d", "running")
    go(daemon, "tiered", "d")
    daemon.until("tiered", "d", "completed")


def test_an_unknown_tier_is_refused_and_changes_nothing(http):
    document = problem(http.put("/v1/users/tier2", json={"tier": "platinum"}), 422)
    assert document["field"] == "tier"
    assert "gold" in document["detail"]
    assert problem(http.put("/v1/users/tier2", json={}), 422)["field"] == "tier"
    assert good(http.get("/v1/users/tier2/usage"))["tier"] == "default"


# --- numbers over time ----------------------------------------------------------------------------------------------


def test_what_a_run_measures_is_kept_as_series_while_it_runs_and_afterwards(daemon, http, job):
    script = f"""
    echo '{{"energy": -1.5, "step": 1}}' > m.new; {METRICS}; while [ ! -e two ]; do sleep 0.05; done
    echo '{{"energy": -2.5, "step": 2, "late": 7}}' > m.new; {METRICS}; while [ ! -e go ]; do sleep 0.05; done
    """
    path = f"/v1/users/alice/jobs/{job}/metrics"
    good(http.put(f"/v1/users/alice/jobs/{job}/run", json=shell(script)), 202)
    assert wait_until(lambda: good(http.get(path))["rows"] and good(http.get(path)))["names"] == ["energy", "step"]
    daemon.file("alice", job, "two").touch()
    now = wait_until(lambda: "late" in (seen := good(http.get(path)))["names"] and seen, "the third name")
    assert now["names"] == ["energy", "step", "late"]
    go(daemon, "alice", job)
    daemon.until("alice", job, "completed")
    kept = good(http.get(path))
    assert (kept["serial"], kept["names"]) == (1, ["energy", "step", "late"])
    assert kept["rows"][0][1:] == [-1.5, 1.0, None]
    assert kept["rows"][-1][1:] == [-2.5, 2.0, 7.0]
    times = [row[0] for row in kept["rows"]]
    assert times == sorted(times)
    assert all(len(row) == 4 for row in kept["rows"])
    # A run that measures nothing has none, and the older one is still there by its serial.
    daemon.done("alice", job, "true")
    assert good(http.get(path)) == {"serial": 2, "names": [], "rows": []}
    assert good(http.get(path, params={"serial": 1})) == kept


def test_a_run_that_has_not_begun_has_no_series_yet(daemon, http):
    for name in ("x", "y"):
        begin(daemon, http, "carol", name)
    daemon.until("carol", "x", "running")
    assert good(http.get("/v1/users/carol/jobs/y/metrics")) == {"serial": 1, "names": [], "rows": []}
    assert problem(http.get("/v1/users/carol/jobs/never/metrics"), 404)["code"] == "no_run"
    for name in ("x", "y"):
        daemon.until("carol", name, "running")
        go(daemon, "carol", name)
        daemon.until("carol", name, "completed")


# --- without a run --------------------------------------------------------------------------------------------------


def test_a_session_warms_the_agent_up_and_does_not_wait_for_it(daemon, http):
    began = time.monotonic()
    view = good(http.post("/v1/users/early/session", json={"code": "shell"}), 202)
    assert time.monotonic() - began < 5
    assert view["stage"]
    assert wait_until(lambda: (now := good(http.post("/v1/users/early/session"), 202))["stage"] == "connected" and now)
    agent = daemon.agent("early")
    assert agent.id == view["agent"]
    daemon.done("early", "first", "true")
    assert daemon.agent("early").pid == agent.pid, "the run came to the warm agent"
    assert problem(http.post("/v1/users/early/session", json={"code": "none"}), 422)["field"] == "code"
    assert problem(http.post("/v1/users/early/session", json={"kode": "shell"}), 422)["field"] == "kode"


def test_a_computation_needs_no_job_and_leaves_none(http):
    reply = http.post("/v1/users/thinker/compute/shell/echo", json={"arguments": {"a": [1, "ü"]}})
    assert good(reply)["echo"] == {"a": [1, "ü"]}
    assert "jobd-serial" not in reply.headers
    blob = http.post("/v1/users/thinker/compute/shell/blob", json={"arguments": {"bytes": 200 << 10}})
    assert (blob.headers["content-type"], blob.content) == ("application/x-blob", bytes(range(256)) * 800)
    assert json.loads(blob.headers["jobd-meta"]) == {"of": "worker"}
    assert "sandbox" in blob.headers["content-security-policy"]
    assert good(http.get("/v1/users/thinker/jobs")) == {"jobs": []}


@pytest.mark.parametrize("where", ["none/echo", "shell/none", "shell/frame", "absent/echo"])
def test_what_a_code_does_not_compute_is_not_found(http, where):
    assert problem(http.post(f"/v1/users/thinker/compute/{where}", json={}), 404)["code"] == "not_found"


@pytest.mark.parametrize("method", ["crash", "garbage"])
def test_a_worker_that_fails_at_a_computation_is_the_failure_of_that_question(http, method):
    assert problem(http.post(f"/v1/users/thinker/compute/shell/{method}", json={}), 502)["code"] == "analysis_failed"
    assert http.post("/v1/users/thinker/compute/shell/echo", json={}).status_code == 200


def test_a_computation_waits_for_no_run(daemon, http):
    begin(daemon, http, "dora", "a", resources={"cores": 4})
    daemon.until("dora", "a", "running")
    assert good(http.post("/v1/users/dora/compute/shell/echo", json={"arguments": {"b": 7}}))["echo"] == {"b": 7}
    go(daemon, "dora", "a")
    daemon.until("dora", "a", "completed")
