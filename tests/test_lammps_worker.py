"""The analysis worker of the code "lammps": over its pipes, on runs of the real LAMMPS and on hostile files.

The commands that start LAMMPS are those of deploy/codes/lammps.toml, with the environment that jobd gives them.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

CODES = Path(__file__).parents[1] / "deploy" / "codes"
WORKER = CODES / "lammps" / "worker.py"
DECKS = CODES / "lammps" / "decks.py"
CODE = tomllib.loads((CODES / "lammps.toml").read_text())

pytestmark = pytest.mark.skipif(
    not (Path(sys.prefix) / "bin" / "lmp").exists(), reason="lammps[mpi] is not installed here"
)


def filled(word: str, cores: int = 1, run: Path | None = None) -> str:
    return word.format(cores=cores, memory_bytes=1 << 30, run_dir=run, here=CODES, prefix=sys.prefix)


def start_lammps(run: Path, deck: str, mode: str = "sequential", cores: int = 1) -> subprocess.Popen[bytes]:
    (run / "in.lammps").write_text(deck)
    environment = {name: filled(word) for name, word in CODE["environment"].items()}
    with (run / "out").open("wb") as out:
        return subprocess.Popen(
            [filled(word, cores) for word in CODE["modes"][mode]["command"]],
            cwd=run,
            env=environment | {"HOME": str(run)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def run_lammps(run: Path, deck: str, mode: str = "sequential", cores: int = 1) -> None:
    code = start_lammps(run, deck, mode, cores).wait()
    assert code == 0, (run / "out").read_text()


def ranks_of(run: Path) -> list[Path]:
    """Return the processes (their /proc directories) whose working directory is the run's."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            # A zombie has no working directory any more: it is gone but for its parent's wait.
            if (process / "cwd").readlink() == run:
                found.append(process)
        except OSError:
            continue
    return found


def kill_lammps(lammps: subprocess.Popen[bytes], run: Path, number: signal.Signals) -> None:
    # A rank that is killed leaves MPI's shared memory behind, and a killed mpirun a file about the machine.
    segments = {
        line.split()[5]
        for process in ranks_of(run)
        for line in (process / "maps").read_text().splitlines()
        if "/dev/shm/mpich" in line
    }
    since = (run / "in.lammps").stat().st_mtime
    machine = [path for path in Path("/tmp").glob("hydra_hwloc_xmlfile_*") if path.stat().st_mtime >= since]
    os.killpg(lammps.pid, number)
    lammps.wait()
    for path in [*map(Path, segments), *machine]:
        path.unlink(missing_ok=True)


def watched_deck(steps: int, every: int, scale: float = 0.2) -> str:
    command = [sys.executable, str(DECKS), "lj", "--steps", str(steps), "--every", str(every), "--scale"]
    return subprocess.run([*command, *[str(scale)] * 3], check=True, capture_output=True, text=True).stdout


class Worker:
    """The worker as an agent sees it."""

    def __init__(self, *command: str) -> None:
        words = command or [filled(word) for word in CODE["analysis"]["command"]]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin
        assert self.process.stdout
        self._in, self._out = self.process.stdin, self.process.stdout
        self._ids = 0

    def send(self, line: bytes) -> None:
        self._in.write(line + b"\n")
        self._in.flush()

    def receive(self) -> tuple[dict[str, Any], bytes]:
        line = self._out.readline()
        assert line.endswith(b"\n"), "the worker ended"
        header = json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} in an answer"))
        return header, self._out.read(header.get("bytes", 0))

    def ask_whole(self, method: str, run: Path | str, **args: Any) -> tuple[dict[str, Any], bytes]:
        self._ids += 1
        self.send(json.dumps({"id": self._ids, "method": method, "run": str(run), "args": args}).encode())
        header, body = self.receive()
        assert header["id"] == self._ids
        return header, body

    def ask(self, method: str, run: Path | str, **args: Any) -> Any:
        header, _ = self.ask_whole(method, run, **args)
        assert "error" not in header, header
        return header["result"]

    def refusal(self, method: str, run: Path | str, **args: Any) -> str:
        header, body = self.ask_whole(method, run, **args)
        assert "result" not in header, header
        assert not body
        assert header["error"]["text"].strip().endswith((".", ")"))
        return str(header["error"]["code"])

    def count(self, run: Path) -> int:
        return int(self.ask("progress", run)["frames"]["atoms"])

    def memory_kib(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0])

    def close(self) -> int:
        self._in.close()
        code = self.process.wait(timeout=10)
        self._out.close()
        return code


@pytest.fixture(scope="module")
def shared() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    assert worker.close() == 0  # whatever the tests did to it, it lived, and ends with its stdin


@pytest.fixture
def worker(shared: Worker) -> Worker:
    return shared


@pytest.fixture(scope="module")
def ended_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("ended")
    run_lammps(run, watched_deck(steps=60, every=5))
    return run


def record(step: int, atoms: list[str], columns: str = "id type x y z", box: str = "pp pp pp\n0 4\n0 4\n0 4") -> str:
    lines = "".join(f"{atom}\n" for atom in atoms)
    head = f"ITEM: TIMESTEP\n{step}\nITEM: NUMBER OF ATOMS\n{len(atoms)}\nITEM: BOX BOUNDS {box}\n"
    return f"{head}ITEM: ATOMS {columns} \n{lines}"


THREE_ATOMS = ["1 1 0.5 1 1.5", "2 1 1.25 2 2.5", "3 2 3.125 3 3.5"]


def assert_whole(frame: dict[str, Any]) -> None:
    assert len(frame["box"]) == 3
    assert list(frame["data"]) == frame["columns"]
    assert {len(column) for column in frame["data"].values()} == {frame["rows"]}


# ---- real runs ----


def test_the_frames_of_a_running_simulation_grow_and_each_is_whole(worker: Worker, tmp_path: Path) -> None:
    lammps = start_lammps(tmp_path, watched_deck(steps=10_000_000, every=10, scale=0.4))
    try:
        counts: set[int] = set()
        rows = 0
        while len(counts) < 6:
            assert lammps.poll() is None, (tmp_path / "out").read_text()
            progress = worker.ask("progress", tmp_path)
            if not progress["frames"]["atoms"]:
                assert worker.ask_whole("frame", tmp_path, view="atoms")[0].get("error", {}).get("code") in {
                    None,
                    "no_frame",
                }
                continue
            frame = worker.ask("frame", tmp_path, view="atoms", index="latest")
            assert_whole(frame)
            assert frame["rows"] == 2048
            assert frame["data"]["id"] == list(range(1, 2049))
            assert frame["step"] == 10 * frame["index"]
            assert frame["count"] >= progress["frames"]["atoms"] >= max(counts, default=0)
            assert progress["frames"]["thermo"] >= rows  # thermo_modify flush yes: it grows line by line
            assert 0 <= progress["fraction"] < 1
            counts.add(progress["frames"]["atoms"])
            rows = progress["frames"]["thermo"]
        assert rows > 0
    finally:
        kill_lammps(lammps, tmp_path, signal.SIGKILL)


def test_a_run_that_ended_has_all_its_frames_and_rows_and_is_done(worker: Worker, ended_run: Path) -> None:
    progress = worker.ask("progress", ended_run)
    assert progress["fraction"] == 1.0
    assert progress["text"] == "step 60 of 60"
    assert progress["frames"] == {"atoms": 13, "thermo": 13}
    assert progress["metrics"]["step"] == 60
    assert 0.2 < progress["metrics"]["temperature"] < 1.5
    assert {"pressure", "total_energy", "pair_energy"} <= progress["metrics"].keys()
    for index in range(13):
        frame = worker.ask("frame", ended_run, view="atoms", index=index)
        assert_whole(frame)
        assert (frame["index"], frame["count"], frame["step"], frame["rows"]) == (index, 13, 5 * index, 256)
        assert frame["columns"] == ["id", "type", "x", "y", "z", "vx", "vy", "vz"]
        assert all(isinstance(number, int) for number in frame["data"]["id"] + frame["data"]["type"])
    assert worker.ask("frame", ended_run, view="atoms", index="latest")["index"] == 12


def test_a_frame_has_the_numbers_of_the_dump(worker: Worker, ended_run: Path) -> None:
    dumped = (ended_run / "dump.lammpstrj").read_text().split("ITEM: TIMESTEP\n")[4].splitlines()
    rows = [line.split() for line in dumped[8:]]
    frame = worker.ask("frame", ended_run, view="atoms", index=3)
    assert frame["data"]["x"] == pytest.approx([float(row[2]) for row in rows], abs=0.000051)
    assert frame["data"]["vz"] == pytest.approx([float(row[7]) for row in rows], abs=0.000051)
    assert frame["box"][0] == [float(word) for word in dumped[4].split()]


def test_the_thermo_series_goes_up_to_the_asked_row(worker: Worker, ended_run: Path) -> None:
    series = worker.ask("frame", ended_run, view="thermo", index=4)
    assert (series["index"], series["count"]) == (4, 13)
    assert series["columns"]["Step"] == [0, 5, 10, 15, 20]
    assert series["columns"]["Temp"][0] == 1.44
    latest = worker.ask("frame", ended_run, view="thermo")
    assert latest["columns"]["Step"] == list(range(0, 61, 5))
    assert {len(column) for column in latest["columns"].values()} == {13}
    assert worker.refusal("frame", ended_run, view="thermo", index=13) == "no_frame"
    assert worker.refusal("frame", ended_run, view="thermo", format="png") == "bad_argument"


def test_the_parallel_command_gives_the_same_frames_as_the_sequential_one(worker: Worker, tmp_path: Path) -> None:
    run_lammps(tmp_path, watched_deck(steps=40, every=10), "parallel", cores=2)
    assert "on 2 procs" in (tmp_path / "log.lammps").read_text()
    assert worker.ask("progress", tmp_path)["fraction"] == 1.0
    frame = worker.ask("frame", tmp_path, view="atoms")
    assert (frame["count"], frame["step"], frame["rows"]) == (5, 40, 256)
    assert frame["data"]["id"] == list(range(1, 257))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_group_of_a_parallel_run_ends_all_its_ranks(
    worker: Worker, tmp_path: Path, number: signal.Signals
) -> None:
    mpirun = start_lammps(tmp_path, watched_deck(steps=10_000_000, every=1000), "parallel", cores=2)
    try:
        while not worker.count(tmp_path):
            assert mpirun.poll() is None, (tmp_path / "out").read_text()
        assert len(ranks_of(tmp_path)) == 6  # mpirun, its proxy, and two for each rank
    finally:
        kill_lammps(mpirun, tmp_path, number)
    assert mpirun.returncode == (15 if number == signal.SIGTERM else -9)
    # They are in sessions of their own: only mpirun had the signal, the others see it go.
    while ranks_of(tmp_path):
        time.sleep(0.01)


MANY_RUNS = """\
variable n index 30
units lj
lattice fcc 0.8442
region box block 0 3 0 3 0 3
create_box 1 box
create_atoms 1 box
mass 1 1.0
velocity all create 1.44 87287 loop geom
pair_style lj/cut 2.5
pair_coeff 1 1 1.0 1.0 2.5
fix 1 all nve
thermo 10
minimize 1e-4 1e-6 30 1000
run ${n}
run 61 upto every 10 "print hello"
thermo_style multi
reset_timestep 0
run 20 &
  post no
thermo_style yaml
run 20
thermo_style custom temp step press density
dump d all custom 10 dump.lammpstrj id element xs ys zs vx
dump_modify d element Cu time yes units yes
run 20
"""


def test_several_runs_of_one_deck_are_summed_and_every_thermo_style_is_read(worker: Worker, tmp_path: Path) -> None:
    run_lammps(tmp_path, MANY_RUNS)
    progress = worker.ask("progress", tmp_path)
    assert progress["text"] == "step 120 of 120"  # 30, from 31 up to 61, and three times 20
    assert progress["fraction"] == 1.0
    columns = worker.ask("frame", tmp_path, view="thermo")["columns"]
    assert columns["Step"][-9:] == [0, 10, 20, 20, 30, 40, 40, 50, 60]
    assert None not in columns["Temp"]
    assert columns["Density"][:-3] == [None] * (len(columns["Step"]) - 3)
    assert [round(number, 4) for number in columns["Density"][-3:]] == [0.8442] * 3
    frame = worker.ask("frame", tmp_path, view="atoms", index=1)
    assert_whole(frame)
    assert frame["data"]["element"] == ["Cu"] * 108
    assert frame["columns"] == ["id", "element", "x", "y", "z", "vx"]  # lengths, not fractions of the box
    assert 4 < max(frame["data"]["x"]) < 5.3
    assert worker.ask_whole("frame", tmp_path, view="atoms", format="png")[1].startswith(b"\x89PNG")


def test_the_progress_in_the_middle_of_several_runs_counts_those_to_come(worker: Worker, tmp_path: Path) -> None:
    run_lammps(tmp_path, MANY_RUNS)
    log = (tmp_path / "log.lammps").read_text()
    cut = log.index("Loop time", log.index("run 30\n"))
    (tmp_path / "log.lammps").write_text(log[: log.rindex("\n", 0, cut - 80)] + "\n")
    (tmp_path / "dump.lammpstrj").unlink()
    deck = MANY_RUNS.replace("run 61 upto every 10", "run 30 every 10")
    (tmp_path / "in.lammps").write_text(deck)
    progress = worker.ask("progress", tmp_path)
    assert progress["text"] == "step 29 of 120"
    (tmp_path / "in.lammps").write_text(deck + "jump SELF\n")
    progress = worker.ask("progress", tmp_path)  # in a loop nobody knows how often
    assert (progress["fraction"], progress["text"]) == (None, "step 30")


def test_a_failed_run_says_why_and_is_not_done(worker: Worker, tmp_path: Path) -> None:
    lammps = start_lammps(tmp_path, watched_deck(steps=40, every=10).replace("run 40", "run 20\nbogus\nrun 20"))
    assert lammps.wait() == 1
    progress = worker.ask("progress", tmp_path)
    assert progress["fraction"] == 0.5
    assert progress["text"].startswith("step 20 of 40; LAMMPS stopped: ERROR: Unknown command: bogus")


def test_a_run_that_ends_by_itself_before_its_last_step_is_done(worker: Worker, tmp_path: Path) -> None:
    halt = "variable now equal step\nfix enough all halt 10 v_now >= 20 error continue\n"
    deck = watched_deck(steps=100, every=10).replace("run 100", halt + "run 100")
    run_lammps(tmp_path, deck)
    progress = worker.ask("progress", tmp_path)
    assert (progress["fraction"], progress["text"]) == (1.0, "step 20 of 100")
    run_lammps(tmp_path, deck.replace("run 100", "minimize 0 0 7 100"))
    progress = worker.ask("progress", tmp_path)
    assert (progress["fraction"], progress["text"]) == (1.0, "step 7")


def test_the_dump_tells_the_step_while_the_log_is_late(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "in.lammps").write_text("variable n equal 200\nrun ${n} # all\n")
    assert worker.ask("progress", tmp_path)["fraction"] == 0.0
    (tmp_path / "log.lammps").write_text("LAMMPS (22 Jul 2025 - Update 4)\n")
    (tmp_path / "dump.lammpstrj").write_text(record(1000, THREE_ATOMS) + record(1050, THREE_ATOMS))
    progress = worker.ask("progress", tmp_path)
    assert (progress["fraction"], progress["text"]) == (0.25, "step 50 of 200")
    assert progress["metrics"] == {"step": 1050}


def test_a_deck_that_needs_files_is_refused_by_name(tmp_path: Path) -> None:
    for name, needed in (("eam", "Cu_u3.eam"), ("rhodo", "data.rhodo"), ("../lj", "does not exist")):
        refused = subprocess.run([sys.executable, DECKS, name], capture_output=True, text=True, check=False)
        assert refused.returncode == 1
        assert needed in refused.stderr
        assert refused.stderr.endswith("Decks that run by themselves: lj.\n")


# ---- torn, growing and replaced files ----


def test_a_torn_record_is_never_shown_and_appears_when_it_is_complete(worker: Worker, tmp_path: Path) -> None:
    first, second = record(0, THREE_ATOMS), record(10, THREE_ATOMS[::-1])
    dump = tmp_path / "dump.lammpstrj"
    dump.write_text(first)
    with dump.open("ab", buffering=0) as growing:
        for byte in second.encode():
            assert worker.count(tmp_path) == 1
            frame = worker.ask("frame", tmp_path, view="atoms")
            assert (frame["index"], frame["count"], frame["step"]) == (0, 1, 0)
            assert worker.refusal("frame", tmp_path, view="atoms", index=1) == "no_frame"
            growing.write(bytes([byte]))
    frame = worker.ask("frame", tmp_path, view="atoms")
    assert (frame["index"], frame["count"], frame["step"]) == (1, 2, 10)
    assert frame["data"]["id"] == [3, 2, 1]


def test_a_torn_record_is_not_shown_to_one_who_sees_the_file_for_the_first_time(worker: Worker, tmp_path: Path) -> None:
    first, second = record(0, THREE_ATOMS), record(10, THREE_ATOMS)
    for cut in range(len(second)):
        run = tmp_path / str(cut)
        run.mkdir()
        (run / "dump.lammpstrj").write_text(first + second[:cut])
        assert worker.ask("frame", run, view="atoms")["count"] == 1
        (run / "dump.lammpstrj").write_text(second[:cut])
        assert worker.refusal("frame", run, view="atoms") == "no_frame"


def test_records_across_the_pieces_in_which_a_file_is_scanned_are_found(worker: Worker, tmp_path: Path) -> None:
    # The scan takes a MiB at a time: records of about 100 kB and of 200 bytes lie across its borders.
    large = [f"{i} 1 {i % 4} 1.5 2.5" for i in range(5000)]
    records = [record(i, large if i % 50 == 0 else THREE_ATOMS) for i in range(1500)]
    (tmp_path / "dump.lammpstrj").write_text("".join(records))
    assert worker.count(tmp_path) == 1500
    for index in (0, 49, 50, 51, 550, 1450, 1499):
        frame = worker.ask("frame", tmp_path, view="atoms", index=index)
        assert_whole(frame)
        assert (frame["step"], frame["rows"]) == (index, 5000 if index % 50 == 0 else 3)


def test_a_replaced_a_shrunk_and_a_rewritten_dump_are_read_anew(worker: Worker, tmp_path: Path) -> None:
    dump = tmp_path / "dump.lammpstrj"
    dump.write_text("".join(record(step, THREE_ATOMS) for step in range(4)))
    assert worker.count(tmp_path) == 4
    other = tmp_path / "other"
    other.write_text("".join(record(step, THREE_ATOMS) for step in range(10, 17)))
    other.rename(dump)  # another inode, longer
    assert [worker.ask("frame", tmp_path, view="atoms", index=i)["step"] for i in (0, 6)] == [10, 16]
    other.write_text(dump.read_text().replace("TIMESTEP\n10\n", "TIMESTEP\n77\n"))
    other.rename(dump)  # another inode, the same end
    assert [worker.ask("frame", tmp_path, view="atoms", index=i)["step"] for i in (0, 6)] == [77, 16]
    dump.write_text(record(20, THREE_ATOMS))  # the same inode, shorter
    assert worker.ask("frame", tmp_path, view="atoms")["step"] == 20
    dump.write_text("".join(record(step, THREE_ATOMS) for step in range(30, 34)))  # the same inode, longer
    assert worker.count(tmp_path) == 4
    assert worker.ask("frame", tmp_path, view="atoms", index=0)["step"] == 30
    dump.unlink()
    assert worker.refusal("frame", tmp_path, view="atoms") == "no_frame"


def test_runs_that_were_forgotten_are_indexed_again(worker: Worker, tmp_path: Path) -> None:
    runs = [tmp_path / str(number) for number in range(12)]
    for number, run in enumerate(runs):
        run.mkdir()
        (run / "dump.lammpstrj").write_text("".join(record(step, THREE_ATOMS) for step in range(number + 1)))
    assert [worker.count(run) for run in runs + runs] == [*range(1, 13), *range(1, 13)]
    for run in (runs[5], runs[-1]):
        # In place, with the same end: only who reads it from the start again can notice.
        text = (run / "dump.lammpstrj").read_text().replace("TIMESTEP\n0\n", "TIMESTEP\n7\n")
        (run / "dump.lammpstrj").write_text(text + record(12, THREE_ATOMS))
    assert worker.ask("frame", runs[5], view="atoms", index=0)["step"] == 7  # it was forgotten
    assert worker.refusal("frame", runs[-1], view="atoms", index=0) == "unreadable"  # it is known with step 0


# ---- numbers and shapes ----


def test_numbers_that_json_does_not_have_are_null(worker: Worker, tmp_path: Path) -> None:
    atoms = ["1 1 nan 1 1.5", "2 1 -inf 1e999 2.5", "3 2 3.125 -nan 3.5"]
    (tmp_path / "dump.lammpstrj").write_text(record(0, atoms, box="pp pp pp\n0 4\n0 nan\n0 4"))
    frame = worker.ask("frame", tmp_path, view="atoms")
    assert frame["data"]["x"] == [None, None, 3.125]
    assert frame["data"]["y"] == [1.0, None, None]
    assert frame["box"][1] == [0.0, None]
    assert worker.refusal("frame", tmp_path, view="atoms", format="png") == "unreadable"  # no such box
    log = "LAMMPS (22 Jul)\nrun 10\nPer MPI rank memory\nPer MPI rank memory allocation\n Step Temp\n 0 nan\n 5 inf\n"
    (tmp_path / "log.lammps").write_text(log)
    assert worker.ask("frame", tmp_path, view="thermo")["columns"] == {"Step": [0, 5], "Temp": [None, None]}
    assert worker.ask("progress", tmp_path)["metrics"] == {"step": 5, "temperature": None}


def test_only_whole_rows_of_numbers_are_rows_of_the_series(worker: Worker, tmp_path: Path) -> None:
    rows = " 0 1.5\nWARNING: hot\n 5 x\n 6\n 7 1 2\n nan 2.5\n inf 3.5\n 1e300 4.5\n 10 5.5\n 15 6"
    log = f"LAMMPS (x)\nrun 20\nPer MPI rank memory allocation\n Step Temp\n{rows}"
    (tmp_path / "log.lammps").write_text(log)
    columns = worker.ask("frame", tmp_path, view="thermo")["columns"]
    assert columns == {"Step": [0, None, None, None, 10], "Temp": [1.5, 2.5, 3.5, 4.5, 5.5]}
    assert worker.ask("progress", tmp_path)["text"] == "step 10 of 20"
    with (tmp_path / "log.lammps").open("a") as growing:
        growing.write(".5\n")
    assert worker.ask("frame", tmp_path, view="thermo")["columns"]["Temp"][-1] == 6.5


def test_a_small_column_keeps_its_digits(worker: Worker, tmp_path: Path) -> None:
    atoms = ["1 0 0 0 0.00123456", "2 1 1 1 -0.00076543"]
    (tmp_path / "dump.lammpstrj").write_text(record(0, atoms, "id x y z vx"))
    assert worker.ask("frame", tmp_path, view="atoms")["data"]["vx"] == [0.001235, -0.000765]


def test_fractions_of_a_tilted_box_become_lengths(worker: Worker, tmp_path: Path) -> None:
    box = "xy xz yz pp pp pp\n-3 11 -3\n-2 10 1\n0 10 -2"  # outer bounds of a box of 10 x 10 x 10
    (tmp_path / "dump.lammpstrj").write_text(record(0, ["1 0 0 0", "2 0.5 0.5 0.5"], "id xs ys zs", box))
    frame = worker.ask("frame", tmp_path, view="atoms")
    assert frame["box"] == [[0.0, 10.0], [0.0, 10.0], [0.0, 10.0]]
    assert frame["tilt"] == [-3.0, 1.0, -2.0]
    assert [frame["data"][axis] for axis in "xyz"] == [[0.0, 4.0], [0.0, 4.0], [0.0, 5.0]]


def test_a_frame_without_atoms_is_a_frame(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "dump.lammpstrj").write_text(record(0, []) + record(5, THREE_ATOMS) + record(9, []))
    assert worker.ask("frame", tmp_path, view="atoms", index=0)["data"]["x"] == []
    assert worker.ask("frame", tmp_path, view="atoms")["step"] == 9
    assert worker.ask_whole("frame", tmp_path, view="atoms", format="png")[1].startswith(b"\x89PNG")


# ---- pictures ----


@pytest.mark.parametrize("width", [64, 333, 640, 2000])
def test_a_picture_has_the_asked_width_and_shows_the_atoms(worker: Worker, ended_run: Path, width: int) -> None:
    header, body = worker.ask_whole("frame", ended_run, view="atoms", index=12, format="png", width=width)
    assert (header["type"], header["bytes"]) == ("image/png", len(body))
    assert header["result"]["step"] == 60
    image = Image.open(io.BytesIO(body))
    image.load()
    assert image.size == (width, header["result"]["height"])
    middle = [image.getpixel((width // 2 + dx, image.height // 2)) for dx in range(-width // 10, width // 10)]
    assert max(sum(pixel) for pixel in middle) > 300  # type: ignore[arg-type]  # light, on a dark background


def test_pictures_and_json_answers_follow_one_another_in_order(worker: Worker, ended_run: Path) -> None:
    for number in range(100, 120):
        args = {"view": "atoms", "index": number % 13, "format": "json" if number % 3 else "png"}
        worker.send(json.dumps({"id": number, "method": "frame", "run": str(ended_run), "args": args}).encode())
    for number in range(100, 120):
        header, body = worker.receive()
        assert header["id"] == number
        assert header["result"]["index"] == number % 13
        assert body.startswith(b"\x89PNG") and body.endswith(b"IEND\xaeB`\x82") if number % 3 == 0 else body == b""


@pytest.mark.parametrize(
    "atoms",
    [
        ["1 1 nan nan nan"],
        ["1 1 1e300 -1e300 1e300", "2 1 1 1 1"],
        ["1 1 1e300 1e300 -1e300"],
        ["1 1 2 2 2"],
        ["1 1 1 1 0", "2 2 2 2 0", "3 3 3 3 0"],
        [f"{i} {i} 1 1 {i % 4}" for i in range(60)],
    ],
)
def test_odd_systems_have_a_picture_too(worker: Worker, tmp_path: Path, atoms: list[str]) -> None:
    (tmp_path / "dump.lammpstrj").write_text(record(0, atoms))
    _, body = worker.ask_whole("frame", tmp_path, view="atoms", format="png", width=200)
    assert Image.open(io.BytesIO(body)).size == (200, 150)


def test_what_a_library_prints_does_not_reach_the_answers(ended_run: Path) -> None:
    noisy = (
        "import os, runpy, sys, numpy as np\n"
        f"sys.path.insert(0, {str(WORKER.parent)!r})\n"
        "real = np.percentile\n"
        "def percentile(*words, **more):\n"
        "    print('noise', flush=True); os.write(1, b'noise')\n"
        "    return real(*words, **more)\n"
        "np.percentile = percentile\n"
        f"runpy.run_path({str(WORKER)!r}, run_name='__main__')\n"
    )
    worker = Worker(sys.executable, "-c", noisy)
    header, body = worker.ask_whole("frame", ended_run, view="atoms", format="png")
    assert header["bytes"] == len(body)
    assert body.startswith(b"\x89PNG")
    assert worker.ask("progress", ended_run)["fraction"] == 1.0
    assert worker.close() == 0


# ---- hostile files ----


@pytest.mark.parametrize("name", ["dump.lammpstrj", "log.lammps", "in.lammps"])
def test_links_fifos_and_directories_in_place_of_files_are_refused(worker: Worker, tmp_path: Path, name: str) -> None:
    question = {"view": "atoms" if name.startswith("dump") else "thermo"}
    asked = ("frame", question) if name != "in.lammps" else ("progress", {})
    path = tmp_path / name
    path.symlink_to("/etc/passwd")
    assert worker.refusal(asked[0], tmp_path, **asked[1]) == "unreadable"
    path.unlink()
    os.mkfifo(path)
    assert worker.refusal(asked[0], tmp_path, **asked[1]) == "unreadable"
    path.unlink()
    path.mkdir()
    assert worker.refusal(asked[0], tmp_path, **asked[1]) == "unreadable"
    path.rmdir()
    path.symlink_to("/dev/zero")
    assert worker.refusal(asked[0], tmp_path, **asked[1]) == "unreadable"


def test_a_run_directory_that_is_a_link_or_missing_is_refused(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert worker.refusal("progress", tmp_path / "link") == "unreadable"
    assert worker.refusal("progress", tmp_path / "missing") == "unreadable"


def test_a_header_that_claims_too_many_atoms_costs_no_memory(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "dump.lammpstrj").write_text(record(0, THREE_ATOMS))
    assert worker.count(tmp_path) == 1
    before = worker.memory_kib()
    for claim in ("1" + "0" * 12, "9" * 4000, "100000000", "-3", "x"):
        torn = record(5, THREE_ATOMS).replace("ATOMS\n3\n", f"ATOMS\n{claim}\n")
        (tmp_path / "dump.lammpstrj").write_text(record(0, THREE_ATOMS) + torn)
        assert worker.refusal("frame", tmp_path, view="atoms") == "unreadable"
        assert worker.ask("frame", tmp_path, view="atoms", index=0)["rows"] == 3  # what was good stays good
    assert worker.memory_kib() - before < 20_000


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\xff\xfe" * 30_000,
        b"ITEM: TIMESTEP\n",
        b"not a dump\n",
        b"ITEM: ATOMS id\n1\n",
        b"\n" * 1000,
        b"ITEM: TIMESTEP\n99\nITEM: NUMBER OF ENTRIES\n2\n",
        record(99, ["1 1 0 0"]).encode(),
        record(99, ["1 1 0 0 0", "2 1 0 0"]).encode(),
        record(99, ["1 1 a 0 0", "2 1 0 0"]).encode(),
        record(99, ["1 1 0 0 0", "2 1 0 0 x"]).encode(),
        record(99, ["1 1 0 0 0", "2 1 0 0 \0"]).encode(),
        record(99, ["1 1 0 0 0"], columns="id type x y x").encode(),
        record(99, ["1 1 0 0 0"], box="abc origin pp pp pp\n1 0 0 0\n0 1 0 0\n0 0 1 0").encode(),
    ],
)
def test_garbage_in_a_dump_is_an_error_and_the_frames_before_it_stay(
    worker: Worker, tmp_path: Path, garbage: bytes
) -> None:
    (tmp_path / "dump.lammpstrj").write_bytes(record(0, THREE_ATOMS).encode() + garbage)
    header, _ = worker.ask_whole("frame", tmp_path, view="atoms", format="png")
    if garbage == b"ITEM: TIMESTEP\n":  # only torn
        assert header["result"]["index"] == 0
    else:
        assert header["error"]["code"] == "unreadable"
        assert "dump.lammpstrj" in header["error"]["text"]
    assert worker.ask("frame", tmp_path, view="atoms", index=0)["data"]["z"] == [1.5, 2.5, 3.5]
    assert worker.ask("progress", tmp_path)["frames"]["thermo"] == 0


def test_words_in_place_of_coordinates_are_told_and_cannot_be_drawn(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "dump.lammpstrj").write_text(record(0, ["1 1 a 2 \u00e9", "2 1 b 3 5"]))
    data = worker.ask("frame", tmp_path, view="atoms")["data"]
    assert (data["x"], data["y"], data["z"]) == (["a", "b"], [2.0, 3.0], ["\u00e9", "5"])
    header, _ = worker.ask_whole("frame", tmp_path, view="atoms", format="png")
    assert header["error"]["text"] == "The dump has no coordinates (x y z) that can be drawn."
    (tmp_path / "dump.lammpstrj").write_text(record(0, ["1 1 a 2 3"], "id type xs ys zs"))
    header, _ = worker.ask_whole("frame", tmp_path, view="atoms")
    assert header["error"]["text"].endswith("cannot be read: a word where a coordinate should be.")


def test_garbage_in_a_log_is_an_error(worker: Worker, tmp_path: Path) -> None:
    log = tmp_path / "log.lammps"
    for garbage in (b"hello\nworld\n", b"\x00" * 100_000 + b"\n", b"\xff\xfe\n"):
        log.write_bytes(garbage)
        assert worker.refusal("progress", tmp_path) == "unreadable"
        assert worker.refusal("frame", tmp_path, view="thermo") == "unreadable"
    log.write_bytes(b"LAMMPS (\n" + b"run 9999999999999999999999999\nrun\nrun -5\nrun \xff\n" + b"Loop time of \n")
    assert worker.ask("progress", tmp_path)["fraction"] is None
    assert worker.refusal("frame", tmp_path, view="thermo") == "no_frame"


def test_a_log_without_line_ends_is_not_kept(worker: Worker, tmp_path: Path) -> None:
    worker.ask("progress", tmp_path)
    before = worker.memory_kib()
    (tmp_path / "log.lammps").write_bytes(b"LAMMPS (x)\n" + b"x" * 40_000_000)
    worker.ask("progress", tmp_path)
    assert worker.memory_kib() - before < 20_000


# ---- hostile questions ----


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"not json",
        b"{",
        b"[]",
        b"7",
        b"null",
        b"\xff\xfe\x00",
        b'{"method": "progress", "run": "/"}',
        b'{"id": "7", "method": "progress", "run": "/"}',
        b'{"id": true, "method": "progress", "run": "/"}',
        b'{"id": NaN, "method": "progress", "run": "/"}',
        b'{"id": ' + b"9" * 5000 + b"}",
        b"[" * 200_000,
        b'{"id": 7, "args": ' + b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
        b'{"id": 7, "method": "progress", "run": "/' + b"x" * (1 << 20) + b'"}',
        b"x" * (5 << 20),
    ],
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
        ({"method": "progress", "run": "/tmp\0x"}, "bad_argument"),
        ({"method": "progress", "run": "/" + "x" * 5000}, "unreadable"),
        ({"method": "progress", "run": "/\ud800"}, "unreadable"),
        ({"method": "frame", "run": "/tmp", "args": [1]}, "bad_argument"),
        ({"method": "frame", "run": "/tmp", "args": {"view": {}}}, "bad_argument"),
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
        {"view": "atom"},
        {"view": "atoms", "index": -1},
        {"view": "atoms", "index": 1.0},
        {"view": "atoms", "index": True},
        {"view": "atoms", "index": "12"},
        {"view": "atoms", "index": None},
        {"view": "atoms", "format": "gif"},
        {"view": "atoms", "format": ["png"]},
        {"view": "atoms", "format": "png", "width": 63},
        {"view": "atoms", "format": "png", "width": 2001},
        {"view": "atoms", "format": "png", "width": "640"},
        {"view": "atoms", "width": 640},
        {"view": "thermo", "format": "png"},
        {"view": "atoms", "file": "/etc/passwd"},
    ],
)
def test_a_wrong_argument_is_refused(worker: Worker, ended_run: Path, args: dict[str, Any]) -> None:
    assert worker.refusal("frame", ended_run, **args) == "bad_argument"


def test_an_index_that_is_not_there_is_refused_with_how_many_there_are(worker: Worker, ended_run: Path) -> None:
    header, _ = worker.ask_whole("frame", ended_run, view="atoms", index=13)
    assert header["error"] == {
        "code": "no_frame",
        "text": "There is no frame 13: the run has 13 frames so far.",
    }
    assert worker.refusal("frame", ended_run, view="atoms", index=10**30) == "no_frame"
