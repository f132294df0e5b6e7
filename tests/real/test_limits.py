"""Limits, fairness, warm agents, and a disk that is full."""

import contextlib
import json
import os
import resource
import subprocess
import time

import httpx
import pytest
from realdaemon import Daemon, wait_until

WAITS = "while [ ! -e go ]; do sleep 0.05; done; date +%s.%N"


def go(daemon: Daemon, user: str, *jobs: str) -> None:
    for job in jobs:
        daemon.file(user, job, "go").touch()


def waiting(daemon: Daemon, user: str, job: str) -> tuple[str, int]:
    status = daemon.until(user, job, lambda now: "situation" in now and now["situation"]["code"] != "agent")
    assert status["state"] == "pending"
    return status["situation"]["code"], status["situation"].get("ahead")


@pytest.fixture(scope="module")
def narrow() -> dict:
    return {
        "tiers": {
            "default": {"sequential": 1, "parallel": 1, "pending_max": 3},
            "small": {"sequential": 1, "parallel": 0},
        },
        "host": {"cores": 2, "memory_bytes": 4 << 30},
    }


def test_a_users_second_run_waits_for_the_first_and_then_starts(make_daemon, narrow):
    daemon = make_daemon(**narrow).start()
    for name in ("a", "b", "c"):
        daemon.run("alice", name, WAITS)
    daemon.until("alice", "a", "running")
    assert waiting(daemon, "alice", "b") == ("user_runs", 0)
    assert waiting(daemon, "alice", "c") == ("user_runs", 1)
    assert "run of this user" in daemon.status("alice", "b")["situation"]["text"]
    daemon.run("alice", "parallel", WAITS, mode="parallel", resources={"cores": 1})  # a limit of its own
    daemon.until("alice", "parallel", "running")
    # One more waits than the tier lets wait.
    daemon.run("alice", "d", "true")
    with daemon.http() as http:
        ask = {"code": "shell", "inputs": {"script.sh": {"text": "true"}}}
        full = http.put("/v1/users/alice/jobs/e/run", json=ask)
        assert (full.status_code, full.json()["code"], full.json()["limit"]) == (429, "queue_full", 3)
        assert int(full.headers["retry-after"]) > 0
        http.put("/v1/users/carol", json={"tier": "small"})
        refused = http.put("/v1/users/carol/jobs/e/run", json={**ask, "mode": "parallel"})
        assert (refused.status_code, refused.json()["field"]) == (422, "mode")
        # Another user is not concerned by alice's queue, but the host is full.
        assert http.put("/v1/users/bob/jobs/e/run", json=ask).status_code == 202
    assert waiting(daemon, "bob", "e") == ("host", 0)
    go(daemon, "alice", "a")
    daemon.until("bob", "e", "completed")
    daemon.until("alice", "b", "running")
    assert waiting(daemon, "alice", "c") == ("user_runs", 0)
    go(daemon, "alice", "b", "parallel")
    daemon.until("alice", "c", "running")
    go(daemon, "alice", "c")
    times = [float(daemon.until("alice", name, "completed")["log_tail"]) for name in ("a", "b", "c")]
    assert times == sorted(times)
    daemon.until("alice", "d", "completed")
    assert daemon.tree("run") == []


def test_two_users_take_turns_on_a_full_host(make_daemon):
    daemon = make_daemon(host={"cores": 1, "memory_bytes": 4 << 30}).start()
    for user in ("alice", "bob"):
        daemon.done(user, "warm", "true")
    daemon.run("alice", "first", WAITS)
    daemon.until("alice", "first", "running")
    for index in range(3):
        daemon.run("alice", f"j{index}", "date +%s.%N")
    for index in range(3):
        daemon.run("bob", f"j{index}", "date +%s.%N")
    places = {(user, index): waiting(daemon, user, f"j{index}")[1] for user in ("alice", "bob") for index in range(3)}
    assert sorted(places.values()) == [0, 1, 2, 3, 4, 5]
    go(daemon, "alice", "first")
    ended = {
        (user, index): float(daemon.until(user, f"j{index}", "completed")["log_tail"])
        for user in ("alice", "bob")
        for index in range(3)
    }
    order = sorted(ended, key=ended.__getitem__)
    assert order == sorted(places, key=places.__getitem__), "they ended in the order that was foretold"
    assert all(order[index][0] != order[index + 1][0] for index in range(5)), order


def test_questions_are_answered_while_every_slot_is_taken(make_daemon, narrow):
    daemon = make_daemon(**narrow).start()
    daemon.done("alice", "old", "echo frame > frames.txt; echo result > out")
    daemon.run("alice", "a", WAITS, mode="parallel", resources={"cores": 2})
    daemon.run("alice", "b", "true")
    daemon.until("alice", "a", "running")
    assert waiting(daemon, "alice", "b")[0] == "host"
    began = time.monotonic()
    with daemon.client() as client:
        for name in ("old", "a"):
            client.files("alice", name)
        assert client.file("alice", "old", "out") == b"result\n"
        assert b"frame" in client.frame("alice", "old", "lines")
        assert b"pid" in client._http.post("/v1/users/alice/jobs/a/analysis/pid", json={}).content
    assert time.monotonic() - began < 5.0
    go(daemon, "alice", "a")
    daemon.until("alice", "b", "completed")


def test_an_agent_and_its_worker_are_reused_and_ended_when_nobody_needs_them(make_daemon):
    daemon = make_daemon(agents={"idle_s": 2.0, "lonely_s": 60.0}).start()
    pids = []
    with daemon.http() as http:
        for index in range(3):
            daemon.done("alice", f"j{index}", "true")
            worker = http.post(f"/v1/users/alice/jobs/j{index}/analysis/pid", json={}).json()["pid"]
            pids.append((daemon.agent("alice").pid, worker))
    assert len(set(pids)) == 1
    directory = daemon.agent("alice").directory
    # A run, however quiet, keeps its agent.
    daemon.run("alice", "long", "sleep 3")
    assert daemon.until("alice", "long", "completed")
    assert daemon.agent("alice").pid == pids[0][0]
    wait_until(lambda: not daemon.processes(str(daemon.state / "agents")), "agent and worker are gone")
    wait_until(lambda: not daemon.tree("agent"))
    assert not list(directory.glob("*.sock")), "its doors are closed"
    # It comes back when it is needed, also for a mere question.
    with daemon.client() as client:
        assert {file["path"] for file in client.files("alice", "j0")["files"]} == {"script.sh"}
    assert daemon.agent("alice").pid not in (0, pids[0][0])
    assert daemon.done("alice", "j0", "true", force=True)["state"] == "completed"


def test_a_second_daemon_on_the_same_state_is_refused(daemon: Daemon):
    second = subprocess.run([*daemon.process.args], capture_output=True, text=True, timeout=20, check=False)
    assert second.returncode == 1
    assert second.stderr.strip() == f"Error: another jobd works in {daemon.state}"
    daemon.done("alice", "still", "true")
    assert (daemon.state / "admin.sock").exists()


# --- the store cannot commit ----------------------------------------------------------------------------------------


@pytest.fixture
def no_room(make_daemon):
    """A daemon whose files cannot grow any more from `fill()` to `free()`, and that has a run under way."""
    daemon = make_daemon(requests={"deadline_s": 1.5}, agents={"heartbeat_s": 0.2}).start()
    daemon.run("alice", "j", WAITS)
    daemon.until("alice", "j", "running")

    class Disk:
        def fill(self) -> None:
            resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))

        def free(self) -> None:
            resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)

    yield daemon, Disk()
    if daemon.process.poll() is None:
        Disk().free()
        daemon.process.kill()
        daemon.process.wait()


def allow_errors(daemon: Daemon) -> None:
    """What the store says of its trouble belongs into the log, if there is room for it; nothing else does."""
    text = daemon.log()
    daemon.log_path.write_text("\n".join(line for line in text.splitlines() if "the store cannot commit" not in line))


def test_a_full_disk_accepts_nothing_loses_nothing_and_recovers(no_room):
    daemon, disk = no_room
    ask = {"code": "shell", "inputs": {"script.sh": {"text": "echo later"}}}
    with daemon.http() as http:
        disk.fill()
        daemon.file("alice", "j", "go").touch()  # the run ends meanwhile
        first = http.put("/v1/users/alice/jobs/k/run", json=ask)
        assert first.status_code in (503, 504), "not accepted: it is not on disk"
        for index in range(3):
            refused = http.put(f"/v1/users/alice/jobs/l{index}/run", json=ask)
            assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
            assert int(refused.headers["retry-after"]) > 0
        assert http.get("/readyz").status_code == 503
        assert http.get("/healthz").status_code == 200
        # What was not committed is not told, and what was is still readable.
        assert http.get("/v1/users/alice/jobs/j").status_code in (200, 504)
        time.sleep(0.5)
        disk.free()
        wait_until(lambda: http.get("/readyz").status_code == 200, "it recovers by itself")
        status = daemon.until("alice", "j", "completed")
        assert [stage["name"] for stage in status["timeline"]].count("ended") == 1
        again = http.put("/v1/users/alice/jobs/k/run", json=ask)
        assert (again.status_code, again.json()["serial"]) in ((200, 1), (202, 1))
        assert daemon.until("alice", "k", "completed")["log_tail"] == "later\n"
    assert "the store commits again" in daemon.log()
    allow_errors(daemon)


def test_a_sigkill_while_the_disk_is_full_loses_nothing_that_was_accepted(no_room):
    daemon, disk = no_room
    ask = {"code": "shell", "inputs": {"script.sh": {"text": "echo later"}}}
    with daemon.http() as http:
        disk.fill()
        assert http.put("/v1/users/alice/jobs/k/run", json=ask).status_code in (503, 504)
        daemon.file("alice", "j", "go").touch()
        time.sleep(0.3)
    daemon.sigkill()
    daemon.start()
    assert daemon.until("alice", "j", "completed")["serial"] == 1
    assert daemon.status("alice", "k")["state"] == "missing"
    assert daemon.done("alice", "k", "echo later")["serial"] == 1
    allow_errors(daemon)


@pytest.fixture
def small_disk(make_daemon):
    """A daemon whose state, its users' runs apart, is on a file system of 6 MB with a reserve of 1 MB; `fill` fills
    it."""
    if os.getuid() != 0:
        pytest.skip("only root can mount a small file system")
    small = {"requests": {"deadline_s": 1.5}, "agents": {"lonely_s": 0.5}, "store": {"reserve_bytes": 1 << 20}}
    daemon = make_daemon(**small)
    runs = daemon.state.with_name("runs")
    for path in (daemon.state, runs):
        path.mkdir(mode=0o711)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m,mode=711", "none", str(daemon.state)], check=True)
    (daemon.state / "runs").symlink_to(runs)
    try:
        yield daemon.start()
    finally:
        daemon.sigterm()
        wait_until(lambda: not daemon.processes(), "its agents have left")
        subprocess.run(["umount", "-l", str(daemon.state)], check=True)


def fill(daemon: Daemon) -> None:
    """To the last byte."""
    with (daemon.state / "filler").open("ab", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))


def use_up(daemon: Daemon, http: httpx.Client) -> None:
    """Fill the disk, and have things written until the reserve is used too."""
    fill(daemon)
    while (daemon.state / "reserve").exists():
        http.put("/v1/users/bob/jobs/k/run", json={**LATER, "force": True})
        fill(daemon)


LATER = {"code": "shell", "inputs": {"script.sh": {"text": "echo later #" + "x" * 100_000}}}


def test_a_full_file_system_is_survived_and_reported(small_disk):
    daemon = small_disk
    daemon.done("alice", "j", "echo well")
    with daemon.http() as http:
        use_up(daemon, http)
        wait_until(lambda: http.get("/readyz").status_code == 503, "it says so")
        refused = http.put("/v1/users/alice/jobs/l/run", json=LATER)
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
        assert http.get("/v1/users/alice/jobs/j").json()["state"] == "completed"
        (daemon.state / "filler").unlink()
        wait_until(lambda: http.get("/readyz").status_code == 200)
        assert (daemon.state / "reserve").stat().st_blocks * 512 >= 1 << 20
        http.put("/v1/users/alice/jobs/k/run", json=LATER)
    daemon.until("alice", "k", "completed")
    allow_errors(daemon)


def test_the_end_of_what_runs_is_recorded_in_the_reserve_of_a_full_disk(small_disk):
    daemon = small_disk
    daemon.run("alice", "j", WAITS)
    daemon.until("alice", "j", "running")
    with daemon.http() as http:
        fill(daemon)
        while (daemon.state / "reserve").exists():
            assert http.post("/v1/users/alice/tokens", json={}).status_code in (201, 503, 504)
        daemon.file("alice", "j", "go").touch()
        daemon.until("alice", "j", "completed")
        assert http.put("/v1/users/alice/jobs/l/run", json=LATER).json()["code"] == "store_unavailable"
    daemon.sigkill()
    (daemon.state / "filler").unlink()
    daemon.start()
    assert daemon.status("alice", "j")["state"] == "completed"
    assert daemon.done("alice", "k", "true")["state"] == "completed"


def test_a_disk_that_is_full_where_the_runs_are_is_told_to_the_user(make_daemon):
    """The run's own output, not the store: the code sees it, and the run ends as the code ends."""
    daemon = make_daemon().start()
    status = daemon.done("alice", "j", "echo x > /dev/full || exit 9")
    assert (status["state"], status["usage"]["exit_code"]) == ("failed", 9)
    assert json.loads(daemon.agent("alice").directory.joinpath("agent.json").read_text())["agent"]
