"""Reads: status by polling beside a bare tornado, and one change pushed to many watchers."""

import re
import selectors
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from .figures import Figure
from .load import rate
from .runs import ROOMY, Talk, warm_up
from .site import site

WATCHERS = 500
CONNECTIONS = 16


def polling(seconds: float, rounds: int) -> list[Figure]:
    """Status reads with the service token, on 16 connections; as tornado's hello, turn by turn."""
    hello = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("tornado_hello.py"))], stdout=subprocess.PIPE, text=True
    )
    try:
        assert hello.stdout is not None, "it is a pipe"
        bare_url = f"http://127.0.0.1:{hello.stdout.readline().strip()}"
        with site() as daemon:
            warm_up(daemon, ["alice"])
            talk = Talk(daemon)
            talk.ask("GET", "alice/jobs/first")
            path, token = "/v1/users/alice/jobs/first", {"Authorization": f"Bearer {daemon.token}"}
            bare, whole, same = [], [], []
            for _ in range(rounds):
                bare.append(rate(bare_url, "/", CONNECTIONS, seconds))
                whole.append(rate(daemon.url, path, CONNECTIONS, seconds, **token))
                same.append(rate(daemon.url, path, CONNECTIONS, seconds, **token, **{"If-None-Match": talk.tag}))
    finally:
        hello.kill()
        hello.wait()
    middle = statistics.median
    beside = f"tornado's hello: {middle(bare):.0f} a second"
    ratios = [statistics.median(a / b for a, b in zip(each, bare, strict=True)) for each in (whole, same)]
    return [
        Figure(
            f"status reads, whole ({middle(whole):.0f} a second)", ratios[0], "of tornado", beside, 0.6, lower=False
        ),
        Figure(f"status reads, 304 ({middle(same):.0f} a second)", ratios[1], "of tornado", beside, 0.6, lower=False),
    ]


def watching(rounds: int) -> list[Figure]:
    """From a request that changes a job until the last of 500 watchers has been told; one watcher beside it."""
    tables = {**ROOMY, "requests": {"watchers_per_job_max": WATCHERS, "per_user_max": 2 * WATCHERS}}
    with site(**tables) as daemon:
        warm_up(daemon, ["alice"])
        few = statistics.median(_told(daemon, "few", 1) for _ in range(rounds))
        many = statistics.median(_told(daemon, "many", WATCHERS) for _ in range(rounds))
    beside = f"one watcher: {1000 * few:.0f} ms"
    return [Figure(f"one change to {WATCHERS} event watchers, until the last is told", 1000 * many, "ms", beside, 150)]


def _told(daemon: object, job: str, watchers: int) -> float:
    talk = Talk(daemon)  # type: ignore[arg-type]
    address = urlsplit(daemon.url)  # type: ignore[attr-defined]
    talk.ask("PUT", f"alice/jobs/{job}/run", {"code": "sleep", "force": True})
    while talk.ask("GET", f"alice/jobs/{job}")["state"] != "running":
        time.sleep(0.02)
    request = (
        f"GET /v1/users/alice/jobs/{job}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {daemon.token}\r\n\r\n"  # type: ignore[attr-defined]
    ).encode()
    with selectors.DefaultSelector() as ready:
        for _ in range(watchers):
            sock = socket.create_connection((address.hostname, address.port))
            sock.sendall(request)
            ready.register(sock, selectors.EVENT_READ, bytearray())
        _read_until(ready, re.compile(rb"event: status.*\n\n", re.DOTALL))
        time.sleep(0.3)
        began = time.perf_counter()
        canceling = threading.Thread(target=talk.ask, args=("POST", f"alice/jobs/{job}/cancel", {}))
        canceling.start()
        ended = _read_until(ready, re.compile(rb'"name":"canceled"'))
        canceling.join()
        for key in list(ready.get_map().values()):
            key.data.clear()
            ready.unregister(key.fileobj)
            key.fileobj.close()  # type: ignore[union-attr]
    return ended - began


def _read_until(ready: selectors.BaseSelector, what: "re.Pattern[bytes]") -> float:
    """Read all until each has got this; when the last did."""
    missing = {key.fd for key in ready.get_map().values()}
    deadline = time.perf_counter() + 30
    while missing:
        assert time.perf_counter() < deadline, f"{len(missing)} watchers were not told"
        for key, _ in ready.select(1.0):
            key.data.extend(key.fileobj.recv(65536))  # type: ignore[union-attr]
            if key.fd in missing and what.search(key.data):
                missing.discard(key.fd)
                key.data.clear()
    return time.perf_counter()
