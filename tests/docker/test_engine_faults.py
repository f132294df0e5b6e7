"""An engine that hangs, or is killed and started again, under runs; it is one of the test's own."""

import os
import signal
import tempfile
import time
from pathlib import Path

import pytest
from realdaemon import wait_until
from testbed import bed, client_of

pytestmark = pytest.mark.docker

QUICK = {"call_s": 1.0, "ping_s": 0.2}


class OwnEngine:
    """The bed's scripts with a home of their own."""

    def __init__(self, home, *options):
        self.home = Path(home)
        self.options = options
        self.url = f"unix://{self.home}/docker.sock"

    def up(self):
        bed("engine.sh", "up", *self.options, home=self.home)

    def down(self):
        bed("engine.sh", "down", home=self.home)

    def signal(self, number):
        os.kill(int((self.home / "pid").read_text()), number)

    def kill(self):
        """SIGKILL; its containers' own parents go on."""
        self.signal(signal.SIGKILL)


@pytest.fixture
def own(engine, request):
    with tempfile.TemporaryDirectory(prefix="jobd-", dir="/var/tmp", ignore_cleanup_errors=True) as home:
        own = OwnEngine(home, *getattr(request, "param", ()))
        own.up()
        bed("images.sh", "load", f"{home}/docker.sock", "shell", home=own.home)
        own.client = client_of(own.url)
        try:
            yield own
        finally:
            own.up()
            own.down()
            own.client.close()


@pytest.fixture
def daemon(own, make_daemon):
    daemon = make_daemon(host={"url": own.url}, docker=QUICK)
    daemon.engine = own.client
    return daemon.start()


def test_an_engine_that_hangs_stalls_nobody_and_ends_nothing(daemon, own, user):
    daemon.running(user, "j", "echo begun; while ! test -e go; do sleep 0.1; done; echo done > f")
    own.signal(signal.SIGSTOP)
    try:
        daemon.run("other", "k", "true")
        slowest = 0.0
        with daemon.http() as http:
            for _ in range(60):
                began = time.monotonic()
                assert http.get(f"/v1/users/{user}/jobs/j").json()["known"]["state"] == "fresh"
                slowest = max(slowest, time.monotonic() - began)
                time.sleep(0.1)
        assert slowest < 2.0, "one call to the engine takes 1 s to fail"
        assert daemon.status("other", "k")["state"] == "pending"
    finally:
        own.signal(signal.SIGCONT)
    daemon.file(user, "j", "go").touch()
    assert daemon.until(user, "j", "completed")["state"] == "completed"
    assert daemon.until("other", "k", "completed", 60)["state"] == "completed"


def test_without_live_restore_runs_end_with_their_engine_and_the_cause_is_the_host(daemon, own, user):
    daemon.running(user, "j")
    own.kill()
    own.up()
    status = daemon.until(user, "j", "failed", 60)
    assert status["cause"]["code"] == "host", status
    wait_until(lambda: daemon.done(user, "k", "true")["state"] == "completed", deadline_s=60)


@pytest.mark.parametrize("own", [("--live-restore",)], indirect=True)
def test_with_live_restore_runs_go_on_while_their_engine_is_dead(daemon, own, user):
    container = daemon.running(user, "j", "echo begun; while ! test -e go; do sleep 0.1; done; echo done > f")
    own.kill()
    wait_until(lambda: [host for host in hosts(daemon) if host["state"] == "down"], "the host is set aside")
    assert daemon.status(user, "j")["state"] == "running"
    own.up()
    wait_until(lambda: [host for host in hosts(daemon) if host["state"] == "up"], "the host is back")
    daemon.file(user, "j", "go").touch()
    status = daemon.until(user, "j", "completed")
    assert [stage["name"] for stage in status["timeline"]].count("started") == 1
    container.reload()
    assert container.status == "running", "it stays warm"


def test_jobd_that_is_killed_while_its_engine_is_dead_finds_its_run_again(daemon, own, user):
    daemon.running(user, "j", "echo begun; while ! test -e go; do sleep 0.1; done; echo done > f")
    own.signal(signal.SIGSTOP)
    daemon.sigkill_and_restart()
    time.sleep(3)
    assert daemon.status(user, "j")["state"] == "running"
    own.signal(signal.SIGCONT)
    daemon.file(user, "j", "go").touch()
    assert daemon.until(user, "j", "completed", 60)["end_confirmed"]


def hosts(daemon):
    return daemon.operator("/v1/admin/hosts")["hosts"]
