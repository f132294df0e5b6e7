"""The program heat by itself: its numbers, its input, its ends. What it wrote is read by its worker."""

from __future__ import annotations

import itertools
import json
import math
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from heatbed import SINE, decay_of_a_step, heat_worker, history, run_heat, shape, start_heat
from test_lammps_worker import Worker

ENDLESS = {"nx": 513, "ny": 513, "diffusivity": 1, "steps": 1_000_000, "every": 20}


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = heat_worker()
    yield worker
    assert worker.close() == 0


def until_it_wrote(program: subprocess.Popen[str], frames: int) -> None:
    """Reads its output up to the line of that frame, which it says before it writes it."""
    for line in program.stdout:
        if line.startswith("step"):
            frames -= 1
        if frames < 0:
            return
    pytest.fail(program.stderr.read())


# ---- numbers ----


def test_a_sine_decays_by_the_exact_factor_of_the_scheme(worker: Worker, tmp_path: Path) -> None:
    heat = SINE | {"mode_x": 3, "mode_y": 2, "dt": 2e-4, "amplitude": 50}
    run_heat(tmp_path, heat)
    columns = history(worker, tmp_path)
    factor = decay_of_a_step(heat, heat["dt"])
    waves = shape(heat)
    assert columns["step"] == list(range(0, 201, 20))
    assert columns["time"] == pytest.approx([step * heat["dt"] for step in columns["step"]], rel=1e-14)
    highest = 50 * max(map(max, waves))
    assert columns["highest"] == pytest.approx([highest * factor**step for step in columns["step"]], rel=1e-11)
    for index in (0, 4, 10):
        rows = worker.ask("frame", tmp_path, view="plate", index=index)["rows"]
        size = 50 * factor ** (20 * index)
        assert len(rows) == 33
        for row, wave in zip(rows, waves, strict=True):
            assert row == pytest.approx([size * value for value in wave], rel=1e-7)  # floats


def test_heat_and_change_are_the_integral_and_the_rate(worker: Worker, tmp_path: Path) -> None:
    heat = SINE | {"dt": 2e-4, "amplitude": 1}
    run_heat(tmp_path, heat)
    columns = history(worker, tmp_path)
    factor = decay_of_a_step(heat, heat["dt"])
    waves = shape(heat)
    area = 1.5 / 64 * 1.0 / 32
    total = sum(map(sum, waves)) * area  # the edges are 0
    square = sum(value * value for row in waves for value in row) / (65 * 33)
    assert columns["heat"] == pytest.approx([total * factor**step for step in columns["step"]], rel=1e-11)
    assert columns["change"][0] is None  # nothing has changed yet
    rates = [square**0.5 * (factor ** (step - 1) - factor**step) / heat["dt"] for step in columns["step"][1:]]
    assert columns["change"][1:] == pytest.approx(rates, rel=1e-9)


def test_the_error_against_the_analytic_decay_falls_with_the_square_of_the_spacing(
    worker: Worker, tmp_path: Path
) -> None:
    errors = []
    for level in range(4):
        cells = 8 << level
        heat = {"nx": cells + 1, "ny": cells + 1, "diffusivity": 0.25, "start": "sine", "amplitude": 1}
        heat |= {"dt": 0.2 / 0.25 / cells**2, "steps": 20 << (2 * level), "every": 20 << (2 * level)}
        run_heat(tmp_path / str(level), heat)
        columns = history(worker, tmp_path / str(level))
        assert columns["time"][-1] == pytest.approx(0.25)
        errors.append(abs(columns["highest"][-1] - math.exp(-2 * math.pi**2 * 0.25 * 0.25)))
    orders = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert errors[-1] < 3e-4
    assert all(1.95 < order < 2.05 for order in orders), (orders, errors)


def test_the_largest_step_that_is_accepted_is_stable(worker: Worker, tmp_path: Path) -> None:
    heat = {"nx": 33, "ny": 17, "diffusivity": 2, "steps": 20_000, "every": 1000, "amplitude": 100, "left": -40}
    dt_max = 1 / (2 * 2 * (32**2 + 16**2))
    run_heat(tmp_path, heat | {"dt": dt_max})
    for index in range(21):
        frame = worker.ask("frame", tmp_path, view="plate", index=index)
        assert all(-40 <= value <= 100 for row in frame["rows"] for value in row)
    assert (frame["low"], frame["high"]) == pytest.approx((-40, 97.09174))  # no grid point is the middle of the spot
    assert history(worker, tmp_path)["change"][-1] < 1e-9  # it came to rest


def test_edges_stay_what_they_are_and_where_they_are(worker: Worker, tmp_path: Path) -> None:
    edges = {"left": 1, "right": 2, "bottom": 3, "top": 4}
    run_heat(
        tmp_path,
        {"nx": 7, "ny": 5, "diffusivity": 1, "steps": 50, "every": 50, "start": "uniform", "amplitude": 9} | edges,
    )
    for index in (0, 1):
        rows = worker.ask("frame", tmp_path, view="plate", index=index)["rows"]
        assert [row[0] for row in rows] == [1] * 5
        assert [row[-1] for row in rows] == [2] * 5
        assert rows[0][1:-1] == [3] * 5
        assert rows[-1][1:-1] == [4] * 5
    area = 1 / 6 * 1 / 4  # the edges count by half, the corners (left and right) by a quarter
    start = 9 * 5 * 3 + (1 + 2) * 3 / 2 + (3 + 4) * 5 / 2 + 2 * (1 + 2) / 4
    assert history(worker, tmp_path)["heat"][0] == pytest.approx(start * area)


def test_two_threads_give_the_same_file_as_one(tmp_path: Path) -> None:
    heat = SINE | {"start": "spot", "nx": 130, "ny": 71, "steps": 333}
    for cores in (1, 2, 5):
        time.sleep(0.4)  # nor does the time of day change it
        said = run_heat(tmp_path / str(cores), heat, "parallel", cores)
        assert f"{cores} threads" in said
    files = {(tmp_path / str(cores) / "heat.h5").read_bytes() for cores in (1, 2, 5)}
    assert len(files) == 1


def test_the_last_step_has_a_frame_also_between_two(worker: Worker, tmp_path: Path) -> None:
    run_heat(tmp_path, SINE | {"steps": 50, "every": 20})
    assert history(worker, tmp_path)["step"] == [0, 20, 40, 50]


# ---- input ----


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"colour": 1}, "colour: is no field of this input"),
        ({"nx": None}, "nx: must be a whole number"),
        ({"nx": 8.0}, "nx: must be a whole number"),
        ({"nx": "8"}, "nx: must be a whole number"),
        ({"nx": 2}, "nx: must be from 3 to 4096, not 2"),
        ({"ny": 4097}, "ny: must be from 3 to 4096, not 4097"),
        ({"ny": -(10**18)}, "ny: must be from 3 to 4096, not -1e+18"),
        ({"nx": 10**30}, "line 1: is not JSON: too big integer"),
        ({"diffusivity": 0}, "diffusivity: must be from 1e-12 to 1000000, not 0"),
        ({"diffusivity": True}, "diffusivity: must be a number"),
        ({"diffusivity": [1]}, "diffusivity: must be a number"),
        ({"length_x": -1}, "length_x: must be from 1e-06 to 1000000, not -1"),
        ({"steps": 0}, "steps: must be from 1 to 1000000000, not 0"),
        ({"every": 201}, "every: must be at most steps = 200, not 201"),
        ({"steps": 10**9, "every": 10**4}, "every: must be at least 10001, or there are more than 100000 frames"),
        ({"start": "noise"}, 'start: must be "spot", "sine" or "uniform"'),
        ({"start": 7}, 'start: must be "spot", "sine" or "uniform"'),
        ({"mode_x": 64}, "mode_x: must be at most nx - 2 = 63, not 64"),
        ({"mode_y": 32}, "mode_y: must be at most ny - 2 = 31, not 32"),
        ({"amplitude": 1e7}, "amplitude: must be from -1000000 to 1000000, not 10000000"),
        ({"top": -2e6}, "top: must be from -1000000 to 1000000, not -2000000"),
        ({"dt": 0}, "dt: must be from 1e-30 to 1e+30, not 0"),
        (
            {"dt": 0.000352},
            "dt: must be at most 0.0003515625, the largest stable step of this grid, not 0.000352",
        ),
    ],
)
def test_a_wrong_field_is_one_line_with_its_name_and_limit(
    tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    program = start_heat(tmp_path, SINE | change)
    assert program.communicate() == ("", f"heat: heat.json: {complaint}\n")
    assert program.returncode == 2
    assert not list(tmp_path.glob("heat.h5*"))


@pytest.mark.parametrize("field", ["nx", "ny", "diffusivity", "steps", "every"])
def test_a_field_without_a_default_must_be_there(tmp_path: Path, field: str) -> None:
    program = start_heat(tmp_path, {name: value for name, value in SINE.items() if name != field})
    assert program.communicate() == ("", f"heat: heat.json: {field}: is missing\n")
    assert program.returncode == 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"", "line 1: is not JSON"),
        (b'{"nx": 5,\n "ny" 7}', "line 2: is not JSON"),
        (b'{"nx": 5, "nx": 6}', "line 1: is not JSON: duplicate object key"),
        (b"[1]", "must be a JSON object, {...}"),
        (b"\xff\xfe", "line 1: is not JSON"),
        (b"[" * 100_000, "line 1: is not JSON: maximum parsing depth reached"),
        (b'{"a\\u001b[2J\\nb": 1}', "a [2J b: is no field of this input"),
        (b" " * (1 << 20) + b"{}", "must have at most 1048576 bytes"),
    ],
)
def test_what_is_no_input_is_one_line(tmp_path: Path, text: bytes, complaint: str) -> None:
    (tmp_path / "heat.json").write_bytes(text)
    done = subprocess.run([f"{sys.prefix}/bin/heat", "heat.json"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr.decode().startswith(f"heat: heat.json: {complaint}")
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.isascii()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "usage: heat"),
        (["a", "b"], "usage: heat"),
        (["--threads", "2"], "usage: heat"),
        (["--threads", "0", "heat.json"], "heat: --threads must be a whole number from 1 to 256"),
        (["--threads", "2x", "heat.json"], "heat: --threads must be a whole number from 1 to 256"),
        (["none.json"], "heat: none.json: cannot be opened: No such file or directory"),
        (["/"], "heat: /: cannot be read: Is a directory"),
    ],
)
def test_a_wrong_command_line_is_refused(tmp_path: Path, words: list[str], complaint: str) -> None:
    (tmp_path / "heat.json").write_text(json.dumps(SINE))
    command = [f"{sys.prefix}/bin/heat", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(complaint)


# ---- ends ----


def test_sigterm_ends_it_quickly_with_the_file_closed_and_whole(worker: Worker, tmp_path: Path) -> None:
    for cores in (1, 2):
        program = start_heat(tmp_path, ENDLESS, "parallel", cores)
        until_it_wrote(program, 3)
        began = time.monotonic()
        program.send_signal(signal.SIGTERM)
        said, complained = program.stdout.read(), program.stderr.read()  # communicate() loses what was read ahead
        program.wait(10)
        assert time.monotonic() - began < 1
        assert (program.returncode, complained) == (-signal.SIGTERM, "")
        frames = 4 + said.count("step")
        assert (tmp_path / "heat.h5").read_bytes()[11] == 0  # the superblock says that nobody writes
        assert worker.ask("progress", tmp_path)["frames"] == {"plate": frames, "history": frames}
        assert worker.ask("frame", tmp_path, view="plate")["step"] == 20 * (frames - 1)


def test_sigterm_is_heard_long_before_the_next_frame(tmp_path: Path) -> None:
    program = start_heat(tmp_path, ENDLESS | {"every": 1_000_000})
    until_it_wrote(program, 0)
    time.sleep(0.2)  # it is on its way
    began = time.monotonic()
    program.send_signal(signal.SIGTERM)
    assert program.wait(10) == -signal.SIGTERM
    assert time.monotonic() - began < 1
    program.communicate()


def test_a_killed_run_can_be_read_up_to_its_last_frame(worker: Worker, tmp_path: Path) -> None:
    program = start_heat(tmp_path, ENDLESS)
    until_it_wrote(program, 5)
    program.kill()
    said = program.stdout.read()
    spoken = 6 + said.count("step")
    assert (tmp_path / "heat.h5").read_bytes()[11] != 0
    progress = worker.ask("progress", tmp_path)
    assert spoken - 1 <= progress["frames"]["plate"] <= spoken
    assert "problem" not in progress
    for index in range(progress["frames"]["plate"]):
        assert worker.ask("frame", tmp_path, view="plate", index=index)["step"] == 20 * index
    run_heat(tmp_path, SINE)  # and its directory can be used again
    assert worker.ask("progress", tmp_path)["fraction"] == 1.0


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "heat.h5.new").mkdir()
    program = start_heat(tmp_path, SINE)
    _, complained = program.communicate()
    assert program.returncode == 1
    assert complained.endswith("heat: heat.h5 cannot be written\n")


def test_a_full_disk_is_an_error_and_what_was_written_can_be_read(worker: Worker, tmp_path: Path) -> None:
    def limit() -> None:  # ignored, SIGXFSZ leaves the error of a disk that is full
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))

    (tmp_path / "heat.json").write_text(json.dumps(ENDLESS))
    command = [f"{sys.prefix}/bin/heat", "heat.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, preexec_fn=limit, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("heat: heat.h5 cannot be written\n")
    assert worker.ask("progress", tmp_path)["frames"]["plate"] == 2
    assert worker.ask("frame", tmp_path, view="plate", index=1)["step"] == 20
