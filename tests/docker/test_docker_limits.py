"""Limits of containers that explain themselves: memory, processes, disk, shared memory, wall time."""

import pytest

pytestmark = pytest.mark.docker

EATS = "b = []\nwhile True: b.append(bytearray(8 << 20))"


@pytest.fixture(scope="module")
def daemon(make_module_daemon, tmp_path_factory):
    from dockerdaemon import CODES

    codes = tmp_path_factory.mktemp("codes")
    text = (CODES / "shell.toml").read_text()
    limits = "[modes.sequential.limits]\ndisk_bytes = 33554432\ndisk_reserve_bytes = 0\n"
    (codes / "shell.toml").write_text(text.replace("[modes.sequential.limits]\n", limits))
    return make_module_daemon(codes=codes, docker={"processes": 64}).start()


def test_a_main_process_that_takes_too_much_memory(daemon, user):
    status = daemon.done(user, "j", "exec python3 eats.py", files={"eats.py": EATS})
    assert status["state"] == "failed"
    assert status["cause"]["code"] == "out_of_memory", status
    assert "224" in status["cause"]["text"], "128 MiB, and 96 for the agent"
    assert daemon.done(user, "k", "echo fine")["state"] == "completed", "the agent lives on, or another has come"


def test_a_child_that_takes_too_much_memory_is_told_apart(daemon, user):
    status = daemon.done(user, "j", "python3 eats.py; echo the child gave $?; exit 0", files={"eats.py": EATS})
    assert status["state"] == "completed", status
    assert "the child gave 137" in daemon.said(user, "j")
    assert "memory" in str(status["timeline"][-2:]) or "memory" in status["cause"]["text"], status


def test_a_fork_bomb_meets_the_limit_of_its_own_container(daemon, user):
    bomb = "import os, time\nwhile True:\n try: os.fork()\n except OSError: time.sleep(0.2)"
    daemon.running(user, "j", "echo begun; exec python3 bomb.py", files={"bomb.py": bomb})
    container = daemon.container(user, "j")
    assert len(daemon.pids(container)) <= 64
    assert daemon.done("canary", "j", "true")["state"] == "completed"
    with daemon.client() as client:
        client.cancel(user, "j")
    daemon.until(user, "j", "canceled", 40)
    assert len(daemon.pids(container)) <= 3


def test_a_full_directory_ends_its_run_with_the_numbers(daemon, user):
    script = "i=0; while true; do head -c 4000000 /dev/zero > f$i; i=$((i+1)); sleep 0.1; done"
    status = daemon.done(user, "j", script)
    assert status["cause"]["code"] == "disk", status
    assert "32" in status["cause"]["text"], "the limit is told"


def test_wall_time(daemon, user):
    status = daemon.done(user, "j", "sleep 600", limits={"run_s": 1.0})
    assert status["cause"]["code"] == "run_timeout"


def test_shared_memory_is_empty_for_the_next_run(daemon, user):
    daemon.done(user, "a", "echo 1 > /dev/shm/left; ls /dev/shm")
    assert "left" in daemon.said(user, "a")
    daemon.done(user, "b", "ls /dev/shm | wc -l")
    assert daemon.said(user, "b").strip() == "0"
