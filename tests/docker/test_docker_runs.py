"""Runs in containers of a real engine: started, canceled, kept warm, sized, adopted, and proved to be over."""

import pytest
from dockerdaemon import WAITS
from realdaemon import wait_until

pytestmark = pytest.mark.docker

MIB = 1 << 20


def run_agents(daemon, user):
    """Id and generation of the user's agents for runs."""
    mine = (agent for agent in daemon.agents() if agent["user"] == user)
    return [(agent["id"], agent["generation"]) for agent in mine if "/run." in agent["place"]]


def test_a_run_is_alone_in_a_container_with_its_users_uid_and_no_network(daemon, user):
    status = daemon.done(user, "j", "id -u; ls /sys/class/net; cat /proc/1/cmdline; echo; echo out > result")
    assert status["state"] == "completed", status
    uid, net, init = daemon.said(user, "j").splitlines()[:3]
    assert int(uid) >= 200_000
    assert net == "lo"
    assert "docker-init" in init or "/sbin/" in init
    assert daemon.file(user, "j", "result").read_text() == "out\n"
    assert daemon.file(user, "j", "result").stat().st_uid == int(uid)


def test_files_and_log_are_read_through_a_container_of_their_own(daemon, user):
    daemon.done(user, "j", "echo said; echo 0123456789 > f")
    with daemon.http() as http:
        base = f"/v1/users/{user}/jobs/j"
        assert http.get(f"{base}/files/f").text == "0123456789\n"
        assert "said" in http.get(f"{base}/log").text
    roles = sorted(agent["place"].split("/")[1] for agent in daemon.agents() if agent["user"] == user)
    assert roles == ["run.0", "view.0"]


def test_the_next_run_is_warm_and_two_at_once_have_a_container_each(daemon, user):
    daemon.done(user, "a", "true")
    first = run_agents(daemon, user)
    daemon.done(user, "b", "true")
    assert run_agents(daemon, user) == first
    assert first[0][1] == 1, "it is of the first generation"
    one, two = daemon.running(user, "c"), daemon.running(user, "d")
    assert one.id != two.id
    for job in ("c", "d"):
        with daemon.client() as client:
            client.cancel(user, job)


def test_a_containers_size_is_that_of_its_run(daemon, user):
    daemon.done(user, "small", "true")
    small = daemon.running(user, "large", mode="parallel", resources={"cores": 3, "memory_bytes": 200 * MIB})
    small.reload()
    config = small.attrs["HostConfig"]
    assert config["CpuQuota"] == 300_000
    assert config["Memory"] == config["MemorySwap"] == (200 + 96) * MIB
    with daemon.client() as client:
        client.cancel(user, "large")
    daemon.until(user, "large", "canceled")
    again = daemon.running(user, "small2")
    assert again.attrs["HostConfig"]["Memory"] == (128 + 96) * MIB
    with daemon.client() as client:
        client.cancel(user, "small2")


def test_after_a_confirmed_cancel_only_the_agent_is_in_the_container(daemon, user):
    daemon.done(user, "warm", "true")
    container = daemon.running(user, "j", f"trap '' TERM; sleep 700 & {WAITS}")
    with daemon.client() as client:
        status = client.cancel(user, "j")
    assert status["state"] == "canceled"
    daemon.until(user, "j", "canceled")
    table = container.top(ps_args="-eo pid,args")["Processes"]
    assert not [row for row in table if "sleep" in row[1]], table
    assert daemon.done(user, "next", "true")["state"] == "completed"


def test_what_hides_from_the_agent_is_seen_by_the_engine_and_ends_with_the_container(daemon, user):
    daemon.done(user, "warm", "true")
    container = daemon.running(user, "j")
    # A process that the agent cannot find: docker exec puts it beside the agent, not below it.
    container.exec_run(["sleep", "777"], detach=True, user="0")
    wait_until(lambda: "777" in str(container.top(ps_args="-eo pid,args")), "the stray is there")
    with daemon.client() as client:
        client.cancel(user, "j")
    daemon.until(user, "j", "canceled")
    assert not daemon.pids(container)
    assert daemon.done(user, "next", "true")["state"] == "completed"


def test_a_user_has_one_uid_and_sees_no_other_user(daemon, user):
    daemon.done(user, "a", "id -u")
    daemon.done(f"{user}-2", "a", "id -u; ls /jobd/user; ls -la /jobd/agent /jobd")
    assert daemon.said(user, "a").split()[0] != daemon.said(f"{user}-2", "a").split()[0]
    other = daemon._record("SELECT record FROM jobs WHERE name = ? AND user = ?", "a", daemon._user(user))["id"]
    assert other not in daemon.said(f"{user}-2", "a")


def test_a_warm_session_has_both_containers_before_the_first_run(daemon, user):
    with daemon.http() as http:
        assert http.post(f"/v1/users/{user}/session", json={"code": "shell"}).status_code == 202
    wait_until(
        lambda: [agent["linked"] for agent in daemon.agents() if agent["user"] == user] == [True, True], deadline_s=60
    )
    daemon.done(user, "j", "true")
    assert {agent["generation"] for agent in daemon.agents() if agent["user"] == user} == {1}
    status = daemon.status(user, "j")
    assert status["state"] == "completed"


def test_the_digest_of_the_image_is_kept_with_the_run(daemon, user):
    daemon.done(user, "j", "true")
    with daemon.http() as http:
        (run,) = http.get(f"/v1/users/{user}/jobs/j/runs").json()["runs"]
    assert run["image_digest"].startswith("sha256:")


def test_a_deleted_jobs_files_are_removed(daemon, user):
    daemon.done(user, "j", "echo 1 > f")
    path = daemon.file(user, "j", "f")
    assert path.exists()
    with daemon.http() as http:
        assert http.delete(f"/v1/users/{user}/jobs/j").status_code == 200
    wait_until(lambda: not path.exists(), "the file is gone")


def test_killed_and_started_again_jobd_adopts_every_container_and_ends_nothing(make_daemon, user):
    daemon = make_daemon(tiers={"default": {"sequential": 4}}).start()
    for number in range(4):
        daemon.run(f"u{number}", "j", f"echo begun; sleep 3; echo {number} > f")
    for number in range(4):
        daemon.until(f"u{number}", "j", "running", 60)
    before = {each.id for each in daemon.containers("run")}
    assert len(before) == 4
    daemon.sigkill_and_restart()
    assert {each.id for each in daemon.containers("run")} == before
    for number in range(4):
        status = daemon.until(f"u{number}", "j", "completed", 60)
        assert [stage["name"] for stage in status["timeline"]].count("started") == 1
        assert daemon.file(f"u{number}", "j", "f").read_text() == f"{number}\n"
