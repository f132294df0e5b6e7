"""Floods: whatever an attacker uses up is its own; what it leaves behind is swept, and others work on."""

import os
import statistics
import time

import pytest
from battlefield import PREAMBLE, Battlefield
from realdaemon import wait_until

pytestmark = pytest.mark.docker

LIMITS = "disk_bytes = 33554432\ndisk_files = 2000\ndisk_reserve_bytes = 0\n"
FLOODS = {
    "forks": "while True:\n try: os.fork()\n except OSError: time.sleep(0.1)",
    "memory": "b = []\nwhile True: b.append(bytearray(8 << 20))",
    "disk": "while True:\n with open('f', 'ab') as f: f.write(bytes(1 << 20))\n time.sleep(0.01)",
    "inodes": "n = 0\nwhile True:\n open('f%d' % n, 'w').close(); n += 1\n time.sleep(0.001)",
    "log": "while True: print('x' * 4000)",
    "watches": "fds = []\nwhile True:\n fd = libc.inotify_init()\n if fd < 0: time.sleep(0.1)\n else: fds.append(fd)",
    "pipes": "fds = []\nwhile True:\n try: fds.append(os.pipe())\n except OSError: time.sleep(0.1)",
    "tmp": "with contextlib.suppress(OSError):\n f = open('/tmp/f', 'wb')\n while True: f.write(bytes(1 << 20))\n"
    "while True: time.sleep(1)",
    "shared memory": "with contextlib.suppress(OSError):\n f = open('/dev/shm/f', 'wb')\n"
    " while True: f.write(bytes(1 << 20))\nwhile True: time.sleep(1)",
    "escaped children": "for _ in range(20):\n if os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n"
    "   signal.signal(signal.SIGTERM, signal.SIG_IGN)\n   os.environ.clear()\n   while True: time.sleep(1)\n"
    "  os._exit(0)\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1)",
}


@pytest.fixture(scope="module")
def field(make_field) -> Battlefield:
    return make_field(LIMITS)


@pytest.mark.parametrize("flood", FLOODS)
def test_it_hurts_nobody_and_nothing_of_it_is_left(field: Battlefield, flood: str) -> None:
    daemon, job = field.daemon, flood.replace(" ", "-")
    code = f"{PREAMBLE}\nprint('begun', flush=True)\n{FLOODS[flood]}"
    daemon.run("mallory", job, field.script(), files={"attack.py": code})
    daemon.until("mallory", job, lambda now: now["state"] != "pending", 60)
    time.sleep(1)
    field.assert_unharmed()
    with daemon.client() as client:
        client.cancel("mallory", job)
    status = daemon.until("mallory", job, lambda now: now["state"] != "running" and now["end_confirmed"], 60)
    assert status["state"] in ("canceled", "failed")
    left = [pid for each in daemon.containers() for pid in daemon.pids(each) if b"attack.py" in cmdline(pid)]
    assert not left
    assert daemon.done("mallory", "after", "echo fine", force=True)["state"] == "completed", "its own next run works"


def cmdline(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def warm_p50_ms(field: Battlefield, runs: int) -> float:
    """From the request to the end of the canary's warm runs."""
    took = []
    for _ in range(runs):
        began = time.monotonic()
        field.daemon.run("canary", "w", "true", force=True)
        field.daemon.until("canary", "w", "completed")
        took.append(1000 * (time.monotonic() - began))
    return statistics.median(took)


@pytest.mark.timeout(1800)
@pytest.mark.skipif("JOBD_SOAK" not in os.environ, reason="it measures; `make soak` runs it")
def test_a_canarys_warm_runs_are_not_slowed_down(field: Battlefield) -> None:
    warm_p50_ms(field, 20)
    normal = warm_p50_ms(field, 300)
    code = f"{PREAMBLE}\n{FLOODS['forks']}"
    field.daemon.running("mallory", "storm", f"echo begun; {field.script()}", files={"attack.py": code})
    storm = warm_p50_ms(field, 300)
    print(f"canary: p50 {normal:.1f} ms, in the storm {storm:.1f} ms")
    with field.daemon.client() as client:
        client.cancel("mallory", "storm")
    wait_until(lambda: field.daemon.status("mallory", "storm")["end_confirmed"], deadline_s=30)
    assert storm <= 2 * normal
