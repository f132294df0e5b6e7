import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "real"))

from realdaemon import Daemon


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """A daemon for a module full of enemies; bob, who notices nothing, has a run under way."""
    home = Path(tempfile.mkdtemp(prefix="jobd-", dir="/tmp"))
    home.chmod(0o711)
    daemon = Daemon(home, {"http": {"read_s": 5.0, "stall_s": 3.0}, "agents": {"stall_s": 1.0}})
    try:
        daemon.start()
        for user in ("alice", "bob"):
            daemon.done(user, "warm", "echo frame > frames.txt; echo log")
        script = "while [ ! -e go ]; do sleep 0.05; done; echo undisturbed"
        with daemon.client() as client:
            client.run("bob", "bystander", code="long", inputs={"script.sh": {"text": script}})
        daemon.until("bob", "bystander", "running")
        yield daemon
        assert daemon.status("bob", "bystander")["known"]["state"] == "fresh"
        daemon.file("bob", "bystander", "go").touch()
        assert daemon.until("bob", "bystander", "completed")["log_tail"] == "undisturbed\n"
    finally:
        daemon.end()
        shutil.rmtree(home)


@pytest.fixture(autouse=True)
def nobody_else_notices(daemon: Daemon) -> Iterator[None]:
    """After each attack the daemon lives and has no fault to report, and bob's run goes on."""
    said = len(daemon.log())
    yield
    assert daemon.process.poll() is None, daemon.log()
    new = daemon.log()[said:]
    assert not re.search(r"(?m)^.{23} (ERROR|CRITICAL)|Traceback", new), new
    status = daemon.status("bob", "bystander")
    assert (status["state"], status["serial"]) == ("running", 1)
