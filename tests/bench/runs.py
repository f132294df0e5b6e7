"""Runs: how fast they start and end, warm and cold, and how many a second go through the whole path."""

import http.client
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from realdaemon import BIN, Daemon

from .figures import Figure, quantile
from .site import site

ROOMY: dict[str, Any] = {
    "tiers": {"default": {"sequential": 100, "pending_max": 10_000}},
    "host": {"cores": 1000, "memory_bytes": 1 << 40},
}
AGENT_IMPORTS = "import sys; sys.path.insert(0, sys.argv[1]); import agents.agent, agents.analysis, agents.link"


class Talk:
    """One keep-alive connection of a gateway, without a client library's own costs."""

    def __init__(self, daemon: Daemon) -> None:
        self._http = http.client.HTTPConnection(daemon.url.removeprefix("http://"))
        self._token = {"Authorization": f"Bearer {daemon.token}"}

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """A request and its JSON; None for 304."""
        self._http.request(method, f"/v1/users/{path}", body and json.dumps(body), {**self._token, **headers})
        reply = self._http.getresponse()
        text = reply.read()
        assert reply.status in (200, 202, 304), text
        self.tag = reply.headers.get("etag", "")
        return json.loads(text) if text else None

    def events(self, path: str) -> Iterator[bytes]:
        """The lines of an event stream, from the first status on."""
        self._http.request("GET", f"/v1/users/{path}/events", headers=self._token)
        reply = self._http.getresponse()
        while not (line := reply.fp.readline()).startswith(b"data:"):
            assert line
        while line := reply.fp.readline():
            yield line


def seconds_to_running(talk: Talk, daemon: Daemon, path: str, code: str) -> float:
    """From a PUT until the pushed event says running."""
    lines = Talk(daemon).events(path)
    first = threading.Event()
    seen: list[float] = []

    def watch() -> None:
        first.set()
        for line in lines:
            if re.search(rb'"state":"running"', line):
                seen.append(time.perf_counter())
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    first.wait()
    time.sleep(0.01)
    began = time.perf_counter()
    talk.ask("PUT", f"{path}/run", {"code": code})
    watcher.join(20)
    return seen[0] - began


def warm(count: int) -> list[Figure]:
    """The start of a run and its cancel, with the agent there."""
    starts, cancels = [], []
    with site(**ROOMY) as daemon:
        talk = Talk(daemon)
        warm_up(daemon, ["alice"])
        for number in range(count):
            path = f"alice/jobs/j{number}"
            starts.append(1000 * seconds_to_running(talk, daemon, path, "sleep"))
            began = time.perf_counter()
            status = talk.ask("POST", f"{path}/cancel", {})
            cancels.append(1000 * (time.perf_counter() - began))
            assert status["end_confirmed"], status
            assert not daemon.processes("sleep"), "a process is left"
    bare = 1000 * statistics.median(_seconds(["true"]) for _ in range(50))
    beside = f"a bare subprocess: p50 {bare:.1f} ms"
    return [
        Figure("warm start: PUT until the event says running, p50", quantile(starts, 0.5), "ms", beside, 15),
        Figure("warm start, p99", quantile(starts, 0.99), "ms", beside, 60),
        Figure("cancel until no process is left, p50", quantile(cancels, 0.5), "ms", beside, 12),
        Figure("cancel, p99", quantile(cancels, 0.99), "ms", beside, 60),
    ]


def cold(count: int) -> list[Figure]:
    """The start of a run together with its agent."""
    zipapp = str(Path(__file__).parents[2] / "build" / "jobd-agent.pyz")
    starts, bares = [], []
    with site(**ROOMY) as daemon:
        talk = Talk(daemon)
        for number in range(count):
            bares.append(1000 * _seconds([sys.executable, "-c", AGENT_IMPORTS, zipapp]))
            starts.append(1000 * seconds_to_running(talk, daemon, f"user{number}/jobs/j", "noop"))
    bare = statistics.median(bares)
    beside = f"Python with the agent's imports: p50 {bare:.0f} ms; the floor is 1.5 times that and 100 ms"
    return [Figure("cold start: with the agent's, p50", quantile(starts, 0.5), "ms", beside, 1.5 * bare + 100)]


def throughput(each: int) -> list[Figure]:
    """No-op runs through the whole path, from 8 users with a warm agent each."""
    users = [f"user{number}" for number in range(8)]
    with site(**ROOMY) as daemon:
        warm_up(daemon, users)
        lag_before = lag(daemon)

        def live(user: str) -> None:
            talk = Talk(daemon)
            for number in range(each):
                talk.ask("PUT", f"{user}/jobs/j{number}/run", {"code": "noop"})
            for number in range(each):
                until_over(talk, f"{user}/jobs/j{number}")

        threads = [threading.Thread(target=live, args=(user,)) for user in users]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rate = len(users) * each / (time.perf_counter() - began)
        slowest = quantile_of_lag(lag_before, lag(daemon), 0.999)
    began = time.perf_counter()
    for _ in range(200):
        subprocess.run(["true"], check=True)
    bare = 200 / (time.perf_counter() - began)
    beside = f"bare subprocesses, one after the other: {bare:.0f} a second"
    return [
        Figure("no-op runs through the whole path, 8 warm agents", rate, "a second", beside, 150, lower=False),
        Figure("loop lag under this load, p99.9 (bucket)", 1000 * slowest, "ms", "an idle loop: 1 ms", 50),
    ]


def until_over(talk: Talk, path: str) -> None:
    """Long polls until the run is over and its end confirmed."""
    status = talk.ask("GET", path)
    while not status or not status.get("end_confirmed"):
        status = talk.ask("GET", path, **{"If-None-Match": talk.tag, "Prefer": "wait=30"}) or status
    assert status["state"] == "completed", status


def warm_up(daemon: Daemon, users: list[str]) -> None:
    """Have an agent of each user, and its fork server, warm."""
    talk = Talk(daemon)
    for user in users:
        talk.ask("PUT", f"{user}/jobs/first/run", {"code": "noop"})
    for user in users:
        until_over(talk, f"{user}/jobs/first")
    time.sleep(0.5)


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def lag(daemon: Daemon) -> dict[float, float]:
    """The daemon's own histogram of its loop's lag: counts by upper bound in seconds."""
    with daemon.http() as client:
        text = client.get("/metrics").text
    found = re.findall(r'jobd_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)', text)
    return {float(bound): float(count) for bound, count in found}


def quantile_of_lag(before: dict[float, float], after: dict[float, float], share: float) -> float:
    """The upper bound, in seconds, of the bucket with this quantile of what came between."""
    between = {bound: after[bound] - before[bound] for bound in after}
    return min(bound for bound, count in between.items() if count >= share * max(between.values()))


def _seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, env={"PATH": f"{BIN}:/usr/bin:/bin"})
    return time.perf_counter() - began
