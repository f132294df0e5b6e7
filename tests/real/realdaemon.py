"""A real jobd process in a directory of its own, and what a test does with it: start, kill, ask, look at processes."""

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
from plainclient import Client, UnreachableError

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
OVER = ("completed", "failed", "canceled")
DEADLINE_S = 20.0  # of every wait that does not say another; far above what is needed, also on a busy machine

SMALL: dict[str, dict[str, Any]] = {
    "tiers": {"default": {"sequential": 6, "parallel": 2, "pending_max": 30}},
    "host": {"cores": 8, "memory_bytes": 16 << 30},
    "local": {"allow_root": True},
    "http": {"port": 0, "stop_grace_s": 1.0, "body_bytes_max": 5 << 20},
    "agents": {
        "call_home_s": 15.0, "backoff_s": 0.1, "backoff_s_max": 0.5, "heartbeat_s": 0.5, "silence_s": 6.0,
        "away_s": 10.0, "idle_s": 60.0, "stop_s": 2.0, "poll_s": 0.1, "lonely_s": 5.0, "unauthenticated_s": 1.0,
        "stall_s": 10.0, "connections_max": 20,
    },
    "requests": {
        "deadline_s": 10.0, "analysis_s": 20.0, "event_interval_s": 0.02, "event_beat_s": 1.0, "settle_s": 5.0,
    },
}  # fmt: skip


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """A directory that other uids may pass through, with a path that leaves room for unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="jobd-", dir="/tmp"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


def wait_until(condition: Callable[[], Any], what: str = "", deadline_s: float = DEADLINE_S) -> Any:
    """What the condition returns once it is true; fails at the deadline."""
    until = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < until, f"did not happen in {deadline_s:g} s: {what or condition}"
        time.sleep(0.02)
    return value


class Daemon:
    """A jobd of our own below `home`. `tables` are the TOML tables that differ from SMALL, or, if it is `shipped`, from
    what jobd ships with; `plain` are top-level keys."""

    def __init__(
        self,
        home: Path,
        tables: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        shipped: bool = False,
        **plain: Any,
    ) -> None:
        self.home = home
        self.state = home / "s"
        self.log_path = home / "jobd.log"
        usual = {"local": SMALL["local"], "http": {"port": 0}} if shipped else SMALL
        merged = {name: {**usual.get(name, {}), **(tables or {}).get(name, {})} for name in {*usual, *(tables or {})}}
        top = {"state": str(self.state), "codes": str(HERE / "codes"), **plain}
        lines = [f"{key} = {json.dumps(value)}" for key, value in top.items()]
        for name, table in merged.items():
            lines.append(f"[{name}]")
            lines += [f"{key} = {_toml(value)}" for key, value in table.items()]
        (home / "jobd.toml").write_text("\n".join(lines) + "\n")
        self.command: list[str | Path] = [BIN / "jobd", "--config"]
        self.process: subprocess.Popen[bytes] | None = None

    # --- its life

    def launch(self) -> "subprocess.Popen[bytes]":
        """Start a process on this configuration, and wait for nothing."""
        with self.log_path.open("ab") as log:
            return subprocess.Popen([*self.command, self.home / "jobd.toml"], stdout=log, stderr=log)

    def start(self) -> "Daemon":
        """Start it, and wait until it serves."""
        (self.state / "address").unlink(missing_ok=True)
        self.process = self.launch()
        wait_until(lambda: self.process.poll() is not None or (self.state / "address").exists(), "jobd serves")
        assert self.process.poll() is None, self.log()
        return self

    def sigkill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def sigterm(self) -> float:
        """Ask it to stop; returns how long that took, in seconds. Its exit code must be 0."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(DEADLINE_S) == 0, self.log()
        return time.monotonic() - began

    def sigkill_and_restart(self) -> None:
        self.sigkill()
        self.start()

    def end(self) -> None:
        """Stop it, and its agents (which would end by themselves after lonely_s). Whatever is left is a failure."""
        if self.process is not None and self.process.poll() is None:
            self.sigterm()
        for pid in self.processes(str(self.state / "agents")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        try:
            wait_until(lambda: not self.processes(), "no process is left")
        finally:
            left = self.processes()
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        # What jobd logs itself begins with a time; an agent's words are quoted behind it.
        assert not re.search(r"(?m)^.{23} ERROR|^AssertionError", log := self.log()), log

    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    # --- talking to it

    @property
    def url(self) -> str:
        return (self.state / "address").read_text().strip()

    @property
    def token(self) -> str:
        return (self.state / "service-token").read_text().strip()

    def client(self) -> Client:
        """What a gateway's web server has."""
        return Client(self.url, token=self.token, patience_s=DEADLINE_S)

    def admin(self) -> Client:
        """What an operator has."""
        return Client(socket=self.state / "admin.sock", patience_s=5.0)

    def http(self, **headers: str) -> httpx.Client:
        """Plain HTTP with the service token."""
        everything = {"authorization": f"Bearer {self.token}", **headers}
        return httpx.Client(base_url=self.url, headers=everything, timeout=DEADLINE_S, trust_env=False)

    def tree(self, kind: str = "") -> list[str]:
        """The scope tree as an operator sees it, or its nodes of one kind, by name."""
        with self.admin() as admin:
            return [node["name"] for node in admin.tree() if kind in ("", node["kind"])]

    def run(self, user: str, job: str, script: str, **request: Any) -> dict[str, Any]:
        """Run a shell script; further input files are `files`, texts by name."""
        files = {"script.sh": {"text": script}} | {
            name: {"text": text} for name, text in request.pop("files", {}).items()
        }
        with self.client() as client:
            return client.run(user, job, code="shell", inputs=files, **request)

    def status(self, user: str, job: str) -> dict[str, Any]:
        with self.client() as client:
            return client.status(user, job)

    def until(
        self, user: str, job: str, state: str | Callable[[dict[str, Any]], Any], deadline_s: float = DEADLINE_S
    ) -> dict[str, Any]:
        """The job's status once it is in this state (its end confirmed), or fulfils this condition."""
        with self.client() as client:
            last: dict[str, Any] = {}

            def reached() -> dict[str, Any] | None:
                nonlocal last
                last = client.status(user, job)
                if callable(state):
                    return last if state(last) else None
                over = last["state"] in OVER
                assert not over or last["state"] == state or not last.get("end_confirmed"), last
                return last if last["state"] == state and (not over or last.get("end_confirmed")) else None

            try:
                return wait_until(reached, f"{user}/{job} is {state}", deadline_s)
            except (AssertionError, UnreachableError) as error:
                raise AssertionError(f"{error}; the last status: {last}\n{self.log()[-2000:]}") from None

    def done(self, user: str, job: str, script: str, **request: Any) -> dict[str, Any]:
        """Run a script to its end; returns the last status."""
        serial = self.run(user, job, script, **request)["serial"]
        return self.until(user, job, lambda now: now["serial"] == serial and now.get("end_confirmed"))

    # --- what is there of it on the machine

    def file(self, user: str, job: str, path: str, serial: int | None = None) -> Path:
        """A file of a run directory, found by what the store says."""
        record = self._record("SELECT record FROM jobs WHERE name = ? AND user = ?", job, self._user(user))
        return self.state / "runs" / record["user"] / record["id"] / str(serial or record["serial"]) / path

    def agent(self, user: str) -> "AgentSeen":
        """The user's agent, as the store knows it."""
        return AgentSeen(self, self._record("SELECT record FROM agents WHERE record LIKE ?", f'%"{self._user(user)}"%'))

    def processes(self, *markers: str) -> dict[int, str]:
        """By pid, the command line of every process that names our directory in its command line, environment (HOME
        of each process of a run does) or working directory; with markers, only those that name all of these too."""
        return processes_that_name(str(self.home), *markers)

    def _user(self, name: str) -> str:
        return self._record("SELECT record FROM users WHERE record LIKE ?", f'%"name":"{name}"%')["id"]

    def _record(self, query: str, *parameters: str) -> dict[str, Any]:
        with contextlib.closing(sqlite3.connect(f"file:{self.state}/jobd.sqlite?mode=ro", uri=True)) as store:
            row = store.execute(query, parameters).fetchone()
        assert row is not None, f"the store has nothing for {parameters}"
        return json.loads(row[0])


class AgentSeen:
    """An agent of a Daemon, from outside."""

    def __init__(self, daemon: Daemon, record: Mapping[str, Any]) -> None:
        self.id: str = record["id"]
        self.generation: int = record["generation"]
        self.pid = int(record["handle"].split(".")[0]) if record.get("handle") else 0  # 0: not started yet
        self.fact: int = record.get("fact", 0)
        self.directory = daemon.state / "agents" / self.id

    @property
    def token(self) -> str:
        return (self.directory / "token").read_text()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)


def processes_that_name(*markers: str) -> dict[int, str]:
    """The command lines of processes that name all markers in command line, environment or working directory."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            words = (
                command + (entry / "environ").read_bytes().decode(errors="replace") + str((entry / "cwd").readlink())
            )
        except OSError:
            continue
        if command and all(marker in words for marker in markers):  # a zombie has no command line
            found[int(entry.name)] = command
    return found


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + "}"
    return json.dumps(value)
