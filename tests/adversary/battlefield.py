"""A daemon with a victim whose secrets are planted, and an attacker who knows every path and name."""

import json
import secrets
from pathlib import Path
from typing import Any

from dockerdaemon import CODES, DockerDaemon

# In front of every attack: `known` is what the attacker knows, `got(...)` tells what it got hold of.
PREAMBLE = """
import contextlib, ctypes, json, os, signal, socket, stat, sys, time
known = json.loads(os.environ["KNOWN"])
libc = ctypes.CDLL(None, use_errno=True)
def got(what):
    print("BREACH", str(what)[:2000], flush=True)
def tried(call, *arguments):
    try:
        got(call(*arguments))
    except OSError as error:
        print("refused:", error, flush=True)
def called(name, *arguments):
    if libc[name](*arguments) >= 0:
        got(name)
    else:
        print("refused:", name, os.strerror(ctypes.get_errno()), flush=True)
def read(path):
    with open(path, "rb") as file:
        return file.read(1000)
def reach(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as end:
        end.settimeout(2)
        end.connect(address)
        return "connected to %s" % (address,)
"""


class Battlefield:
    """What both sides have."""

    def __init__(self, daemon: DockerDaemon) -> None:
        self.daemon = daemon.start()
        self.secret = f"secret-{secrets.token_hex(8)}"
        container = daemon.running("victim", "v", f"echo {self.secret} > f; echo begun; sleep 3000")
        self.file = daemon.file("victim", "v", "f")
        agents = {agent["user"]: agent["id"] for agent in daemon.agents() if "/run." in agent["place"]}
        self.known = {
            "file": str(self.file),
            "user": self.file.parents[2].name,
            "job": self.file.parents[1].name,
            "doors": str(daemon.state / "agents" / agents["victim"]),
            "state": str(daemon.state),
            "engine": daemon.engine.url.removeprefix("unix://"),
            "port": int(daemon.url.rpartition(":")[2]),
            "pid": container.attrs["State"]["Pid"],
        }

    def attack(self, job: str, code: str, **request: Any) -> str:
        """Let the attacker run Python in its container to its end; returns what it said."""
        self.daemon.done("mallory", job, self.script(), files={"attack.py": PREAMBLE + code}, **request)
        return self.daemon.said("mallory", job)

    def script(self) -> str:
        return f"KNOWN='{json.dumps(self.known)}' exec python3 attack.py"

    def assert_unharmed(self) -> None:
        """The victim's run goes on with its file, and others can work."""
        assert self.file.read_text().strip() == self.secret
        assert self.daemon.status("victim", "v")["state"] == "running"
        assert self.daemon.done("canary", "c", "true", force=True)["state"] == "completed"


def codes_with(directory: Path, limits: str) -> Path:
    """The test's code, with time for a whole battle and with these limits."""
    text = (CODES / "shell.toml").read_text().replace("run_s = 60.0", "run_s = 3000.0")
    table = "[modes.sequential.limits]\n"
    (directory / "shell.toml").write_text(text.replace(table, table + limits))
    return directory
