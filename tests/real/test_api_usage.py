"""What a user has used: sums over runs, over purges, and by page; and what survives a daemon that is killed."""

import signal

import pytest
from asking import WAITS, bearer, go, good, minted, operator, pages, problem, shell, wait_until
from realdaemon import Daemon

TIERS = {"tiers": {"default": {"sequential": 2, "parallel": 2, "pending_max": 30}, "gold": {"sequential": 5}}}


@pytest.fixture(scope="module")
def http(daemon: Daemon):
    with daemon.http() as http:
        yield http


def used(http, user: str, **query) -> dict:
    return good(http.get(f"/v1/users/{user}/usage", params=query))


def test_who_never_ran_anything_has_used_nothing(http):
    assert used(http, "nobody-yet") == {
        "user": "nobody-yet", "tier": "default", "runs": 0, "core_s": 0.0, "cpu_s": 0.0, "library_files": 0,
        "library_bytes": 0, "jobs": [],
    }  # fmt: skip


def test_a_core_second_is_a_slots_core_for_a_second_whatever_it_computed(daemon, http):
    daemon.done("idle", "j", "sleep 0.6", resources={"cores": 4})
    wall_s = daemon.status("idle", "j")["usage"]["wall_s"]
    now = used(http, "idle")
    assert now["runs"] == 1
    assert now["core_s"] == pytest.approx(4 * wall_s, abs=0.01)
    assert now["core_s"] >= 2.4
    assert now["cpu_s"] < 1.0, "it slept"


def test_the_sums_are_those_of_the_runs_the_failed_and_canceled_ones_included(daemon, http):
    for number, script in enumerate(("sleep 0.2", "sleep 0.2; exit 1", "true")):
        daemon.done("summer", f"j{number % 2}", script)
    good(http.put("/v1/users/summer/jobs/j2/run", json=shell(WAITS)), 202)
    daemon.until("summer", "j2", "running")
    before = used(http, "summer")
    assert (before["runs"], [job["job"] for job in before["jobs"]]) == (3, ["j0", "j1"]), "what runs is not counted yet"
    good(http.post("/v1/users/summer/jobs/j2/cancel"))
    daemon.until("summer", "j2", "canceled")
    now = used(http, "summer")
    assert [(job["job"], job["runs"]) for job in now["jobs"]] == [("j0", 2), ("j1", 1), ("j2", 1)]
    for name in ("j0", "j1", "j2"):
        runs = good(http.get(f"/v1/users/summer/jobs/{name}/runs"))["runs"]
        job = next(each for each in now["jobs"] if each["job"] == name)
        assert job["core_s"] == pytest.approx(sum(run["usage"]["wall_s"] * run["cores"] for run in runs), abs=0.01)
        assert job["cpu_s"] == pytest.approx(sum(run["usage"]["cpu_s"] for run in runs), abs=0.01)
    for what in ("runs", "core_s", "cpu_s"):
        assert now[what] == pytest.approx(sum(job[what] for job in now["jobs"]), abs=0.01)


def test_a_purge_forgets_no_usage_and_a_later_run_adds_to_it(daemon, http):
    daemon.done("purger", "j", "sleep 0.2")
    before = used(http, "purger")
    good(http.delete("/v1/users/purger/jobs/j"))
    assert used(http, "purger") == before
    daemon.done("purger", "j", "sleep 0.2")
    now = used(http, "purger")
    assert (now["runs"], now["jobs"][0]["runs"]) == (2, 2)
    assert now["core_s"] > before["core_s"] + 0.19


def test_a_run_that_never_started_used_nothing(daemon, http):
    good(http.put("/v1/users/queuer/jobs/wide/run", json=shell(WAITS, resources={"cores": 8})), 202)
    daemon.until("queuer", "wide", "running")
    good(http.put("/v1/users/queuer/jobs/waits/run", json=shell("true")), 202)
    good(http.post("/v1/users/queuer/jobs/waits/cancel"))
    assert used(http, "queuer")["core_s"] == 0.0
    go(daemon, "queuer", "wide")
    daemon.until("queuer", "wide", "completed")


def test_the_jobs_come_in_pages(daemon, http):
    for number in range(5):
        daemon.done("pager", f"j{number}", "true")
    good(http.delete("/v1/users/pager/jobs/j3"))
    for limit in (1, 2, 5, 6):
        found = pages(http, "/v1/users/pager/usage", "jobs", limit=limit)
        assert [job["job"] for page in found for job in page] == [f"j{number}" for number in range(5)]
    for query in ("limit=0", "limit=1001", "limit=x"):
        assert problem(http.get(f"/v1/users/pager/usage?{query}"), 422)["field"] == "limit"


def test_the_library_counts_by_name(http):
    for name, content in (("a", b"x" * 10), ("b", b"x" * 10), ("c", b"y")):
        good(http.put(f"/v1/users/shelver/library/{name}", content=content))
    now = used(http, "shelver")
    assert (now["library_files"], now["library_bytes"]) == (3, 21)


def test_a_sigkill_loses_no_token_library_tier_usage_history_or_removal(make_daemon):
    daemon = make_daemon(**TIERS).start()
    with daemon.http() as http, operator(daemon) as admin:
        kept, gone = minted(http, "alice", job="j"), minted(http, "alice")
        admins = minted(admin, "")
        good(http.put("/v1/users/alice", json={"tier": "gold"}))
        stored = good(http.put("/v1/users/alice/library/f", content=b"content"))
        good(http.put("/v1/users/alice/library/g", content=b"content"))
        assert http.delete("/v1/users/alice/library/g").status_code == 204
        daemon.done("alice", "j", "sleep 0.2; exit 4")
        daemon.done("alice", "purged", "echo secret > out")
        daemon.done("alice", "purged2", "echo secret > out")
        history = good(http.get("/v1/users/alice/jobs/j/runs"))
        directory, directory2 = (daemon.file("alice", name, "").parent for name in ("purged", "purged2"))
        # The agent hears nothing of these purges before the daemon is killed.
        agent = daemon.agent("alice")
        agent.signal(signal.SIGSTOP)
        good(http.delete("/v1/users/alice/jobs/purged"))
        good(http.delete("/v1/users/alice/jobs/purged2"))
        assert http.delete(f"/v1/users/alice/tokens/{gone['id']}").status_code == 204
        before = used(http, "alice")
    daemon.sigkill()
    assert (directory / "1" / "out").exists()
    daemon.start()
    agent.signal(signal.SIGCONT)
    with daemon.http() as http, bearer(daemon, kept["token"]) as mine, bearer(daemon, admins["token"]) as other:
        assert used(http, "alice") == before
        assert (before["tier"], before["runs"]) == ("gold", 3)
        assert good(http.get("/v1/users/alice/jobs/j/runs")) == history
        assert good(http.get("/v1/users/alice/library")) == {"files": [stored]}
        assert http.get("/v1/users/alice/library/f").content == b"content"
        assert good(mine.get("/v1/users/alice/jobs/j"))["state"] == "failed"
        assert mine.get("/v1/users/alice/jobs/k").status_code == 403
        assert good(other.get("/v1/admin/pools"))["pools"]
        assert {each["id"] for each in good(http.get("/v1/users/alice/tokens"))["tokens"]} == {kept["id"]}
        with bearer(daemon, gone["token"]) as revoked:
            assert revoked.get("/v1/codes").status_code == 401
        for each in (directory, directory2):
            wait_until(lambda each=each: not each.exists() or not list(each.iterdir()), "the agent was told again")
        # The serials go on, and what was purged stays so.
        assert daemon.run("alice", "purged", "true")["serial"] == 2
        daemon.until("alice", "purged", "completed")
        assert problem(http.get("/v1/users/alice/jobs/purged/log?serial=1"), 409)["code"] == "stale_serial"
