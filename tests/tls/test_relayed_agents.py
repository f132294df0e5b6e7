"""An agent that reaches jobd only through a relay and TLS is an agent like any other."""

import hashlib
import os
import signal
from collections.abc import Callable

import pytest
from realdaemon import wait_until
from remotesite import RemoteSite

INPUT_BYTES = 5 << 20
OUTPUT_BYTES = 8 << 20
SCRIPT = "sha256sum < big; head -c {} /dev/urandom > out; sha256sum < out; while [ -e stay ]; do sleep 0.05; done"
WAITS = "while [ ! -e go ]; do sleep 0.05; done; echo done"


@pytest.fixture
def site(make_site: Callable[..., RemoteSite]) -> RemoteSite:
    return make_site()


def test_inputs_and_answers_arrive_whole(site: RemoteSite) -> None:
    daemon = site.start().daemon
    content = os.urandom(INPUT_BYTES)
    site.put("alice", "big", content)
    daemon.run("alice", "j", SCRIPT.format(OUTPUT_BYTES))
    with daemon.client() as client:
        files = {"script.sh": {"text": SCRIPT.format(OUTPUT_BYTES)}, "big": {"library": "big"}}
        client.run("alice", "k", code="shell", inputs=files)
        told = daemon.until("alice", "k", "completed")["log_tail"].split()
        assert told[0] == hashlib.sha256(content).hexdigest()
        out = client.file("alice", "k", "out")
        assert len(out) == OUTPUT_BYTES
        assert told[2] == hashlib.sha256(out).hexdigest()
        assert client.file("alice", "k", "big") == content
    daemon.until("alice", "j", "completed")


def test_two_agents_share_the_doors(site: RemoteSite) -> None:
    daemon = site.start().daemon
    for user in ("alice", "bob"):
        assert daemon.done(user, "j", f"echo {user}")["log_tail"] == f"{user}\n"
    assert daemon.agent("alice").pid != daemon.agent("bob").pid
    assert not list((daemon.state / "agents").glob("*/*.sock"))


def test_a_run_goes_on_while_relay_and_jobd_are_killed(site: RemoteSite) -> None:
    daemon = site.start().daemon
    daemon.run("alice", "j", WAITS)
    daemon.until("alice", "j", "running")
    agent = daemon.agent("alice")
    site.relay.end(signal.SIGKILL)
    wait_until(lambda: daemon.status("alice", "j")["known"]["state"] != "fresh", "the link is lost")
    site.relay.start()  # over the sockets that the killed one has left
    daemon.until("alice", "j", lambda now: now["known"]["state"] == "fresh")
    daemon.sigkill_and_restart()
    daemon.until("alice", "j", lambda now: now["state"] == "running" and now["known"]["state"] == "fresh")
    daemon.file("alice", "j", "go").touch()
    assert daemon.until("alice", "j", "completed")["log_tail"] == "done\n"
    assert daemon.agent("alice").pid == agent.pid
    assert site.relay.log().count("relaying from") == 2
