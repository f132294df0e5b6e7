"""A job as it is looked at: lists with filters and pages, history, purge, and which run is meant."""

import contextlib

import httpx
import pytest
from asking import WAITS, go, good, operator, pages, problem, shell
from realdaemon import Daemon, wait_until

ABSENT = {"code": "absent"}


@pytest.fixture(scope="module")
def http(daemon: Daemon):
    with daemon.http() as http:
        yield http


@pytest.fixture
def path(job):
    return f"/v1/users/alice/jobs/{job}"


def end(daemon: Daemon, http, user: str, name: str, ask: dict) -> dict:
    serial = good(http.put(f"/v1/users/{user}/jobs/{name}/run", json=ask), 202)["serial"]
    return daemon.until(user, name, lambda now: now["serial"] == serial and now.get("end_confirmed"))


# --- lists ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def listed(daemon, http):
    """A user with twelve jobs, some of which have failed, one of another code, one that runs, one that was purged."""
    for number in range(10):
        end(daemon, http, "lister", f"j{number}", shell(f"exit {number % 2}"))
    end(daemon, http, "lister", "other-code", ABSENT)
    end(daemon, http, "lister", "purged", shell("true"))
    good(http.delete("/v1/users/lister/jobs/purged"))
    end(daemon, http, "lister2", "theirs", shell("true"))
    good(http.put("/v1/users/lister/jobs/runs/run", json=shell(WAITS)), 202)
    daemon.until("lister", "runs", lambda now: "progress" in now)
    yield "/v1/users/lister/jobs"
    go(daemon, "lister", "runs")
    daemon.until("lister", "runs", "completed")


def names(page: list[dict]) -> list[str]:
    return [view["job"] for view in page]


EVERY = [*(f"j{number}" for number in range(10)), "other-code", "runs"]


def test_the_list_has_every_job_with_its_newest_run_and_no_purged_one(http, listed):
    page = good(http.get(listed))
    assert names(page["jobs"]) == EVERY
    assert "next" not in page
    for view in page["jobs"]:
        status = good(http.get(f"{listed}/{view['job']}"))
        if view["state"] != "running":
            status.pop("progress", None)  # of a run that is over it is not kept
        assert view == status, "the same as the job's own status"


@pytest.mark.parametrize("limit", [1, 5, 6, 12, 13, 1000])
def test_pages_join_to_the_whole_list_without_a_gap_or_a_repetition(http, listed, limit):
    found = pages(http, listed, "jobs", limit=limit)
    assert [name for page in found for name in names(page)] == EVERY
    assert all(len(page) == limit for page in found[:-1])
    assert len(found) == -(-len(EVERY) // limit)


def test_a_page_stands_where_it_stood_when_jobs_come_and_go(daemon, http, listed):
    first = good(http.get(listed, params={"limit": 5}))
    end(daemon, http, "lister", "j2-comes-late", shell("true"))
    rest = good(http.get(listed, params={"after": first["next"]}))
    assert names(first["jobs"]) + names(rest["jobs"]) == EVERY
    good(http.delete(f"{listed}/j2-comes-late"))
    assert names(good(http.get(listed))["jobs"]) == EVERY


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"state": "completed"}, EVERY[0:10:2]),
        ({"state": "failed"}, [*EVERY[1:10:2], "other-code"]),
        ({"state": "running"}, ["runs"]),
        ({"state": "pending"}, []),
        ({"state": "canceled"}, []),
        ({"code": "absent"}, ["other-code"]),
        ({"code": "shell", "state": "failed"}, EVERY[1:10:2]),
        ({"code": "lammps"}, []),
        ({"code": "no-such-code"}, []),
    ],
)
def test_a_filter_selects_over_all_pages(http, listed, query, expected):
    for limit in (2, 100):
        found = pages(http, listed, "jobs", limit=limit, **query)
        assert [name for page in found for name in names(page)] == expected


def test_a_user_who_never_ran_anything_has_an_empty_list(http):
    assert good(http.get("/v1/users/nobody-yet/jobs")) == {"jobs": []}


def test_an_operator_lists_the_jobs_of_all_users(daemon, http, listed):
    with operator(daemon) as admin:
        every = [
            (view["user"], view["job"]) for page in pages(admin, "/v1/admin/jobs", "jobs", limit=3) for view in page
        ]
        assert len(set(every)) == len(every)
        assert {("lister", name) for name in EVERY} | {("lister2", "theirs")} <= set(every)
        failed = good(admin.get("/v1/admin/jobs", params={"state": "failed", "code": "absent"}))["jobs"]
        assert ("lister", "other-code") in {(view["user"], view["job"]) for view in failed}
        assert {view["code"] for view in failed} == {"absent"}


@pytest.mark.parametrize(
    ("query", "field"),
    [("state=ended", "state"), ("state=", "state"), ("limit=0", "limit"), ("limit=1001", "limit"), ("limit=x", "limit"),
     ("limit=1e2", "limit"), ("limit=-1", "limit"), ("limit=%C2%B2", "limit"), (f"limit={'9' * 50}", "limit")],
)  # fmt: skip
def test_a_bad_filter_or_page_is_refused_by_name(daemon, http, listed, query, field):
    assert problem(http.get(f"{listed}?{query}"), 422)["field"] == field
    with operator(daemon) as admin:
        assert problem(admin.get(f"/v1/admin/jobs?{query}"), 422)["field"] == field


# --- history --------------------------------------------------------------------------------------------------------


def test_the_history_has_each_run_newest_first_with_inputs_code_version_and_end(daemon, http, job, path):
    good(http.put("/v1/users/alice/library/shared", content=b"12345"))
    for number in range(5):
        ask = shell(
            f"exit {number}", files={"lib": {"library": "shared"}, "n.txt": str(number)}, resources={"cores": 2}
        )
        end(daemon, http, "alice", job, ask)
    found = [run for page in pages(http, f"{path}/runs", "runs", "before", limit=2) for run in page]
    assert [run["serial"] for run in found] == [5, 4, 3, 2, 1]
    assert good(http.get(f"{path}/runs"))["runs"] == found
    for run in found:
        number = run["serial"] - 1
        assert (run["code"], run["code_version"], run["mode"], run["cores"]) == ("shell", "1", "sequential", 2)
        assert run["state"] == ("failed" if number else "completed")
        assert (run["usage"]["exit_code"], run["end_confirmed"]) == (number, True)
        assert run["accepted_at"] < run["ended_at"]
        inputs = {each["path"]: each for each in run["inputs"]}
        assert set(inputs) == {"lib", "n.txt", "script.sh"}
        assert (inputs["lib"]["library"], inputs["lib"]["bytes"]) == ("shared", 5)
        assert "library" not in inputs["n.txt"]
        assert len(inputs["n.txt"]["sha256"]) == 64
    assert len({run["input_hash"] for run in found}) == 5


def test_the_history_of_a_job_that_never_ran_is_empty(http, path):
    assert good(http.get(f"{path}/runs")) == {"runs": []}


@pytest.mark.parametrize("query", ["before=0", "before=x", "limit=0", "before=1.5", f"before={'1' * 16}"])
def test_a_bad_page_of_a_history_is_refused_by_name(http, path, query):
    assert problem(http.get(f"{path}/runs?{query}"), 422)["field"] == query.split("=")[0]


# --- purge ----------------------------------------------------------------------------------------------------------


def test_a_deleted_job_is_missing_its_files_are_gone_and_its_serials_go_on(daemon: Daemon, http, job, path):
    for number in range(2):
        end(daemon, http, "alice", job, shell(f"echo {number} > out"))
    directory = daemon.file("alice", job, "").parent
    assert {each.name for each in directory.iterdir() if each.name.isdecimal()} == {"1", "2"}
    assert good(http.delete(path)) == {"user": "alice", "job": job, "state": "missing"}
    assert good(http.get(path))["state"] == "missing"
    wait_until(lambda: not directory.exists() or not list(directory.iterdir()), "the agent has deleted its files")
    assert good(http.get(f"{path}/runs")) == {"runs": []}
    assert good(http.get(f"{path}/explain"))["state"] == "missing"
    for reading in ("files", "files/out", "log", "metrics", "frames/lines/0"):
        assert problem(http.get(f"{path}/{reading}"), 404)["code"] == "no_run"
        for serial in (1, 2):
            assert problem(http.get(f"{path}/{reading}?serial={serial}"), 409)["code"] == "stale_serial"
    # Deleting what is not there is deleting.
    assert good(http.delete(path))["state"] == "missing"
    # The same inputs are a new run, and what was purged stays so.
    assert end(daemon, http, "alice", job, shell("echo 1 > out"))["serial"] == 3
    assert [run["serial"] for run in good(http.get(f"{path}/runs"))["runs"]] == [3]
    assert http.get(f"{path}/files/out").text == "1\n"
    assert problem(http.get(f"{path}/files/out?serial=2"), 409)["code"] == "stale_serial"


def test_an_active_job_is_not_deleted(daemon, http, job, path):
    good(http.put(f"{path}/run", json=shell(WAITS)), 202)
    daemon.until("alice", job, "running")
    refused = problem(http.delete(path), 409)
    assert (refused["code"], refused["serial"]) == ("run_active", 1)
    go(daemon, "alice", job)
    daemon.until("alice", job, "completed")
    good(http.delete(path))


def test_a_job_is_deleted_as_soon_as_its_cancel_is_confirmed(daemon, http, job, path):
    good(http.put(f"{path}/run", json=shell("trap '' TERM; echo begun; while :; do sleep 0.1; done")), 202)
    daemon.until("alice", job, "running")
    with contextlib.suppress(httpx.ReadTimeout):  # it does not wait for the confirmation; the delete does
        http.post(f"{path}/cancel", timeout=0.3)
    assert good(http.delete(path))["state"] == "missing"
    assert not daemon.processes("JOBD_RUN=", str(daemon.file("alice", job, "")))


def test_a_job_that_never_ran_is_deleted_without_a_word(http, path):
    assert good(http.delete(path))["state"] == "missing"


def test_one_users_purge_leaves_anothers_job_of_the_same_name(daemon, http, job, path):
    for user in ("alice", "bob"):
        end(daemon, http, user, job, shell("echo kept > out"))
    good(http.delete(path))
    assert http.get(f"/v1/users/bob/jobs/{job}/files/out").text == "kept\n"


# --- which run is meant ---------------------------------------------------------------------------------------------


def test_a_serial_names_the_run_meant_on_everything_that_is_read(daemon, http, job, path):
    for number in (1, 2):
        end(daemon, http, "alice", job, shell(f"echo frame{number} > frames.txt; echo log{number}"))
    for number in (1, 2):
        query = {"serial": number}
        assert http.get(f"{path}/log", params=query).text == f"log{number}\n"
        assert http.get(f"{path}/files/frames.txt", params=query).text == f"frame{number}\n"
        assert good(http.get(f"{path}/frames/lines/latest", params=query))["line"] == f"frame{number}"
        assert good(http.get(f"{path}/explain", params=query))["serial"] == number
        assert good(http.get(f"{path}/metrics", params=query))["serial"] == number
        reply = http.get(f"{path}/files", params=query)
        assert reply.headers["jobd-serial"] == str(number)
        echo = http.post(f"{path}/analysis/echo", json={"serial": number})
        assert (echo.status_code, echo.headers["jobd-serial"]) == (200, str(number))
    for reading in ("log", "files", "files/frames.txt", "frames/lines/0", "explain", "metrics"):
        assert problem(http.get(f"{path}/{reading}?serial=3"), 409)["code"] == "stale_serial"
        assert problem(http.get(f"{path}/{reading}?serial=x"), 422)["field"] == "serial"
    assert problem(http.post(f"{path}/analysis/echo", json={"serial": 3}), 409)["code"] == "stale_serial"
