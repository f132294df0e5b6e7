"""jobd dies and comes back, alone or with its agents: what was accepted is not lost, done twice, or ended by that."""

import contextlib
import os
import signal
import socket
import threading
import time
from urllib.parse import urlsplit

import httpx
import pytest
from plainclient import ProblemError
from realdaemon import OVER, Daemon, wait_until

WAITS = "echo begun >> trace; while [ ! -e go ]; do sleep 0.05; done; echo done"
FULL = {"mode": "parallel", "resources": {"cores": 8}}  # all of the host


@pytest.fixture
def full(daemon, job):
    """A run that occupies the host; returns the function that lets it end."""
    daemon.run("alice", f"{job}-full", WAITS, **FULL)
    daemon.until("alice", f"{job}-full", "running")
    yield lambda: daemon.file("alice", f"{job}-full", "go").touch()
    with daemon.client() as client:
        client.cancel("alice", f"{job}-full")


# --- sudden death ---------------------------------------------------------------------------------------------------


def test_daemon_and_agent_are_killed_together_and_the_run_goes_on(daemon: Daemon, job):
    daemon.run("alice", job, WAITS)
    daemon.until("alice", job, "running")
    wait_until(daemon.file("alice", job, "trace").exists)
    agent = daemon.agent("alice")
    os.kill(daemon.process.pid, signal.SIGSTOP)  # it must not see the agent die first
    agent.signal(signal.SIGKILL)
    daemon.sigkill_and_restart()
    daemon.until("alice", job, lambda now: now["known"]["state"] == "fresh")
    assert daemon.agent("alice").generation == agent.generation + 1
    daemon.file("alice", job, "go").touch()
    assert daemon.until("alice", job, "completed")["serial"] == 1
    assert daemon.file("alice", job, "trace").read_text() == "begun\n"


def test_a_run_that_ends_while_everything_is_dead_has_ended_as_it_did(daemon: Daemon, job):
    daemon.run("alice", job, "while [ ! -e go ]; do sleep 0.02; done; echo last words; exit 7")
    daemon.until("alice", job, "running")
    agent = daemon.agent("alice")
    daemon.sigkill()
    agent.signal(signal.SIGKILL)
    daemon.file("alice", job, "go").touch()
    wait_until(lambda: not daemon.processes("JOBD_RUN="), "the run has ended by itself")
    daemon.start()
    status = daemon.until("alice", job, "failed")
    assert (status["cause"]["code"], status["usage"]["exit_code"]) == ("exit_code", 7)
    assert status["log_tail"] == "last words\n"


def test_pending_runs_survive_in_the_order_of_their_acceptance(daemon: Daemon, job, full):
    names = [f"{job}-{index}" for index in range(4)]
    for name in names:
        daemon.run("alice", name, "date +%s.%N", mode="sequential", resources={"cores": 8})
    for _ in range(2):
        daemon.sigkill_and_restart()
    daemon.until("alice", f"{job}-full", lambda now: now["known"]["state"] == "fresh")
    waiting = [daemon.until("alice", name, lambda now: "situation" in now)["situation"] for name in names]
    assert [(each["code"], each["ahead"]) for each in waiting] == [("host", index) for index in range(4)]
    full()
    times = [float(daemon.until("alice", name, "completed")["log_tail"]) for name in names]
    assert times == sorted(times)
    assert daemon.status("alice", f"{job}-full")["state"] == "completed"


def test_a_slot_that_was_taken_before_a_restart_is_still_taken(daemon: Daemon, job, full):
    """Three times: the order in which tasks wake up is random."""
    daemon.run("alice", f"{job}-next", "true", mode="sequential", resources={"cores": 1})
    for _ in range(3):
        daemon.sigkill_and_restart()
        daemon.until("alice", f"{job}-full", lambda now: now["known"]["state"] == "fresh")
        assert (
            daemon.until("alice", f"{job}-next", lambda now: now["state"] != "pending" or "situation" in now)["state"]
            == "pending"
        )
    full()
    daemon.until("alice", f"{job}-next", "completed")


def test_a_daemon_that_is_killed_at_any_moment_of_a_start_executes_it_once(make_daemon):
    daemon = make_daemon().start()
    for index in range(5):
        job = f"j{index}"
        daemon.run("alice", job, "echo x >> trace; sleep 0.1")
        time.sleep(0.04 * index)  # from before the agent's first order to after the run's end
        daemon.sigkill_and_restart()
        status = daemon.until("alice", job, "completed")
        assert daemon.file("alice", job, "trace").read_text() == "x\n", index
        names = [stage["name"] for stage in status["timeline"]]
        assert names[-2:] == ["started", "ended"], names
        assert names.count("ended") == 1


def test_an_agent_that_is_killed_at_any_moment_of_a_start_executes_it_once(make_daemon):
    daemon = make_daemon().start()
    daemon.done("alice", "first", "true")
    for index in range(5):
        job = f"j{index}"
        daemon.run("alice", job, "echo x >> trace; sleep 0.1")
        time.sleep(0.02 * index)
        with contextlib.suppress(ProcessLookupError):
            daemon.agent("alice").signal(signal.SIGKILL)
        status = daemon.until("alice", job, lambda now: now.get("end_confirmed"))
        assert status["state"] == "completed", (index, status)
        assert daemon.file("alice", job, "trace").read_text() == "x\n", index


def test_a_daemon_that_is_killed_while_a_run_is_ending_confirms_the_end_afterwards(daemon: Daemon, job):
    daemon.run("alice", job, "trap '' TERM; echo deaf; while :; do sleep 0.05; done")
    daemon.until("alice", job, "running")
    wait_until(lambda: b"".join(daemon.client().log("alice", job)) == b"deaf\n")

    def cancel():
        with daemon.http() as http, contextlib.suppress(httpx.HTTPError):
            http.post(f"/v1/users/alice/jobs/{job}/cancel", json={"reason": "enough"})

    thread = threading.Thread(target=cancel)
    thread.start()
    daemon.until("alice", job, lambda now: now["state"] == "canceled" and not now["end_confirmed"])
    daemon.sigkill_and_restart()
    thread.join()
    status = daemon.until("alice", job, "canceled")
    assert status["cause"]["text"] == "enough"
    assert not daemon.processes("JOBD_RUN=")


# --- a clean stop ---------------------------------------------------------------------------------------------------


def test_sigterm_detaches_and_answers_those_who_wait(make_daemon):
    daemon = make_daemon().start()
    daemon.run("alice", "j", WAITS)
    daemon.until("alice", "j", lambda now: now["state"] == "running" and "progress" in now)
    answers = []
    with daemon.http() as http:
        tag = http.get("/v1/users/alice/jobs/j").headers["etag"]

    def poll():
        with daemon.http() as http:
            answers.append(http.get("/v1/users/alice/jobs/j", headers={"if-none-match": tag, "prefer": "wait=30"}))

    def ask():
        with daemon.http() as http:
            answers.append(http.post("/v1/users/alice/jobs/j/analysis/sleep", json={"arguments": {"s": 2}}))

    threads = [threading.Thread(target=poll), threading.Thread(target=ask)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(daemon.tree("request")) == 2, "both wait")
    daemon.sigterm()
    for thread in threads:
        thread.join(10)
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(503, "shutting_down")] * 2
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
    assert daemon.processes("JOBD_RUN="), "the run goes on"
    assert not (daemon.state / "address").exists()
    assert not (daemon.state / "admin.sock").exists()
    daemon.start()
    daemon.until("alice", "j", lambda now: now["known"]["state"] == "fresh")
    daemon.file("alice", "j", "go").touch()
    assert daemon.until("alice", "j", "completed")["log_tail"] == "done\n"


def test_a_stop_is_quick_whoever_hangs_on(make_daemon):
    daemon = make_daemon().start()
    daemon.done("alice", "j", "head -c 8000000 /dev/zero > big")
    where = urlsplit(daemon.url)
    hangers = []
    for path, buffer in (("files/big", 4096), ("events", 65536), ("events", 65536), ("", 65536)):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.connect((where.hostname, where.port))
        hangers.append(sock)
        if path:
            request = (
                f"GET /v1/users/alice/jobs/j/{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {daemon.token}\r\n\r\n"
            )
            sock.sendall(request.encode())
    wait_until(lambda: len(daemon.tree("request")) == 3, "a stalled reader and two watchers")
    assert daemon.sigterm() < 4.0, "stop_grace_s is 1 s"
    for sock in hangers:
        sock.close()


def test_sigterm_while_it_starts_and_twice_is_a_clean_stop(make_daemon):
    daemon = make_daemon().start()
    daemon.run("alice", "j", WAITS)
    daemon.until("alice", "j", "running")
    daemon.process.send_signal(signal.SIGTERM)
    daemon.sigterm()
    daemon.start()
    daemon.sigterm()
    daemon.start()
    with daemon.client() as client:
        assert client.cancel("alice", "j")["state"] == "canceled"
    daemon.until("alice", "j", "canceled")


# --- cancel in every state ------------------------------------------------------------------------------------------


def test_a_run_in_the_queue_is_canceled_at_once_and_leaves_its_place(daemon: Daemon, job, full):
    first, second = f"{job}-1", f"{job}-2"
    for name in (first, second):
        daemon.run("alice", name, "true")
    assert daemon.until("alice", second, lambda now: "situation" in now)["situation"]["ahead"] == 1
    with daemon.client() as client:
        status = client.cancel("alice", first, reason="changed my mind")
    assert (status["state"], status["end_confirmed"]) == ("canceled", True)
    assert (status["cause"]["code"], status["cause"]["text"]) == ("user", "changed my mind")
    assert "alice" in status["cause"]["actor"]
    assert daemon.status("alice", second)["situation"]["ahead"] == 0
    full()
    daemon.until("alice", second, "completed")
    assert daemon.status("alice", first)["state"] == "canceled"


def test_a_run_whose_agent_is_starting_is_canceled_at_once(make_daemon, tmp_path):
    (tmp_path / "__main__.py").write_text("import time; time.sleep(4)")
    daemon = make_daemon(local={"zipapp": str(tmp_path)}, agents={"call_home_s": 30.0}).start()
    daemon.run("alice", "j", "true")
    starting = daemon.until("alice", "j", lambda now: now.get("situation", {}).get("code") == "agent")
    assert starting["situation"]["text"]
    began = time.monotonic()
    with daemon.client() as client:
        status = client.cancel("alice", "j")
    assert time.monotonic() - began < 2.0
    assert (status["state"], status["end_confirmed"]) == ("canceled", True)
    assert not daemon.tree("run")


def test_a_run_is_canceled_at_any_moment_of_its_start(daemon: Daemon, job):
    with daemon.client() as client:
        for index in range(12):
            name = f"{job}-{index}"
            daemon.run("alice", name, "echo x >> trace; sleep 60")
            time.sleep(0.005 * index)
            status = client.cancel("alice", name)
            assert (status["state"], status["end_confirmed"]) == ("canceled", True), index
    assert not daemon.processes("JOBD_RUN=")


def test_what_is_over_stays_as_it_ended(daemon: Daemon, job):
    daemon.done("alice", job, "exit 3")
    with daemon.client() as client:
        status = client.cancel("alice", job, reason="too late")
        assert (status["state"], status["cause"]["code"]) == ("failed", "exit_code")
        assert client.cancel("alice", f"{job}-never")["state"] == "missing"


def test_a_cancel_of_an_older_run_never_touches_the_newer_one(daemon: Daemon, job):
    daemon.done("alice", job, "exit 3")
    daemon.run("alice", job, WAITS)
    daemon.until("alice", job, "running")
    with daemon.client() as client:
        assert client.cancel("alice", job, serial=1)["state"] == "failed"
        with pytest.raises(ProblemError) as refused:
            client.cancel("alice", job, serial=3)
        assert refused.value.code == "stale_serial"
        assert daemon.status("alice", job)["state"] == "running"
        assert client.cancel("alice", job, serial=2)["state"] == "canceled"
        assert client.cancel("alice", job, reason="again")["cause"]["text"] != "again"


def test_cancel_run_cancel_run_in_any_order_ends_well(daemon: Daemon, job):
    """People switch browser tabs."""

    def storm(seed: int) -> None:
        with daemon.client() as client:
            for index in range(6):
                with contextlib.suppress(ProblemError):
                    if (seed + index) % 3:
                        script = {"script.sh": {"text": f"sleep 0.{seed}; echo {index}"}}
                        client.run("alice", job, code="shell", inputs=script, supersede=index % 2 == 0)
                    else:
                        client.cancel("alice", job)

    threads = [threading.Thread(target=storm, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    status = daemon.until("alice", job, lambda now: now["state"] in OVER and now["end_confirmed"])
    assert not status.get("previous_ending")
    wait_until(lambda: not daemon.processes("JOBD_RUN="), "nothing of it is left")
    assert not daemon.tree("run")
    assert daemon.done("alice", job, "echo works")["log_tail"] == "works\n"
