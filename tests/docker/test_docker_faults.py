"""Faults of containers and engine that must end well."""

import os
import signal

import docker
import pytest
from dockerdaemon import CODES
from realdaemon import wait_until

pytestmark = pytest.mark.docker


def agent_pid(daemon, container):
    """The agent's process, as this machine sees it: the first child of docker-init."""
    init = container.attrs["State"]["Pid"]
    rows = container.top(ps_args="-eo pid,ppid")["Processes"]
    return int(next(pid for pid, parent in rows if int(parent) == init))


def test_a_container_that_is_killed_from_outside_fails_its_run_and_the_next_works(daemon, user):
    container = daemon.running(user, "j")
    container.kill()
    status = daemon.until(user, "j", "failed")
    assert status["cause"]["code"] == "agent_lost"
    assert status["end_confirmed"]
    assert daemon.done(user, "k", "true")["state"] == "completed"


def test_an_agent_that_is_killed_takes_its_container_along(daemon, user):
    container = daemon.running(user, "j")
    pids = daemon.pids(container)
    os.kill(agent_pid(daemon, container), signal.SIGKILL)
    status = daemon.until(user, "j", "failed")
    assert status["cause"]["code"] == "agent_lost"
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}") and "Z" not in state(pid)]


def state(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_a_left_over_name_of_ours_is_taken_and_a_strangers_is_an_error(make_daemon, user, engine):
    daemon = make_daemon(agents={"call_home_s": 5.0}).start()
    daemon.done(user, "j", "true")
    (agent,) = [each for each in daemon.agents() if "/run." in each["place"]]
    (container,) = [each for each in daemon.containers() if each.labels["jobd.agent"] == agent["id"]]
    container.kill()  # an exited container keeps the name
    assert daemon.done(user, "k", "true")["state"] == "completed"
    name = f"jobd-{daemon.instance}-{agent['id']}"
    daemon.sigkill()  # or it would put a new container in the place of the one that goes, before we do
    engine.containers.get(name).remove(force=True)
    stranger = engine.containers.create("jobd-shell:bed", ["sleep", "1"], name=name)
    try:
        daemon.start()
        daemon.run(user, "l", "true", limits={"start_s": 3.0})
        status = daemon.until(user, "l", "failed", 30)
        assert status["cause"]["code"] == "agent_start"
        assert "not ours" in status["cause"]["text"]
        engine.containers.get(stranger.id)  # it was not touched
    finally:
        stranger.remove(force=True)
    wait_until(lambda: daemon.done(user, "m", "true")["state"] == "completed", deadline_s=60)


def test_a_container_that_was_created_and_never_started_is_started(daemon, user):
    daemon.done(user, "j", "true")
    (agent,) = [each for each in daemon.agents() if "/run." in each["place"] and each["user"] == user]
    (container,) = [each for each in daemon.containers() if each.labels["jobd.agent"] == agent["id"]]
    daemon.sigkill()  # as if it had died between its calls of create and start
    container.remove(force=True)
    labels = {**container.labels, "jobd.generation": str(agent["generation"] + 1)}
    name = container.attrs["Name"].lstrip("/")
    daemon.engine.containers.create("jobd-shell:bed", ["sleep", "1"], name=name, labels=labels)
    daemon.start()
    # It has another command than ours, so the agent in it never calls home, and the next generation replaces it.
    assert daemon.done(user, "k", "true")["state"] == "completed"


def test_a_missing_image_is_told_with_its_name(make_daemon, user, tmp_path):
    codes = tmp_path / "codes"
    codes.mkdir()
    text = (CODES / "shell.toml").read_text().replace("jobd-shell:bed", "jobd-nothing:bed")
    (codes / "shell.toml").write_text(text)
    daemon = make_daemon(codes=codes).start()
    daemon.run(user, "j", "true", limits={"start_s": 2.0})
    status = daemon.until(user, "j", "failed", 30)
    assert status["cause"]["code"] == "agent_start"
    assert "jobd-nothing:bed" in status["cause"]["text"]


def test_an_image_is_loaded_from_the_sites_file_when_it_is_missing(make_daemon, user, tmp_path, engine):
    codes, files = tmp_path / "codes", tmp_path / "images"
    codes.mkdir()
    files.mkdir()
    engine.images.get("jobd-shell:bed").tag("jobd-loaded", "bed")
    with (files / "jobd-loaded_bed.tar").open("wb") as file:
        for piece in engine.images.get("jobd-loaded:bed").save(named=True):
            file.write(piece)
    engine.images.remove("jobd-loaded:bed")
    with pytest.raises(docker.errors.ImageNotFound):
        engine.images.get("jobd-loaded:bed")
    text = (CODES / "shell.toml").read_text().replace("jobd-shell:bed", "jobd-loaded:bed")
    (codes / "shell.toml").write_text(text)
    daemon = make_daemon(codes=codes, docker={"image_files": str(files)}).start()
    assert daemon.done(user, "j", "true")["state"] == "completed"
    engine.images.remove("jobd-loaded:bed")
