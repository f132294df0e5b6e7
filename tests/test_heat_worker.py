"""heat's analysis worker: over its pipes, on files that are being written, and on hostile files and questions."""

from __future__ import annotations

import ctypes
import io
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from heatbed import SINE, Hdf5, decay_of_a_step, heat_worker, history, run_heat, shape, start_heat
from PIL import Image
from test_lammps_worker import Worker


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = heat_worker()
    yield worker
    assert worker.close() == 0  # whatever the tests did to it, it lived, and ends with its stdin


@pytest.fixture(scope="module")
def ended_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("ended")
    run_heat(run, SINE)
    return run


@pytest.fixture
def copy(ended_run: Path, tmp_path: Path) -> Path:
    """A run directory to spoil."""
    shutil.copy(ended_run / "heat.h5", tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def hdf5() -> Hdf5:
    return Hdf5()


def compiled(directory: Path, text: str) -> Path:
    """A library that, preloaded, takes the place of functions of HDF5."""
    source, library = directory / "preload.c", directory / "preload.so"
    source.write_text("#include <stdlib.h>\n#include <unistd.h>\n" + text)
    subprocess.run(["cc", "-shared", "-fPIC", "-D_GNU_SOURCE", "-o", library, source], check=True)
    return library


# ---- files that are being written ----

BIG = {"nx": 401, "ny": 301, "diffusivity": 1, "steps": 10**6, "every": 20, "start": "sine", "amplitude": 100}
DT = 0.9 / (2 * (400**2 + 300**2))
BIG_SHAPE = numpy.array(shape(BIG))[::2, ::2]


def assert_whole(frame: dict[str, Any]) -> None:
    """Every value is that of its own frame, and of no other: the sine decays by 2e-5 with each step."""
    assert frame["step"] == 20 * frame["index"]
    size = 100 * decay_of_a_step(BIG, DT) ** frame["step"]
    assert frame["stride"] == 2  # for 256 columns
    numpy.testing.assert_allclose(frame["rows"], size * BIG_SHAPE, rtol=2e-7)


def test_a_frame_is_shown_whole_while_it_is_written_and_the_frames_grow(worker: Worker, tmp_path: Path) -> None:
    program = start_heat(tmp_path, BIG)
    try:
        counts = []
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            progress = worker.ask("progress", tmp_path)
            assert "problem" not in progress
            if progress["frames"]["plate"]:
                frame = worker.ask("frame", tmp_path, view="plate")
                assert frame["count"] >= progress["frames"]["plate"]
                assert frame["index"] == frame["count"] - 1
                assert_whole(frame)
                columns = history(worker, tmp_path)
                assert columns["step"] == list(range(0, 20 * len(columns["step"]), 20))
                assert None not in columns["heat"]
                counts.append(frame["count"])
        assert counts == sorted(counts)
        assert len(set(counts)) > 10
        assert program.poll() is None
    finally:
        program.kill()
        program.communicate()
        (tmp_path / "heat.h5").unlink()  # a hundred megabytes


def test_at_any_moment_at_which_the_writer_is_stopped_the_latest_frame_is_whole(worker: Worker, tmp_path: Path) -> None:
    program = start_heat(tmp_path, BIG)
    chance = random.Random(7)
    try:
        while not worker.ask("progress", tmp_path)["frames"]["plate"]:
            assert program.poll() is None
        for _ in range(25):
            time.sleep(chance.uniform(0, 0.02))
            program.send_signal(signal.SIGSTOP)
            assert_whole(worker.ask("frame", tmp_path, view="plate"))
            progress = worker.ask("progress", tmp_path)
            assert "problem" not in progress
            assert progress["metrics"]["step"] == 20 * (progress["frames"]["plate"] - 1)
            program.send_signal(signal.SIGCONT)
    finally:
        program.kill()
        program.communicate()
        (tmp_path / "heat.h5").unlink()  # a hundred megabytes


def test_from_before_its_first_byte_to_after_its_last_a_file_is_never_called_damaged(
    worker: Worker, tmp_path: Path
) -> None:
    for number in range(40):
        run = tmp_path / str(number)
        program = start_heat(run, SINE | {"steps": 300, "every": 3})
        fractions = []
        while program.poll() is None:
            progress = worker.ask("progress", run)
            assert "problem" not in progress
            fractions.append(progress["fraction"])
        assert fractions == sorted(fractions)
        assert worker.ask("progress", run)["fraction"] == 1.0
        program.communicate()


def test_the_file_has_no_name_before_it_can_be_read(worker: Worker, tmp_path: Path) -> None:
    library = compiled(tmp_path, "int H5Fstart_swmr_write(long file) { for (;;) pause(); }")
    program = start_heat(tmp_path, SINE, LD_PRELOAD=str(library))
    while not (tmp_path / "heat.h5.new").exists():
        assert program.poll() is None
    time.sleep(0.2)
    assert not (tmp_path / "heat.h5").exists()
    assert worker.ask("progress", tmp_path)["text"] == "has written no frame yet"
    program.kill()
    program.communicate()


def test_what_fails_is_tried_again_before_it_is_called_damaged(worker: Worker, copy: Path, tmp_path: Path) -> None:
    (tmp_path / "right").hardlink_to(copy / "heat.h5")
    kept = 0
    for _ in range(10):
        (tmp_path / "wrong").write_bytes(b"no HDF5")
        (tmp_path / "wrong").replace(copy / "heat.h5")
        worker.send(json.dumps({"id": 1, "method": "progress", "run": str(copy)}).encode())
        time.sleep(0.03)  # of the 0.09 s that it takes until it gives up
        shutil.copy(tmp_path / "right", tmp_path / "again")
        (tmp_path / "again").replace(copy / "heat.h5")
        kept += worker.receive()[0]["result"].get("fraction") == 1.0
    assert kept >= 5


def test_a_frame_without_its_row_and_a_row_without_its_numbers_are_not_there_yet(
    worker: Worker, copy: Path, hdf5: Hdf5
) -> None:
    for name, sizes in (("temperature", (12, 33, 65)), ("history", (12, 5))):
        file = hdf5.opened(copy / "heat.h5")
        dataset = hdf5("H5Dopen2", file, name, 0)
        hdf5("H5Dset_extent", dataset, (ctypes.c_uint64 * len(sizes))(*sizes))
        hdf5("H5Dclose", dataset)
        hdf5("H5Fclose", file)
        assert worker.ask("progress", copy)["frames"] == {"plate": 11, "history": 11}
        assert worker.ask("frame", copy, view="plate")["step"] == 200
        assert history(worker, copy)["step"][-1] == 200
        assert worker.refusal("frame", copy, view="plate", index=11) == "no_frame"


def test_a_run_without_a_file_has_no_frame_yet(worker: Worker, tmp_path: Path) -> None:
    progress = worker.ask("progress", tmp_path)
    assert progress == {"fraction": 0.0, "text": "has written no frame yet", "frames": {"plate": 0, "history": 0}}
    for view in ("plate", "history"):
        header, _ = worker.ask_whole("frame", tmp_path, view=view)
        assert header["error"] == {"code": "no_frame", "text": "The run has written no frame yet."}


def test_a_directory_that_is_used_again_shows_the_new_run(worker: Worker, copy: Path) -> None:
    assert worker.ask("progress", copy)["text"] == "step 200 of 200"
    run_heat(copy, SINE | {"steps": 40})
    assert worker.ask("progress", copy)["text"] == "step 40 of 40"


# ---- answers ----


def test_progress_says_step_fraction_frames_and_metrics(worker: Worker, ended_run: Path) -> None:
    progress = worker.ask("progress", ended_run)
    assert progress.keys() == {"fraction", "text", "frames", "metrics"}
    assert progress["metrics"].keys() == {"step", "time", "highest", "heat", "change"}
    assert progress["metrics"]["step"] == 200


def test_the_history_goes_up_to_the_asked_row(worker: Worker, ended_run: Path) -> None:
    whole = history(worker, ended_run)
    part = worker.ask("frame", ended_run, view="history", index=3)
    assert (part["index"], part["count"]) == (3, 11)
    assert part["columns"] == {name: series[:4] for name, series in whole.items()}
    assert worker.refusal("frame", ended_run, view="history", index=11) == "no_frame"


@pytest.mark.parametrize("width", [64, 333, 2000])
def test_a_picture_has_the_asked_width_and_the_shape_of_the_plate(worker: Worker, ended_run: Path, width: int) -> None:
    header, body = worker.ask_whole("frame", ended_run, view="plate", index=3, format="png", width=width)
    image = Image.open(io.BytesIO(body))
    image.load()
    assert header["type"] == "image/png"
    assert image.size == (width, header["result"]["height"]) == (width, round(width / 1.5))
    assert (header["result"]["index"], header["result"]["step"]) == (3, 60)


def test_a_picture_is_lighter_where_it_is_hotter_and_its_bottom_is_the_bottom(worker: Worker, tmp_path: Path) -> None:
    edges = {"left": 25, "right": 75, "bottom": 0, "top": 100}
    run_heat(tmp_path, {"nx": 20, "ny": 20, "diffusivity": 1, "steps": 10, "every": 10, "start": "uniform"} | edges)
    _, body = worker.ask_whole("frame", tmp_path, view="plate", format="png", width=100)
    image = Image.open(io.BytesIO(body)).convert("L")
    bottom, left, right, top = (image.getpixel(at) for at in ((50, 99), (0, 50), (99, 50), (50, 0)))
    assert bottom + 20 < left < left + 20 < right < right + 20 < top


def test_the_colours_mean_the_same_in_every_frame(worker: Worker, ended_run: Path) -> None:
    lights = []
    for index in range(11):
        header, body = worker.ask_whole("frame", ended_run, view="plate", index=index, format="png")
        assert (header["result"]["low"], header["result"]["high"]) == (0, 100)
        image = Image.open(io.BytesIO(body)).convert("L")
        lights.append(image.getpixel((image.width // 2, image.height // 2)))
    assert lights == sorted(lights, reverse=True)
    assert lights[0] > lights[-1] + 20


def test_a_large_plate_is_thinned_and_drawn(worker: Worker, tmp_path: Path) -> None:
    heat = {"nx": 3, "ny": 4096, "length_y": 0.01, "diffusivity": 1, "steps": 1, "every": 1}
    run_heat(tmp_path, heat)
    frame = worker.ask("frame", tmp_path, view="plate")
    assert (frame["points"], frame["stride"], len(frame["rows"])) == ([3, 4096], 1, 4096)
    body = worker.ask_whole("frame", tmp_path, view="plate", format="png", width=2000)[1]
    assert Image.open(io.BytesIO(body)).size == (2000, 20)
    run_heat(tmp_path, heat | {"nx": 4096})
    began = time.monotonic()
    frame = worker.ask("frame", tmp_path, view="plate", width=2000)
    assert frame["stride"] == 6
    assert len(frame["rows"]) * len(frame["rows"][0]) <= 1 << 19
    worker.ask_whole("frame", tmp_path, view="plate", format="png", width=2000)
    assert time.monotonic() - began < 10


# ---- hostile files ----


@pytest.mark.parametrize("content", [b"", b"no HDF5\n", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + b"\xff" * 5000])
def test_a_file_that_is_none_of_heat_is_an_error(worker: Worker, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "heat.h5").write_bytes(content)
    text = "heat.h5 was not written by heat, or is damaged."
    assert worker.ask("progress", tmp_path) == {"problem": text}
    header, _ = worker.ask_whole("frame", tmp_path, view="plate", format="png")
    assert header["error"] == {"code": "unreadable", "text": text}


def test_a_file_that_is_cut_short_is_an_error_or_right(worker: Worker, copy: Path) -> None:
    whole = (copy / "heat.h5").read_bytes()
    right = worker.ask("frame", copy, view="plate", index=2)
    codes = set()
    for length in range(0, len(whole), len(whole) // 13):
        (copy / "heat.h5").write_bytes(whole[:length])
        header, _ = worker.ask_whole("frame", copy, view="plate", index=2)
        assert header.get("result", right) == right
        codes.add(header.get("error", {}).get("code"))
    assert codes <= {"unreadable", None}
    assert "unreadable" in codes


def test_a_flipped_bit_anywhere_is_an_error_or_changes_nothing(worker: Worker, copy: Path) -> None:
    whole = (copy / "heat.h5").read_bytes()
    answers = [worker.ask("frame", copy, view="plate", index=2), history(worker, copy)]
    chance = random.Random(3)
    refused = 0
    for _ in range(40):
        # half of them in what describes the file, half in what it holds
        at = chance.choice([chance.randrange(4000), chance.randrange(len(whole))])
        spoiled = bytearray(whole)
        spoiled[at] ^= 1 << chance.randrange(8)
        (copy / "heat.h5").write_bytes(spoiled)
        for view, right, picked in (("plate", answers[0], None), ("history", answers[1], "columns")):
            header, _ = worker.ask_whole("frame", copy, view=view, **({"index": 2} if view == "plate" else {}))
            if "error" in header:
                assert header["error"]["code"] == "unreadable"
                refused += 1
            else:
                assert (header["result"][picked] if picked else header["result"]) == right, at
    assert refused > 5


def test_a_spoiled_frame_is_an_error_and_the_others_stay(worker: Worker, copy: Path, ended_run: Path) -> None:
    value = worker.ask("frame", copy, view="plate", index=4)["rows"][16][32]
    content = (copy / "heat.h5").read_bytes()
    assert content.count(struct.pack("<f", value)) >= 1
    (copy / "heat.h5").write_bytes(content.replace(struct.pack("<f", value), struct.pack("<f", value + 1)))
    header, _ = worker.ask_whole("frame", copy, view="plate", index=4, format="png")
    assert header["error"] == {"code": "unreadable", "text": "This part of heat.h5 is damaged."}
    for index in (3, 5):
        right = worker.ask("frame", ended_run, view="plate", index=index)
        assert worker.ask("frame", copy, view="plate", index=index) == right


def test_links_fifos_and_directories_in_place_of_the_file_are_refused(
    worker: Worker, ended_run: Path, tmp_path: Path
) -> None:
    path = tmp_path / "heat.h5"
    for make in (
        lambda: path.symlink_to(ended_run / "heat.h5"),
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.symlink_to("heat.h5"),
        lambda: os.mkfifo(path),
        path.mkdir,
    ):
        make()
        assert worker.refusal("frame", tmp_path, view="plate") == "unreadable"
        assert worker.ask("progress", tmp_path)["problem"] == "heat.h5 is not a plain file, or cannot be opened."
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def test_a_run_directory_that_is_a_link_or_missing_is_refused(worker: Worker, ended_run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(ended_run)
    assert worker.refusal("progress", tmp_path / "link") == "unreadable"
    assert worker.refusal("progress", tmp_path / "missing") == "unreadable"
    assert worker.refusal("frame", ended_run / "heat.h5", view="plate") == "unreadable"


@pytest.mark.parametrize("name", ["format", "steps", "high"])
def test_hdf5_of_another_program_is_refused(worker: Worker, copy: Path, hdf5: Hdf5, name: str) -> None:
    file = hdf5.opened(copy / "heat.h5")
    hdf5("H5Adelete", file, name)
    hdf5("H5Fclose", file)
    assert worker.refusal("frame", copy, view="plate", index=0) == "unreadable"


@pytest.mark.parametrize("name", ["temperature", "history"])
def test_a_dataset_that_lies_in_another_file_is_not_followed(
    worker: Worker, copy: Path, ended_run: Path, hdf5: Hdf5, name: str
) -> None:
    file = hdf5.opened(copy / "heat.h5")
    hdf5("H5Ldelete", file, name, 0)
    hdf5("H5Lcreate_external", str(ended_run / "heat.h5"), f"/{name}", file, name, 0, 0)
    hdf5("H5Fclose", file)
    assert worker.refusal("frame", copy, view="plate", index=0) == "unreadable"
    assert "problem" in worker.ask("progress", copy)


@pytest.mark.parametrize("sizes", [(11, 33, 65), (11, 33, 65000), (11, 2, 65), (10, 33, 65)])
def test_raw_data_outside_and_wrong_sizes_are_refused(
    worker: Worker, copy: Path, hdf5: Hdf5, sizes: tuple[int, int, int]
) -> None:
    file = hdf5.opened(copy / "heat.h5")
    hdf5("H5Ldelete", file, "temperature", 0)
    properties = hdf5("H5Pcreate", hdf5.constant("H5P_CLS_DATASET_CREATE_ID_g"))
    if sizes == (11, 33, 65):  # the right ones
        hdf5("H5Pset_external", properties, "/etc/passwd", 0, 1 << 40)
    else:
        hdf5("H5Pset_chunk", properties, 3, (ctypes.c_uint64 * 3)(1, 1, 1))
    space = hdf5("H5Screate_simple", 3, (ctypes.c_uint64 * 3)(*sizes), None)
    hdf5("H5Dcreate2", file, "temperature", hdf5.constant("H5T_IEEE_F32LE_g"), space, 0, properties, 0)
    hdf5("H5Fclose", file)
    hdf5("H5close")  # what is still open of it
    hdf5("H5open")
    assert worker.refusal("frame", copy, view="plate", index=0) == "unreadable"
    assert "problem" in worker.ask("progress", copy)


# ---- a reader that fails ----

IT_FAILED = "The files of the run cannot be read: the reader failed on them."
FAILURES = {
    "crash": "__builtin_trap();",
    "hunger": "if (!malloc((size_t)2 << 30)) abort(); for (;;) pause();",
    "sleep": "for (;;) pause();",
    "exit": "_exit(0);",
}
PRELOADED = """
long H5Fopen(const char *path, unsigned flags, long access) { %s return -1; }
unsigned alarm(unsigned s) { return s == 10 ? ualarm(300000, 0) : 0; } /* does not wait 10 s */
"""


def preloaded(tmp_path: Path, failure: str) -> Worker:
    return heat_worker(LD_PRELOAD=str(compiled(tmp_path, PRELOADED % FAILURES[failure])))


@pytest.mark.parametrize("failure", FAILURES)
def test_a_reader_that_fails_costs_one_question(copy: Path, failure: str) -> None:
    worker = preloaded(copy, failure)
    for _ in range(3):
        header, _ = worker.ask_whole("frame", copy, view="plate")
        text = "The files of the run could not be read in time." if failure == "sleep" else IT_FAILED
        assert header["error"] == {"code": "unreadable", "text": text}
        assert worker.refusal("frame", copy, view="plate", index=-1) == "bad_argument"
    assert worker.memory_kib() < 50_000
    assert worker.close() == 0


def test_a_worker_that_is_killed_takes_its_reader_with_it(copy: Path) -> None:
    worker = preloaded(copy, "sleep")
    pid = worker.process.pid
    worker.send(json.dumps({"id": 1, "method": "progress", "run": str(copy)}).encode())
    children = Path(f"/proc/{pid}/task/{pid}/children")
    while not (child := children.read_text().strip()):
        time.sleep(0.001)
    time.sleep(0.05)
    worker.process.kill()
    worker.close()
    until = time.monotonic() + 0.2  # it would end by itself after 0.3 s
    while Path(f"/proc/{child}/cmdline").exists() and Path(f"/proc/{child}/cmdline").read_text():
        assert time.monotonic() < until


# ---- hostile questions ----


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"garbage",
        b"{",
        b"[]",
        b"7",
        b"null",
        b"\xff\xfe\x00",
        b'{"method": "progress", "run": "/"}',
        b'{"id": "7", "method": "progress", "run": "/"}',
        b'{"id": true, "method": "progress", "run": "/"}',
        b'{"id": 7.0, "method": "progress", "run": "/"}',
        b'{"id": 7, "id": 8, "method": "progress", "run": "/"}',
        b'{"id": ' + b"9" * 5000 + b"}",
        b'{"id": 7, "method": "progress", "run": "/tmp\\u0000x"}',
        b"[" * 200_000,
        b'{"id": 7, "args": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"id": 7, "method": "progress", "run": "/' + b"x" * (1 << 20) + b'"}',
        b"x" * (5 << 20),
    ],
    ids=range(18),
)
def test_a_question_that_cannot_be_understood_is_answered_without_an_id(
    worker: Worker, ended_run: Path, line: bytes
) -> None:
    worker.send(line)
    header, _ = worker.receive()
    assert header["id"] is None
    assert header["error"]["code"] == "bad_argument"
    assert worker.ask("progress", ended_run)["fraction"] == 1.0


def test_a_question_may_have_a_mebibyte_and_not_a_byte_more(worker: Worker, ended_run: Path) -> None:
    question = json.dumps({"id": 5, "method": "progress", "run": str(ended_run)}).encode()
    worker.send(question.ljust(1 << 20))
    assert worker.receive()[0]["result"]["fraction"] == 1.0
    worker.send(question.ljust((1 << 20) + 1))
    assert worker.receive()[0]["error"]["code"] == "bad_argument"
    assert worker.ask("progress", ended_run)["fraction"] == 1.0  # one answer for each


@pytest.mark.parametrize(
    ("question", "code"),
    [
        ({"method": "erase", "run": "/tmp"}, "unknown_method"),
        ({"method": ["frame"], "run": "/tmp"}, "unknown_method"),
        ({"run": "/tmp"}, "unknown_method"),
        ({"method": "progress"}, "bad_argument"),
        ({"method": "progress", "run": 7}, "bad_argument"),
        ({"method": "progress", "run": "relative"}, "bad_argument"),
        ({"method": "progress", "run": "/" + "x" * 5000}, "unreadable"),
        ({"method": "frame", "run": "/tmp"}, "bad_argument"),
        ({"method": "progress", "run": "/tmp", "args": [1]}, "bad_argument"),
        ({"method": "frame", "run": "/tmp", "args": [1]}, "bad_argument"),
        ({"method": "frame", "run": "/tmp", "args": None}, "bad_argument"),
        ({"method": "frame", "run": "/tmp", "args": {"view": {}}}, "bad_argument"),
        ({"method": "frame", "run": "/tmp", "args": {"view": "plate", "index": 10**18}}, "no_frame"),
    ],
)
def test_a_wrong_question_is_answered_with_its_id(worker: Worker, question: dict[str, Any], code: str) -> None:
    worker.send(json.dumps({"id": 41} | question).encode())
    header, _ = worker.receive()
    assert (header["id"], header["error"]["code"]) == (41, code)


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"view": "plates"},
        {"view": "plate", "index": -1},
        {"view": "plate", "index": 1.0},
        {"view": "plate", "index": True},
        {"view": "plate", "index": "12"},
        {"view": "plate", "index": None},
        {"view": "plate", "format": "gif"},
        {"view": "plate", "format": ["png"]},
        {"view": "plate", "format": "png", "width": 63},
        {"view": "plate", "format": "png", "width": 2001},
        {"view": "plate", "format": "png", "width": 10**18},
        {"view": "plate", "format": "png", "width": "640"},
        {"view": "plate", "format": "png", "width": 640.0},
        {"view": "plate", "width": 0},
        {"view": "history", "format": "png"},
        {"view": "history", "width": 640},
        {"view": "plate", "file": "/etc/passwd"},
    ],
)
def test_a_wrong_argument_is_refused(worker: Worker, ended_run: Path, args: dict[str, Any]) -> None:
    assert worker.refusal("frame", ended_run, **args) == "bad_argument"


def test_an_index_that_is_not_there_is_refused_with_how_many_there_are(worker: Worker, ended_run: Path) -> None:
    header, _ = worker.ask_whole("frame", ended_run, view="plate", index=11)
    assert header["error"] == {"code": "no_frame", "text": "There is no frame 11: the run has 11 so far."}


def test_questions_and_pictures_follow_one_another_and_leave_nothing_behind(worker: Worker, ended_run: Path) -> None:
    for number in range(100, 140):
        args = {"view": "plate", "index": number % 11, "format": "json" if number % 3 else "png"}
        worker.send(json.dumps({"id": number, "method": "frame", "run": str(ended_run), "args": args}).encode())
    for number in range(100, 140):
        header, body = worker.receive()
        assert (header["id"], header["result"]["index"]) == (number, number % 11)
        assert (body.startswith(b"\x89PNG") and body.endswith(b"IEND\xaeB`\x82")) == (number % 3 == 0)
    process = Path(f"/proc/{worker.process.pid}")
    until = time.monotonic() + 5
    while len(list((process / "fd").iterdir())) > 3:  # it closes the last pipe behind the last answer
        assert time.monotonic() < until
    assert not (process / "task" / process.name / "children").read_text()
