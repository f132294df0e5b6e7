"""The codes that we ship, in the images that we ship, watched while they run."""

import json
import sys
from pathlib import Path

import pytest
from realdaemon import wait_until

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "deploy" / "codes" / "lammps"))
from decks import deck  # noqa: E402 - it lies beside the code's description

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def daemon(make_module_daemon):
    return make_module_daemon(codes=ROOT / "deploy" / "codes").start()


def watched(daemon, user, view, request):
    """Start it, look at a frame while it runs, and return the last status."""
    with daemon.client() as client:
        client.run(user, "j", **request)
        status = daemon.until(user, "j", lambda now: now.get("progress", {}).get("frames", {}).get(view, 0) > 1, 90)
        assert status["state"] == "running", status
        assert client.frame(user, "j", view, "latest", format="png").startswith(b"\x89PNG")
        assert daemon.status(user, "j")["state"] == "running", "it was too fast to be watched"
    return daemon.until(user, "j", "completed", 90)


def test_lammps_on_two_cores_through_mpirun(daemon, user):
    text = deck("lj", steps=300, every=20, prefix=sys.prefix)
    request = {"code": "lammps", "mode": "parallel", "resources": {"cores": 2}, "inputs": {"in.lammps": {"text": text}}}
    status = watched(daemon, user, "atoms", request)
    assert status["progress"]["fraction"] == 1.0
    assert status["progress"]["frames"]["atoms"] == 16
    assert "on 2 procs" in daemon.said(user, "j")


def test_heat_in_c_alone(daemon, user):
    heat = {"nx": 257, "ny": 257, "diffusivity": 1, "steps": 20_000, "every": 200}
    status = watched(daemon, user, "plate", {"code": "heat", "inputs": {"heat.json": {"text": json.dumps(heat)}}})
    assert status["progress"]["frames"]["plate"] == 101


def test_a_canceled_mpi_run_leaves_no_rank(daemon, user):
    text = deck("lj", steps=100_000, every=20, prefix=sys.prefix)
    with daemon.client() as client:
        client.run(
            user, "j", code="lammps", mode="parallel", resources={"cores": 2}, inputs={"in.lammps": {"text": text}}
        )
        daemon.until(user, "j", "running", 90)
        container = daemon.container(user, "j")
        wait_until(lambda: "lmp" in str(container.top(ps_args="-eo pid,args")), "the ranks run")
        client.cancel(user, "j")
    daemon.until(user, "j", "canceled")
    assert "lmp" not in str(container.top(ps_args="-eo pid,args"))
