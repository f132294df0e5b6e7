"""The same in containers of the test bed's engine, beside what the engine itself takes."""

import contextlib
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from dockerdaemon import DockerDaemon
from testbed import bed, client_of, engine_home

from .figures import Figure, quantile
from .runs import AGENT_IMPORTS, ROOMY, Talk, lag, quantile_of_lag, seconds_to_running, warm_up
from .site import site, write_codes

IMAGE = "jobd-shell:bed"
ZIPAPP = Path(__file__).parents[2] / "build" / "jobd-agent.pyz"
USERS = 40


@contextlib.contextmanager
def docker_site() -> Generator[DockerDaemon, None, None]:
    """A daemon on the bed's engine, with the intervals that it ships with."""
    for words in (("engine.sh", "install"), ("engine.sh", "up"), ("images.sh", "build")):
        bed(*words)
    client = client_of(f"unix://{engine_home() / 'docker.sock'}")
    with tempfile.TemporaryDirectory(prefix="jobd-bench-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        home = Path(directory)
        home.chmod(0o711)
        write_codes(home / "codes", f'[docker]\nimage = "{IMAGE}"\n')
        hosts = {"here": {"url": client.url, "cores": 1000, "memory_bytes": 1 << 40}}
        daemon = DockerDaemon(home, client, hosts, {"tiers": ROOMY["tiers"]}, home / "codes", shipped=True).start()
        try:
            yield daemon
        finally:
            daemon.end()
            client.close()


def in_containers(count: int) -> list[Figure]:
    """Cold and warm starts, cancels, stops of agents, an agent's memory, and many users at once."""
    with docker_site() as daemon:
        talk = Talk(daemon)
        colds = [1000 * seconds_to_running(talk, daemon, f"cold{number}/jobs/j", "noop") for number in range(count)]
        bares = [1000 * _bare(daemon) for _ in range(count)]
        warm_up(daemon, ["alice"])
        starts, cancels = [], []
        for number in range(4 * count):
            path = f"alice/jobs/j{number}"
            starts.append(1000 * seconds_to_running(talk, daemon, path, "sleep"))
            began = time.perf_counter()
            assert talk.ask("POST", f"{path}/cancel", {})["end_confirmed"]
            cancels.append(1000 * (time.perf_counter() - began))
        memory = [_memory_bytes(each) / 1e6 for each in daemon.containers()]
        stops = [1000 * _stop(daemon, agent["id"]) for agent in daemon.agents() if agent["linked"]]
        slowest = _crowd(daemon)
    with site(**ROOMY) as daemon:
        talk = Talk(daemon)
        warm_up(daemon, ["alice"])
        local = [
            1000 * seconds_to_running(talk, daemon, f"alice/jobs/j{number}", "noop") for number in range(4 * count)
        ]
    bare, near = statistics.median(bares), statistics.median(local)
    run = f"docker run of Python with the agent's imports: p50 {bare:.0f} ms"
    return [
        Figure("Docker, cold: PUT until running, over docker run", statistics.median(colds) / bare, "times", run, 1.6),
        Figure("Docker, warm: the same, over the local backend", statistics.median(starts) / near, "times",
               f"local: p50 {near:.1f} ms", 1.2),
        Figure("Docker, cancel until no process is left, p50", quantile(cancels, 0.5), "ms", run, 60),
        Figure("Docker, stop of an agent, p50", quantile(stops, 0.5), "ms", run, 400),
        Figure(f"Docker, {USERS} users start at once: loop lag p99", slowest, "ms", "all ran", 100),
        Figure("Docker, an agent's memory in its container, idle", statistics.median(memory), "MB", "", 40),
    ]  # fmt: skip


def _bare(daemon: DockerDaemon) -> float:
    command = ["docker", "-H", daemon.engine.url, "run", "--rm", "--network", "none", "--mount",
               f"type=bind,source={ZIPAPP},target=/a.pyz", IMAGE, "python3", "-c", AGENT_IMPORTS, "/a.pyz"]  # fmt: skip
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def _memory_bytes(container: Any) -> int:
    """As `docker stats` has it: without the pages of files that nobody uses now."""
    group = Path("/sys/fs/cgroup/memory/docker") / container.id
    inactive = int(re.search(r"total_inactive_file (\d+)", (group / "memory.stat").read_text())[1])  # type: ignore[index]
    return int((group / "memory.usage_in_bytes").read_text()) - inactive


def _stop(daemon: DockerDaemon, agent: str) -> float:
    began = time.perf_counter()
    daemon.operator(f"/v1/admin/agents/{agent}/stop", {})
    return time.perf_counter() - began


def _crowd(daemon: DockerDaemon) -> float:
    """All users' first runs at once; the loop's lag meanwhile, as its p99 in ms: the histogram's bound above it."""
    before = lag(daemon)
    with daemon.http() as http:
        for number in range(USERS):
            assert http.put(f"/v1/users/crowd{number}/jobs/j/run", json={"code": "noop"}).status_code == 202
    for number in range(USERS):
        assert daemon.until(f"crowd{number}", "j", "completed", 300)["state"] == "completed"
    return 1000 * quantile_of_lag(before, lag(daemon), 0.99)
