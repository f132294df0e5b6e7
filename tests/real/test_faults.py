"""Whatever goes wrong with a run ends it with its cause in plain words, leaves no process, and the next run works."""

import json
import os
import signal
import time
from pathlib import Path

import httpx
import pytest
from plainclient import ProblemError
from realdaemon import OVER, Daemon, processes_that_name, wait_until

FOREVER = "echo begun; while :; do sleep 0.05; done"


def next_run_works(daemon: Daemon, job: str, user: str = "alice") -> None:
    assert daemon.done(user, job, "echo works")["log_tail"] == "works\n"


def of_the_run(daemon: Daemon, user: str, job: str) -> dict[int, str]:
    return daemon.processes(str(daemon.file(user, job, "").parent), "JOBD_RUN=")


# --- the code's own faults ------------------------------------------------------------------------------------------


FAULTS = {
    "an error": ("echo sorry; exit 3", {}, "exit_code", "exit code 3"),
    "a crash": ("kill -SEGV $$", {}, "signal", "SIGSEGV"),
    "for ever": (FOREVER, {"run_s": 0.5}, "run_timeout", "wall-time limit of 0.5 s"),
    "deaf to SIGTERM": ("trap '' TERM; " + FOREVER, {"run_s": 0.5}, "run_timeout", "wall-time limit"),
    "asleep": ("kill -STOP $$", {"run_s": 0.5}, "run_timeout", "wall-time limit"),
    "a flood": ("while :; do echo floodfloodfloodfloodfloodfloodflood; done", {}, "log_limit", "65536 bytes"),
    "a flood without lines": ("head -c 10000000 /dev/zero", {}, "log_limit", "65536 bytes"),
    "too large a file": ("head -c 9000000 /dev/zero > big || exit 5", {}, "exit_code", "exit code 5"),
    "no memory": ("exec python3 -c 'x = bytes(900 << 20)'", {}, "exit_code", "exit code"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_code_ends_the_run_with_its_cause(daemon: Daemon, job, fault):
    script, limits, code, words = FAULTS[fault]
    status = daemon.done("alice", job, script, limits=limits)
    assert (status["state"], status["cause"]["code"]) == ("failed", code)
    assert words in status["cause"]["text"]
    assert len(b"".join(daemon.client().log("alice", job))) <= 65536
    assert daemon.file("alice", job, "script.sh").exists()
    assert not of_the_run(daemon, "alice", job)
    next_run_works(daemon, job)


def test_a_file_ends_at_its_limit(daemon: Daemon, job):
    daemon.done("alice", job, FAULTS["too large a file"][0])
    assert daemon.file("alice", job, "big").stat().st_size == 8388608


def test_a_program_that_is_not_there_is_named(daemon: Daemon, job):
    with daemon.client() as client:
        client.run("alice", job, code="absent")
    status = daemon.until("alice", job, "failed")
    assert status["cause"]["code"] == "not_started"
    assert "command not found: no-such-program" in status["cause"]["text"]
    next_run_works(daemon, job)


ESCAPES = {
    "setsid": "setsid sh -c 'trap \"\" TERM HUP; touch out; sleep 1000' &",
    "double fork": "(setsid sh -c 'touch out; exec sleep 1000' >/dev/null 2>&1 &) &",
    "daemon": "setsid sh -c 'exec </dev/null >/dev/null 2>&1; cd /; touch $HOME/out; exec env -i sleep 1000' &",
}  # fmt: skip


HIDDEN = "while [ ! -e out ]; do sleep 0.01; done"


@pytest.mark.parametrize("escape", ESCAPES)
def test_what_a_run_leaves_behind_is_killed_at_its_end(daemon: Daemon, job, escape):
    before = sleepers()
    status = daemon.done("alice", job, f"{ESCAPES[escape]}\n{HIDDEN}")
    assert status["state"] == "completed"
    assert sleepers() == before


@pytest.mark.parametrize("escape", ESCAPES)
def test_what_hides_from_a_run_is_killed_by_its_cancel(daemon: Daemon, job, escape):
    before = sleepers()
    daemon.run("alice", job, f"{ESCAPES[escape]}\n{FOREVER}")
    wait_until(lambda: len(sleepers()) > len(before), "it has hidden")
    with daemon.client() as client:
        status = client.cancel("alice", job)
    assert (status["state"], status["end_confirmed"]) == ("canceled", True)
    assert sleepers() == before


def sleepers() -> set[int]:
    """Every `sleep 1000` of the machine: an escaped one may have forgotten all that tells where it came from."""
    return {pid for pid, line in processes_that_name().items() if line.strip() == "sleep 1000"}


def test_a_run_that_closes_its_output_and_goes_on_is_running(daemon: Daemon, job):
    daemon.run("alice", job, "echo before; exec >&- 2>&-; while [ ! -e go ]; do sleep 0.05; done; touch after")
    daemon.until("alice", job, "running")
    time.sleep(0.3)
    assert daemon.status("alice", job)["state"] == "running"
    daemon.file("alice", job, "go").touch()
    assert daemon.until("alice", job, "completed")["log_tail"] == "before\n"
    assert daemon.file("alice", job, "after").exists()


def test_a_run_that_removes_its_own_directory_ends_as_it_ends(daemon: Daemon, job):
    assert daemon.done("alice", job, 'rm -rf "$PWD"; echo gone')["state"] == "completed"
    with daemon.client() as client:
        assert b"".join(client.log("alice", job)) == b"gone\n"
        with pytest.raises(ProblemError) as refused:
            client.files("alice", job)
    assert refused.value.status == 404
    next_run_works(daemon, job)


# --- time limits ----------------------------------------------------------------------------------------------------


def test_a_run_that_waits_too_long_in_the_queue_says_so(daemon: Daemon, job):
    first, second = f"{job}-1", f"{job}-2"
    daemon.run("alice", first, FOREVER, mode="parallel", resources={"cores": 8})
    daemon.until("alice", first, "running")
    daemon.run("alice", second, "true", limits={"queue_s": 0.5})
    waiting = daemon.until("alice", second, lambda now: "situation" in now)
    assert (waiting["situation"]["code"], waiting["situation"]["ahead"]) == ("host", 0)
    status = daemon.until("alice", second, "failed")
    assert status["cause"]["code"] == "queue_timeout"
    assert [stage["name"] for stage in status["timeline"]] == ["accepted", "failed"]
    with daemon.client() as client, pytest.raises(ProblemError) as refused:
        client.files("alice", second)
    assert refused.value.code == "no_run"
    with daemon.client() as client:
        assert client.cancel("alice", first)["end_confirmed"]
    next_run_works(daemon, second)


def broken_agent(home, text: str) -> str:
    """A program in the agent's place."""
    home.mkdir()
    (home / "__main__.py").write_text(text)
    return str(home)


AGENTS = {
    "raises": ("raise RuntimeError('the agent is broken on purpose')", "the agent is broken on purpose"),
    "is silent": ("import time, sys; print('hello?', flush=True); time.sleep(60)", "did not call home within 1 s"),
}


@pytest.mark.parametrize("fault", AGENTS)
def test_a_run_whose_agent_cannot_start_fails_with_the_end_of_its_log(make_daemon, tmp_path, fault):
    text, words = AGENTS[fault]
    zipapp = broken_agent(tmp_path / "agent", text)
    daemon = make_daemon(local={"zipapp": zipapp}, agents={"call_home_s": 1.0}).start()
    daemon.run("alice", "j", "true", limits={"start_s": 3.0})
    status = daemon.until("alice", "j", "failed")
    assert status["cause"]["code"] == "agent_start"
    assert words in status["cause"]["text"]
    assert daemon.tree("run") == []
    # It can be repaired without a restart of jobd, and then works.
    (tmp_path / "agent" / "__main__.py").write_text(
        "import runpy, sys; sys.argv[0] = '/work'; from agents.__main__ import main; sys.exit(main())"
    )
    next_run_works(daemon, "j")


def test_an_interpreter_that_is_none_is_named(make_daemon):
    for python, words in (("/bin/false", "it ended before it called home"), ("/no/such/python", "/no/such/python")):
        daemon = make_daemon(local={"python": python}).start()
        daemon.run("alice", "j", "true", limits={"start_s": 1.0})
        status = daemon.until("alice", "j", "failed")
        assert status["cause"]["code"] == "agent_start"
        assert words in status["cause"]["text"]


def test_a_question_is_told_at_once_why_there_is_no_agent(make_daemon, tmp_path):
    daemon = make_daemon().start()
    daemon.done("alice", "j", "echo result > out")
    daemon.sigterm()
    wait_until(lambda: not daemon.processes(), "the agent has left")
    zipapp = broken_agent(tmp_path / "agent", "raise RuntimeError('the agent is broken on purpose')")
    toml = daemon.home / "jobd.toml"
    toml.write_text(toml.read_text().replace("[local]", f"[local]\nzipapp = {json.dumps(zipapp)}"))
    daemon.start()
    with daemon.http() as http:
        reply = http.get("/v1/users/alice/jobs/j/files/out")
        assert (reply.status_code, reply.json()["code"]) == (503, "agent_unavailable")
        assert "the agent is broken on purpose" in reply.json()["detail"]
        assert int(reply.headers["retry-after"]) > 0
        assert http.get("/v1/users/alice/jobs/j").json()["state"] == "completed"


# --- the agent's faults ---------------------------------------------------------------------------------------------


def test_an_agent_that_is_killed_under_a_run_is_replaced_and_the_run_goes_on(daemon: Daemon, job):
    daemon.run("bob", job, "for i in $(seq 30); do echo $i; sleep 0.05; done; while [ ! -e go ]; do sleep 0.05; done")
    daemon.until("bob", job, "running")
    main = of_the_run(daemon, "bob", job)
    assert main
    for _ in range(2):
        agent = daemon.agent("bob")
        agent.signal(signal.SIGKILL)
        wait_until(lambda agent=agent: daemon.agent("bob").generation > agent.generation, "the next generation")
        daemon.until("bob", job, lambda now: now["known"]["state"] == "fresh")
    assert daemon.status("bob", job)["state"] == "running"
    daemon.file("bob", job, "go").touch()
    status = daemon.until("bob", job, "completed")
    assert status["serial"] == 1
    with daemon.client() as client:
        assert b"".join(client.log("bob", job)) == b"".join(b"%d\n" % i for i in range(1, 31))
    next_run_works(daemon, job, "bob")


def test_a_download_that_an_agents_death_cuts_is_an_error_and_not_a_short_file(daemon: Daemon, job):
    daemon.done("bob", job, "head -c 8000000 /dev/zero > big")
    with daemon.http() as http, http.stream("GET", f"/v1/users/bob/jobs/{job}/files/big") as reply:
        pieces = reply.iter_raw(1000)
        next(pieces)
        daemon.agent("bob").signal(signal.SIGKILL)
        with pytest.raises(httpx.HTTPError):
            for _ in pieces:
                pass
    with daemon.client() as client:
        assert len(client.file("bob", job, "big")) == 8000000


def test_a_question_rides_over_the_death_of_its_agent(daemon: Daemon, job):
    daemon.done("bob", job, "echo frame > frames.txt")
    daemon.agent("bob").signal(signal.SIGKILL)
    with daemon.client() as client:
        assert b"frame" in client.frame("bob", job, "lines")


def test_a_run_whose_agent_is_silent_too_long_fails_and_is_ended(make_daemon):
    agents = {"silence_s": 1.0, "away_s": 2.0, "heartbeat_s": 0.2}
    daemon = make_daemon(agents=agents).start()
    daemon.run("alice", "j", FOREVER, limits={"heartbeat_s": 0.5})
    daemon.until("alice", "j", "running")
    daemon.agent("alice").signal(signal.SIGSTOP)
    unknown = daemon.until("alice", "j", lambda now: now["known"]["state"] == "unknown")
    assert (unknown["state"], "since" in unknown["known"]) == ("running", True)
    status = daemon.until("alice", "j", lambda now: now["state"] == "failed")
    assert (status["cause"]["code"], status["end_confirmed"]) == ("heartbeat_timeout", False)
    assert of_the_run(daemon, "alice", "j"), "it still runs, and the status says that its end is not confirmed"
    # A new run is accepted, and waits for the proof that the old one is gone.
    daemon.run("alice", "j", "echo works")
    daemon.until(
        "alice", "j", lambda now: now.get("situation", {}).get("code") == "previous_run" or now["state"] in OVER
    )
    status = daemon.until("alice", "j", "completed", 30)
    assert (status["serial"], status["log_tail"]) == (2, "works\n")
    assert not of_the_run(daemon, "alice", "j")


def test_a_pause_of_the_agent_that_is_no_longer_than_allowed_harms_nothing(make_daemon):
    daemon = make_daemon(agents={"silence_s": 1.0, "away_s": 20.0, "heartbeat_s": 0.2}).start()
    daemon.run("alice", "j", "while [ ! -e go ]; do sleep 0.05; done")
    daemon.until("alice", "j", "running")
    agent = daemon.agent("alice")
    agent.signal(signal.SIGSTOP)
    daemon.until("alice", "j", lambda now: now["known"]["state"] == "unknown")
    daemon.file("alice", "j", "go").touch()
    agent.signal(signal.SIGCONT)
    assert daemon.until("alice", "j", "completed")["serial"] == 1
    assert daemon.agent("alice").pid == agent.pid


def test_what_watches_a_run_is_killed_and_so_the_run_is_lost_and_ended(daemon: Daemon, job):
    """The run's own parent: who could say how it ended?"""
    daemon.run("alice", job, "setsid sleep 1000 & " + FOREVER)
    daemon.until("alice", job, "running")
    wait_until(lambda: len(of_the_run(daemon, "alice", job)) >= 2)
    main = min(of_the_run(daemon, "alice", job))
    parent = int(Path(f"/proc/{main}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    status = daemon.until("alice", job, "failed")
    assert status["cause"]["code"] == "lost"
    assert not of_the_run(daemon, "alice", job)
    next_run_works(daemon, job)
