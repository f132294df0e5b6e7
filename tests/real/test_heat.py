"""heat, for real: C on both sides of the run, HDF5 that is read while it is written."""

import io
import json
import os

from PIL import Image
from realdaemon import Daemon

SLOW = {"nx": 513, "ny": 513, "diffusivity": 1, "steps": 1_000_000, "every": 100}  # minutes


def ask(heat: dict, **request) -> dict:
    return {"code": "heat", "inputs": {"heat.json": {"text": json.dumps(heat)}}, **request}


def frames(status: dict) -> int:
    return status.get("progress", {}).get("frames", {}).get("plate", 0)


def heats(daemon: Daemon) -> list[int]:
    return [pid for pid, line in daemon.processes().items() if "heat.json" in line]


def test_a_run_is_watched_while_it_flows_and_completes(daemon: Daemon, job: str):
    heat = {"nx": 257, "ny": 257, "diffusivity": 1, "steps": 40_000, "every": 200}
    with daemon.client() as client:
        client.run("alice", job, **ask(heat))
        seen, pictures = [2], []
        for _ in range(2):
            status = daemon.until("alice", job, lambda now: frames(now) > seen[-1])
            assert status["state"] == "running", "it was too fast to be watched"
            seen.append(frames(status))
            for index in (0, seen[-1] - 1):
                picture = Image.open(io.BytesIO(client.frame("alice", job, "plate", index, format="png", width=200)))
                assert picture.size == (200, 200)
                pictures.append(picture.convert("RGB").tobytes())
        assert pictures[0] == pictures[2]
        assert len(set(pictures)) == 3
        plate = json.loads(client.frame("alice", job, "plate", "latest"))
        assert plate["step"] == 200 * plate["index"]
        status = daemon.until("alice", job, "completed")
        assert (status["progress"]["fraction"], frames(status)) == (1.0, 201)
        columns = json.loads(client.frame("alice", job, "history", "latest"))["columns"]
        assert columns["step"] == list(range(0, 40_001, 200))
        assert columns["highest"] == sorted(columns["highest"], reverse=True)
        assert client.file("alice", job, "heat.h5").startswith(b"\x89HDF\r\n\x1a\n")


def test_two_cores_are_two_threads_and_the_same_numbers(daemon: Daemon, job: str):
    heat = {"nx": 129, "ny": 65, "diffusivity": 1, "steps": 500, "every": 500}
    rows = []
    with daemon.client() as client:
        for request in ({}, {"mode": "parallel", "resources": {"cores": 2}}):
            serial = client.run("alice", job, **ask(heat, **request))["serial"]
            daemon.until("alice", job, lambda now, serial=serial: now["serial"] == serial and now.get("end_confirmed"))
            assert f"{1 + len(rows)} threads" in daemon.status("alice", job)["log_tail"]
            rows.append(json.loads(client.frame("alice", job, "plate", 1))["rows"])
    assert rows[0] == rows[1]
    assert max(map(max, rows[0])) > 1


def test_a_cancel_in_mid_run_leaves_no_process_and_a_file_that_can_be_read(daemon: Daemon, job: str):
    with daemon.client() as client:
        client.run("alice", job, **ask(SLOW, mode="parallel", resources={"cores": 2}))
        daemon.until("alice", job, lambda now: frames(now) >= 2)
        pids = heats(daemon)
        assert pids
        status = client.cancel("alice", job, reason="seen enough")
        assert (status["state"], status["end_confirmed"]) == ("canceled", True)
        assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
        assert not heats(daemon)
        latest = json.loads(client.frame("alice", job, "plate", "latest"))
        assert latest["step"] == 100 * latest["index"] > 0


def test_an_input_that_is_refused_says_field_and_limit_in_the_log(daemon: Daemon, job: str):
    with daemon.client() as client:
        client.run("alice", job, **ask(SLOW | {"nx": 2}))
    status = daemon.until("alice", job, "failed")
    assert status["cause"]["code"] == "exit_code"
    assert status["log_tail"].strip().splitlines()[-1] == "heat: heat.json: nx: must be from 3 to 4096, not 2"
