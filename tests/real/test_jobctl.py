"""jobctl about jobs, users and what the daemon holds: for people, as JSON, and by its exit codes."""

import os
import re
import signal

import pytest
from operatorseat import jobctl, launch, on_a_terminal, script, with_own_codes
from realdaemon import DEADLINE_S, Daemon, wait_until

from schemas import codec, views

WAITS = "echo begun; while [ ! -e go ]; do sleep 0.05; done; echo done"
SHELL = ("--code", "shell")


@pytest.fixture(scope="module")
def daemon(make_module_daemon) -> Daemon:
    daemon = with_own_codes(make_module_daemon(tiers={"default": {"sequential": 6, "parallel": 2}, "gold": {}}))
    daemon.start()
    daemon.done("alice", "old", "echo hello; echo data > out")
    daemon.done("alice", "bad", "echo sorry; exit 3")
    return daemon


def waiting(daemon: Daemon, user: str, job: str) -> None:
    daemon.run(user, job, WAITS)
    daemon.until(user, job, "running")


def end(daemon: Daemon, user: str, *jobs: str) -> None:
    for job in jobs:
        with daemon.client() as client:
            assert client.cancel(user, job)["end_confirmed"]


# --- every command, for people and as JSON --------------------------------------------------------------------------

READS = {
    "jobs": (views.JobsView, "alice\told\t1\tcompleted\tshell"),
    "jobs alice": (views.JobsView, "alice\told\t1\tcompleted\tshell"),
    "jobs --state failed": (views.JobsView, "alice\tbad\t1\tfailed"),
    "runs alice old": (views.HistoryView, "1\tcompleted\tshell\t1\tsequential\t1\t"),
    "status alice old": (views.RunView, "alice/old  completed  run 1  shell sequential"),
    "status alice bad": (views.RunView, "  the end of its log:\nsorry\n"),
    "explain alice bad": (views.ExplainView, "why       The code ended with exit code 3."),
    "explain alice bad --serial 1": (views.ExplainView, "failed  run 1"),
    "files alice old": (views.ListingView, "out\t5\t"),
    "usage alice": (views.UserUsageView, "old\t1\t"),
    "agents": (views.AgentsView, "\talice\tlocal\t"),
    "pools": (views.PoolsView, "host\tcores\t0\t8\t"),
    "tree": (views.TreeView, "  user alice\n    agent "),
    "codes": (views.CodesView, "shell\t1\tsequential,parallel\tscript.sh\t"),
    "library list alice": (views.LibraryView, "NAME\tBYTES\tMODIFIED\tSHA256\n"),
    "tokens list": (views.TokensView, "ID\tEXPIRES\tJOB\tREAD_ONLY\n"),
    "tier alice gold": (views.UserView, "alice  tier gold"),
    "tier alice default": (views.UserView, "alice  tier default"),
    "session alice --code shell": (views.SessionView, "  connected"),
}


@pytest.mark.parametrize("words", READS)
def test_a_reply_is_lines_for_people_and_one_document_of_the_api(daemon: Daemon, words):
    kind, expected = READS[words]
    shown = jobctl(daemon, *words.split())
    assert (shown.code, shown.err) == (0, "")
    assert expected in shown.out
    said = jobctl(daemon, *words.split(), "--json")
    assert (said.code, said.err) == (0, "")
    view = codec.from_data(said.json, kind)
    assert codec.to_data(view) == said.json, "these are the fields of the API, and no others"


def test_lists_are_whole_over_pages_filtered_and_cut_where_it_is_asked(make_daemon):
    daemon = with_own_codes(make_daemon(requests={"page_max": 2})).start()
    for index in range(5):
        daemon.run("alice", f"j{index}", f"exit {index % 2}")
    daemon.run("bob", "other", "true")
    for index in range(5):
        daemon.until("alice", f"j{index}", ("completed", "failed")[index % 2])
    daemon.until("bob", "other", "completed")
    assert {row[1] for row in jobctl(daemon, "jobs").rows} == {"j0", "j1", "j2", "j3", "j4", "other"}
    assert {row[1] for row in jobctl(daemon, "jobs", "alice", "--state", "failed").rows} == {"j1", "j3"}
    assert {each["job"] for each in jobctl(daemon, "jobs", "alice", "--json").json["jobs"]} == {
        f"j{index}" for index in range(5)
    }
    assert len(jobctl(daemon, "jobs", "-n", 3).rows) == 3
    assert jobctl(daemon, "jobs", "--code", "mad").rows == []
    assert {each["job"] for each in jobctl(daemon, "usage", "alice", "--json").json["jobs"]} == {
        f"j{index}" for index in range(5)
    }
    for _ in range(2):
        daemon.done("alice", "j0", "exit 1", force=True)
    assert [row[0] for row in jobctl(daemon, "runs", "alice", "j0").rows] == ["3", "2", "1"]
    assert [row[0] for row in jobctl(daemon, "runs", "alice", "j0", "-n", 1).rows] == ["3"]


def test_why_a_run_waits_names_the_pool_and_the_place(daemon: Daemon):
    daemon.run("bob", "first", WAITS, mode="parallel", resources={"cores": 8})
    daemon.until("bob", "first", "running")
    daemon.run("bob", "second", "true")
    daemon.until("bob", "second", lambda now: "situation" in now)
    said = jobctl(daemon, "explain", "bob", "second").out
    assert "wants     cores 1, memory_bytes 268435456" in said
    assert "pool      host: cores 8/8" in said
    assert "1 waiting" in said
    assert "pending" in jobctl(daemon, "status", "bob", "second").out.splitlines()[0]
    end(daemon, "bob", "second", "first")


# --- runs, and the exit codes ---------------------------------------------------------------------------------------


def test_a_run_that_completes_is_0(daemon: Daemon, job):
    ran = jobctl(daemon, "run", "alice", job, *SHELL, script(daemon, "echo hello"))
    assert ran.code == 0
    assert ran.out.startswith(f"alice/{job}  completed  run 1  shell sequential\n")
    assert ran.err.splitlines()[-1] == "completed"
    again = jobctl(daemon, "run", "alice", job, *SHELL, script(daemon, "echo hello"), "--json")
    assert (again.code, again.json["serial"], again.json["log_tail"]) == (0, 1, "hello\n")
    forced = jobctl(daemon, "run", "alice", job, *SHELL, script(daemon, "echo hello"), "--json", "--force")
    assert (forced.code, forced.json["serial"], forced.json["state"]) == (0, 2, "completed")
    assert jobctl(daemon, "status", "-f", "alice", job).code == 0


def test_a_run_that_fails_is_3(daemon: Daemon, job):
    ran = jobctl(daemon, "run", "alice", job, *SHELL, script(daemon, "echo sorry; exit 7"))
    assert ran.code == 3
    assert "cause     The code ended with exit code 7." in ran.out
    assert jobctl(daemon, "status", "--follow", "alice", job).code == 3
    assert jobctl(daemon, "status", "alice", job).code == 0, "that was asked, and is told"


def test_a_run_that_is_canceled_is_4(daemon: Daemon, job):
    follower = launch(daemon, "run", "alice", job, *SHELL, script(daemon, WAITS))
    daemon.until("alice", job, "running")
    canceled = jobctl(daemon, "cancel", "alice", job, "--serial", 1, "--reason", "not [red]now[/]")
    assert canceled.code == 0
    assert "not [red]now[/]" in canceled.out
    out, _ = follower.communicate(timeout=DEADLINE_S)
    assert (follower.returncode, out.split()[1]) == (4, b"canceled")
    assert jobctl(daemon, "cancel", "alice", job, "--json").json["state"] == "canceled"


def test_a_run_that_is_superseded_is_4_for_who_followed_it(daemon: Daemon, job):
    follower = launch(daemon, "run", "alice", job, *SHELL, script(daemon, WAITS), "--json")
    daemon.until("alice", job, "running")
    other = script(daemon, "echo other")
    refused = jobctl(daemon, "run", "alice", job, *SHELL, other)
    assert (refused.code, refused.out) == (1, "")
    assert "(run_active)" in refused.err
    assert jobctl(daemon, "run", "alice", job, *SHELL, other, "--supersede").code == 0
    out, _ = follower.communicate(timeout=DEADLINE_S)
    assert follower.returncode == 4
    assert b'"serial":1' in out


def test_to_be_interrupted_is_130_and_ends_no_run(daemon: Daemon, job):
    follower = launch(daemon, "run", "alice", job, *SHELL, script(daemon, WAITS))
    daemon.until("alice", job, "running")
    wait_until(lambda: b"running" in follower.stderr.readline(), "it follows")
    follower.send_signal(signal.SIGINT)
    _, err = follower.communicate(timeout=DEADLINE_S)
    assert (follower.returncode, err.splitlines()[-1].split()) == (130, [b"jobctl:", b"interrupted"])
    assert daemon.status("alice", job)["state"] == "running"
    end(daemon, "alice", job)


def test_who_does_not_follow_is_told_at_once_and_follows_later(daemon: Daemon, job):
    ran = jobctl(daemon, "run", "alice", job, *SHELL, script(daemon, WAITS), "--no-follow", "--run-s", 30, "--json")
    assert (ran.code, ran.json["serial"]) == (0, 1)
    assert jobctl(daemon, "explain", "alice", job, "--json").json["limits"]["run_s"] == 30
    daemon.until("alice", job, "running")
    follower = launch(daemon, "events", "alice", job)
    daemon.file("alice", job, "go").touch()
    out, _ = follower.communicate(timeout=DEADLINE_S)
    stages = [line.split("\t") for line in out.decode().splitlines()]
    assert [stage[0] for stage in stages] == ["1", "2", "3", "4", "5"]
    assert [stage[3] for stage in stages] == ["accepted", "admitted", "ordered", "started", "ended"]
    every = jobctl(daemon, "events", "alice", job, "--json", "--after", 3).lines
    assert [each["number"] for each in every if each["event"] == "stage"] == [4, 5]
    assert every[-1]["data"]["state"] == "completed"


def test_a_restart_of_the_daemon_is_a_pause_for_who_follows(daemon: Daemon, job):
    follower = launch(daemon, "--patience", 20, "run", "alice", job, *SHELL, script(daemon, WAITS))
    daemon.until("alice", job, "running")
    daemon.sigkill_and_restart()
    daemon.file("alice", job, "go").touch()
    out, _ = follower.communicate(timeout=2 * DEADLINE_S)
    assert (follower.returncode, out.split()[1]) == (0, b"completed")


def test_what_is_refused_is_1_and_one_line(daemon: Daemon):
    for words, code in (
        ("log alice nosuch", "no_run"),
        ("fetch alice old nosuch", "file_not_found"),
        ("library download alice nosuch", "not_found"),
        ("tokens revoke kaaaaaaaaa", "not_found"),
        ("agent stop aaaaaaaaaa", "not_found"),
        ("tier alice nosuch", "invalid"),
        ("run alice x --code nosuch", "invalid"),
        ("explain alice old --serial 9", ""),
        ("status -f alice nosuch", ""),
    ):
        ran = jobctl(daemon, *words.split())
        assert (ran.code, ran.out) == (1, ""), words
        assert re.fullmatch(rf"jobctl: .*{code}.*\n", ran.err), (words, ran.err)


# --- users, agents --------------------------------------------------------------------------------------------------


def test_a_users_token_is_minted_used_listed_and_revoked(daemon: Daemon):
    minted = jobctl(daemon, "tokens", "mint", "--user", "carol", "--job", "j", "--read-only", "--lifetime", 60)
    token, identity = minted.out.strip(), minted.err.split()[1].rstrip(",")
    assert minted.out == f"{token}\n", "nothing else, so that it can be sent into a file"
    with daemon.http(authorization=f"Bearer {token}") as http:
        assert http.get("/v1/users/carol/jobs/j").status_code == 200
        assert http.get("/v1/users/carol/jobs/k").status_code == 403
    (row,) = jobctl(daemon, "tokens", "list", "--user", "carol").rows
    assert (row[0], row[2], row[3]) == (identity, "j", "yes")
    assert jobctl(daemon, "tokens", "revoke", identity).code == 1, "it is none of the operators'"
    assert jobctl(daemon, "tokens", "revoke", "--user", "carol", identity).code == 0
    with daemon.http(authorization=f"Bearer {token}") as http:
        assert http.get("/v1/users/carol/jobs/j").status_code == 401
    assert jobctl(daemon, "tokens", "list", "--user", "carol").rows == []


def test_an_operators_token_is_minted_and_revoked(daemon: Daemon):
    view = codec.from_data(jobctl(daemon, "tokens", "mint", "--json").json, views.TokenView)
    with daemon.http(authorization=f"Bearer {view.token}") as http:
        assert http.get("/v1/admin/agents").status_code == 200
        assert view.id in [row[0] for row in jobctl(daemon, "tokens", "list").rows]
        assert jobctl(daemon, "tokens", "revoke", view.id, "--json").json == {"id": view.id}
        assert http.get("/v1/admin/agents").status_code == 401


def test_an_agent_is_warmed_up_stopped_and_forgotten(make_daemon):
    daemon = with_own_codes(make_daemon()).start()
    identity = jobctl(daemon, "session", "alice", "--json").json["agent"]
    daemon.done("alice", "j", "true")
    (row,) = jobctl(daemon, "agents").rows
    assert (row[0], row[1], row[4]) == (identity, "alice", "yes")
    stopped = jobctl(daemon, "agent", "stop", identity, "--json")
    assert codec.from_data(stopped.json, views.AgentView).id == identity
    wait_until(lambda: not daemon.processes(str(daemon.state / "agents")), "it is gone")
    waiting(daemon, "alice", "long")
    forgotten = jobctl(daemon, "agent", "forget", identity, "--reason", "it [bold]burned[/]")
    assert forgotten.code == 0
    status = jobctl(daemon, "status", "alice", "long").out
    assert "it [bold]burned[/]" in status
    assert status.startswith("alice/long  failed")
    wait_until(lambda: not daemon.tree("run"), "its slots are free")
    for pid in daemon.processes("JOBD_RUN="):  # the operator's word was not true
        os.kill(pid, signal.SIGKILL)


def test_a_job_is_deleted_and_at_a_terminal_only_after_a_yes(daemon: Daemon, job):
    daemon.done("alice", job, "true")
    ran = on_a_terminal(daemon, "delete", "alice", job, typed=b"n\n")
    assert ran.code == 130
    assert f"Delete all runs and files of alice/{job}? [y/N]" in ran.out
    assert daemon.status("alice", job)["state"] == "completed"
    assert on_a_terminal(daemon, "delete", "alice", job, typed=b"y\n").code == 0
    assert daemon.status("alice", job)["state"] == "missing"
    daemon.done("alice", job, "true")
    assert jobctl(daemon, "delete", "alice", job, "--json").json == {"user": "alice", "job": job, "state": "missing"}
