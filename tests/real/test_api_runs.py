"""A run as it is asked for: the input hash, the result that is there, another input, and the step of superseding."""

import hashlib
import threading

import pytest
from asking import WAITS, go, good, problem, shell
from realdaemon import OVER, Daemon, wait_until


@pytest.fixture(scope="module")
def http(daemon: Daemon):
    with daemon.http() as http:
        yield http


@pytest.fixture
def put(http, job):
    """Ask for a run of this test's own job."""
    return lambda ask, name=job: http.put(f"/v1/users/alice/jobs/{name}/run", json=ask)


@pytest.fixture
def path(job):
    return f"/v1/users/alice/jobs/{job}"


# --- the input hash -------------------------------------------------------------------------------------------------


def hash_of(put, job, ask, number) -> str:
    """The input hash of this request, learned from a run of a job of its own."""
    input_hash: str = good(put(ask, f"{job[-80:]}-{number}"), 202)["input_hash"]
    return input_hash


def test_the_same_inputs_have_the_same_hash_however_they_are_said(daemon, http, put, job):
    text = '{"a":1,"b":[true,null,"ü"]}'
    assert good(http.put("/v1/users/alice/library/p.json", content=text.encode()))["bytes"] == len(text.encode())
    same = [
        shell("true", files={"p.json": {"text": text}}),
        shell("true", files={"p.json": {"json": {"b": [True, None, "ü"], "a": 1}}}),
        shell("true", files={"p.json": {"json": {"a": 1, "b": [True, None, "ü"]}}}),
        shell("true", files={"p.json": {"library": "p.json"}}),
        shell("true", files={"p.json": {"text": text}}, force=True, supersede=True),
        shell("true", files={"p.json": {"text": text}}, mode="sequential", resources={"cores": 1}),
    ]
    assert len({hash_of(put, job, ask, number) for number, ask in enumerate(same)}) == 1


def test_whatever_can_change_the_result_changes_the_hash(daemon, http, put, job):
    good(http.put("/v1/users/alice/library/one", content=b"1"))
    good(http.put("/v1/users/alice/library/two", content=b"2"))
    different = [
        shell("true"),
        shell("true "),
        shell("true", files={"x": ""}),
        shell("true", files={"y": ""}),
        shell("true", files={"x": "1"}),
        shell("true", files={"x": {"library": "two"}}),
        shell("true", mode="parallel"),
        shell("true", resources={"cores": 2}),
        shell("true", resources={"memory_bytes": 64 << 20}),
    ]
    hashes = [hash_of(put, job, ask, number) for number, ask in enumerate(different)]
    assert len(set(hashes)) == len(different)
    # The name of a library file is not its content.
    again = hash_of(put, job, shell("true", files={"x": {"library": "one"}}), "again")
    assert again == hashes[4], "a library file of the same content is the same input"


def test_a_library_file_that_was_replaced_is_another_input(http, put, path):
    ask = shell("cat lib; sleep 1", files={"lib": {"library": "replaced"}})
    good(http.put("/v1/users/alice/library/replaced", content=b"old\n"))
    first = good(put(ask), 202)
    assert good(put(ask))["serial"] == first["serial"]
    good(http.put("/v1/users/alice/library/replaced", content=b"new\n"))
    refused = problem(put(ask), 409)
    assert (refused["code"], refused["serial"]) == ("run_active", first["serial"])


def test_a_library_file_that_is_not_there_is_named(put):
    document = problem(put(shell("true", files={"lib": {"library": "no-such-file"}})), 422)
    assert document["field"] == "inputs.lib.library"
    assert "no-such-file" in document["detail"]


def test_another_users_library_file_is_not_there(http, put):
    good(http.put("/v1/users/bob/library/bobs", content=b"bob's"))
    assert problem(put(shell("cat lib", files={"lib": {"library": "bobs"}})), 422)["field"] == "inputs.lib.library"


# --- the result that is there ---------------------------------------------------------------------------------------


def test_a_completed_run_is_the_answer_until_it_is_forced(daemon, put, job, path):
    ask = shell("echo once")
    first = good(put(ask), 202)
    assert first["serial"] == 1
    daemon.until("alice", job, "completed")
    again = good(put(ask))
    assert (again["serial"], again["state"], again["input_hash"]) == (1, "completed", first["input_hash"])
    forced = good(put({**ask, "force": True}), 202)
    assert (forced["serial"], forced["input_hash"]) == (2, first["input_hash"])
    daemon.until("alice", job, "completed")
    # The newest run counts, not any that the job ever had.
    assert good(put(shell("echo another")), 202)["serial"] == 3
    daemon.until("alice", job, "completed")
    assert good(put(ask), 202)["serial"] == 4
    daemon.until("alice", job, "completed")


def test_force_does_not_start_a_second_run_beside_an_active_one(daemon, put, job):
    ask = shell(WAITS)
    good(put(ask), 202)
    daemon.until("alice", job, "running")
    assert good(put({**ask, "force": True}))["serial"] == 1
    assert problem(put({**shell("true"), "force": True}), 409)["serial"] == 1
    go(daemon, "alice", job)
    daemon.until("alice", job, "completed")


@pytest.mark.parametrize("script", ["exit 3", WAITS])
def test_a_failed_or_canceled_run_of_the_same_inputs_starts_anew(daemon, http, put, job, path, script):
    ask = shell(script)
    good(put(ask), 202)
    if script == WAITS:
        daemon.until("alice", job, "running")
        good(http.post(f"{path}/cancel"))
    daemon.until("alice", job, "canceled" if script == WAITS else "failed")
    assert good(put(ask), 202)["serial"] == 2
    good(http.post(f"{path}/cancel"))
    daemon.until("alice", job, lambda now: now["state"] in OVER and now["end_confirmed"])


# --- another input --------------------------------------------------------------------------------------------------


def test_superseding_is_one_step_whatever_the_old_run_was_doing(daemon, put, job, http, path):
    """Ten at once: each ends the one before, the last accepted one runs, and no two are ever active."""
    replies = []
    asks = [shell(f"{WAITS} {number}", supersede=True) for number in range(10)]
    threads = [threading.Thread(target=lambda ask=ask: replies.append(put(ask))) for ask in asks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [reply.status_code for reply in replies] == [202] * 10
    assert sorted(reply.json()["serial"] for reply in replies) == list(range(1, 11))
    daemon.until("alice", job, "running")
    assert daemon.status("alice", job)["serial"] == 10
    past = good(http.get(f"{path}/runs"))["runs"]
    assert [run["state"] for run in past] == ["running"] + ["canceled"] * 9
    assert {run["cause"]["code"] for run in past[1:]} == {"superseded"}
    go(daemon, "alice", job)
    daemon.until("alice", job, "completed")


def test_superseding_nothing_is_just_a_run(daemon, put, job):
    assert good(put(shell("true", supersede=True)), 202)["serial"] == 1
    daemon.until("alice", job, "completed")
    assert good(put(shell("true", supersede=True)))["serial"] == 1, "the result is there: nothing was superseded"


def test_a_refused_run_does_not_supersede(daemon, put, job):
    good(put(shell(WAITS)), 202)
    daemon.until("alice", job, "running")
    for refused in (
        shell("x", supersede=True, mode="turbo"),
        shell("x", supersede=True, resources={"cores": 99}),
        shell("x", supersede=True, files={"lib": {"library": "none"}}),
        {"code": "shell", "supersede": True},
    ):
        problem(put(refused), 422)
        assert daemon.status("alice", job)["state"] == "running"
    go(daemon, "alice", job)
    daemon.until("alice", job, "completed")


# --- cancel ---------------------------------------------------------------------------------------------------------


def test_a_cancel_of_one_serial_never_touches_a_later_run(daemon, http, put, job, path):
    good(put(shell("true")), 202)
    daemon.until("alice", job, "completed")
    good(put(shell(WAITS)), 202)
    daemon.until("alice", job, "running")
    late = good(http.post(f"{path}/cancel", json={"serial": 1, "reason": "too late"}))
    assert (late["serial"], late["state"], late["cause"]["code"]) == (1, "completed", "completed")
    assert problem(http.post(f"{path}/cancel", json={"serial": 3}), 409)["code"] == "stale_serial"
    assert daemon.status("alice", job)["state"] == "running"
    now = good(http.post(f"{path}/cancel", json={"serial": 2, "reason": "enough of it"}))
    assert (now["serial"], now["state"], now["end_confirmed"]) == (2, "canceled", True)
    assert "enough of it" in now["cause"]["text"]
    assert now["cause"]["actor"] == "gateway for alice"
    again = good(http.post(f"{path}/cancel"))
    assert (again["state"], again["cause"]) == ("canceled", now["cause"]), "a terminal state never changes"


def test_a_cancel_ends_what_is_asked_of_the_run_with_409_or_an_answer_never_a_hang(daemon, http, put, job, path):
    good(put(shell(WAITS)), 202)
    daemon.until("alice", job, "running")
    codes = []

    def follow():
        with daemon.http() as mine, mine.stream("GET", f"{path}/log?follow=1") as reply:
            reply.read()
            codes.append(reply.status_code)

    thread = threading.Thread(target=follow)
    thread.start()
    wait_until(lambda: any(name.startswith("read") for name in daemon.tree("request")), "it follows")
    good(http.post(f"{path}/cancel"))
    thread.join(20)
    assert codes == [200]


def test_an_input_is_checked_by_its_sha256(daemon, http, put, job, path):
    good(put(shell("true", files={"x": "abc"})), 202)
    daemon.until("alice", job, "completed")
    inputs = {each["path"]: each for each in good(http.get(f"{path}/runs"))["runs"][0]["inputs"]}
    assert inputs["x"] == {"path": "x", "bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
