"""Crowds: many queued runs, many finished jobs, many idle agents. The daemon is real, its agents are hollow."""

import os
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from realdaemon import Daemon, wait_until

from .figures import Figure
from .runs import Talk, rss_bytes, until_over, warm_up
from .site import site

USERS = 50
OPEN_MAX = 100


@contextmanager
def hollow(**tables: dict[str, Any]) -> Generator[Daemon, None, None]:
    """A daemon with hollow agents."""
    with site(command=[sys.executable, "-m", "tests.bench.hollow_daemon"], **tables) as daemon:
        agents = subprocess.Popen([sys.executable, "-m", "tests.bench.hollow_agents", str(daemon.state)])
        try:
            yield daemon
        finally:
            agents.kill()
            agents.wait()


def grants(many: int, few: int) -> list[Figure]:
    """The daemon's CPU time for one run, from grant to end, while so many wait; one runs at a time."""
    costs = {waiting: min(_cost_of_a_grant(waiting) for _ in range(3)) for waiting in (few, many)}
    beside = f"{few} queued: {costs[few]:.2f} ms of CPU; {many} queued: {costs[many]:.2f} ms"
    return [
        Figure(f"one grant with {many} runs of {USERS} users queued", costs[many] / costs[few], "times", beside, 1.3)
    ]


def _cost_of_a_grant(waiting: int) -> float:
    """In milliseconds, over the first runs that end."""
    sample = min(waiting, 500)
    tables: dict[str, dict[str, Any]] = {
        "tiers": {"default": {"sequential": 1, "pending_max": waiting}},
        "host": {"cores": 1, "memory_bytes": 64 << 20},
    }
    with hollow(**tables) as daemon:
        talk = Talk(daemon)
        for number in range(USERS):
            talk.ask("POST", f"user{number}/session", {})
        wait_until(lambda: _linked(daemon) == USERS, "all agents are linked", 60)
        # One run that nobody ends holds the only slot while the others queue up.
        (daemon.state / "hold").touch()
        for number in range(waiting):
            talk.ask("PUT", f"user{number % USERS}/jobs/j{number}/run", {"code": "noop"})
        before = _cpu_s(daemon.process.pid), _ended(daemon)
        (daemon.state / "hold").unlink()
        while _ended(daemon) < before[1] + sample:
            time.sleep(0.25)  # to ask how many have ended costs the daemon something, too
        after = _cpu_s(daemon.process.pid), _ended(daemon)
    return 1000 * (after[0] - before[0]) / (after[1] - before[1])


def finished(count: int) -> list[Figure]:
    """What a finished run of a known job leaves in the daemon's memory."""
    tables: dict[str, dict[str, Any]] = {
        "tiers": {"default": {"sequential": 100, "pending_max": 10_000}},
        "host": {"cores": 1000, "memory_bytes": 1 << 40},
    }
    with hollow(**tables) as daemon:
        first = rss_bytes(daemon.process.pid)
        _run_many(daemon, range(1000))  # what any load needs: caches, threads, an allocator's reserves
        before = rss_bytes(daemon.process.pid)
        _run_many(daemon, range(1000, 1000 + count))
        grown = rss_bytes(daemon.process.pid) - before
    beside = f"the daemon: {before >> 20} MB before, with 1000 jobs"
    return [
        Figure("memory of the daemon, idle", first / (1 << 20), "MB", "a bare Python: 10 MB", 80),
        Figure(f"memory per finished known job ({count} jobs)", grown / count / 1024, "KB", beside, 1),
    ]


def _run_many(daemon: Daemon, numbers: range) -> None:
    """A few at a time: what many open runs take is not what finished ones leave."""
    talk, before = Talk(daemon), _ended(daemon)
    for number in numbers:
        talk.ask("PUT", f"user{number % USERS}/jobs/j{number}/run", {"code": "noop"})
        if number % OPEN_MAX == 0:
            until_over(talk, f"user{number % USERS}/jobs/j{number}")
    wait_until(lambda: _ended(daemon) == before + len(numbers), "all have run", 300)


def connections(count: int) -> list[Figure]:
    """What an idle agent's connection takes in the daemon."""
    with hollow(agents={"agents_max": count + 10, "idle_s": 3600.0}) as daemon:
        talk = Talk(daemon)
        for number in range(50):
            talk.ask("POST", f"first{number}/session", {})
        wait_until(lambda: _linked(daemon) == 50, "the first are linked", 60)
        before = rss_bytes(daemon.process.pid)
        for number in range(count):
            talk.ask("POST", f"user{number}/session", {})
        wait_until(lambda: _linked(daemon) == count + 50, "all are linked", 300)
        grown = rss_bytes(daemon.process.pid) - before
    beside = f"a user and agent of each are in it; before: {before >> 20} MB"
    return [Figure(f"memory per idle agent connection ({count} agents)", grown / count / 1024, "KB", beside, 60)]


def agent_process() -> list[Figure]:
    """What a real idle agent takes."""
    with site() as daemon:
        warm_up(daemon, ["alice"])
        size = rss_bytes(daemon.agent("alice").pid)
    imports = "import trio, trio_websocket, attrs"
    code = f"{imports}; print(next(line.split()[1] for line in open('/proc/self/status') if line[:6] == 'VmRSS:'))"
    bare = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)
    beside = f"a Python that has imported Trio and trio-websocket: {bare >> 10} MB"
    return [Figure("one agent process, idle", size / (1 << 20), "MB", beside, 40)]


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _ended(daemon: Daemon) -> int:
    return int(sum(_metric(daemon, "jobd_ended_runs_total")))


def _linked(daemon: Daemon) -> int:
    return int(sum(_metric(daemon, 'jobd_agents{linked="yes"}')))


def _metric(daemon: Daemon, name: str) -> list[float]:
    with daemon.http() as client:
        lines = client.get("/metrics").text.splitlines()
    return [float(line.split()[-1]) for line in lines if line.startswith(name)]
