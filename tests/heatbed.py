"""The code "heat" for its tests: started as deploy/codes/heat.toml says, and what its numbers must be."""

from __future__ import annotations

import atexit
import ctypes
import json
import math
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from test_lammps_worker import Worker

CODES = Path(__file__).parents[1] / "deploy" / "codes"
CODE = tomllib.loads((CODES / "heat.toml").read_text())
SINE = {"nx": 65, "ny": 33, "length_x": 1.5, "diffusivity": 0.5, "steps": 200, "every": 20, "start": "sine"}


def filled(word: str, cores: int = 1) -> str:
    return word.format(cores=cores, prefix=sys.prefix)


def start_heat(
    run: Path, heat: dict[str, Any], mode: str = "sequential", cores: int = 1, **more: str
) -> subprocess.Popen[str]:
    run.mkdir(exist_ok=True)
    (run / "heat.json").write_text(json.dumps(heat))
    words = [filled(word, cores) for word in CODE["modes"][mode]["command"]]
    environment = {name: filled(word) for name, word in CODE["environment"].items()} | more
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    program = subprocess.Popen(words, cwd=run, env=environment, text=True, **pipes)
    atexit.register(program.kill)  # a test that fails leaves none behind
    return program


def run_heat(run: Path, heat: dict[str, Any], mode: str = "sequential", cores: int = 1) -> str:
    """Returns what it said."""
    program = start_heat(run, heat, mode, cores)
    said, complained = program.communicate(timeout=60)
    assert (program.returncode, complained) == (0, "")
    return said


def heat_worker(**environment: str) -> Worker:
    words = [filled(word) for word in CODE["analysis"]["command"]]
    return Worker("env", *(f"{name}={value}" for name, value in environment.items()), *words)


def history(worker: Worker, run: Path, **args: Any) -> dict[str, list[Any]]:
    return worker.ask("frame", run, view="history", **args)["columns"]


def decay_of_a_step(heat: dict[str, Any], dt: float) -> float:
    """The factor by which one explicit step multiplies the sine: an eigenvector of the scheme, exactly."""
    decay = 1.0
    for axis in "xy":
        points, length, mode = heat[f"n{axis}"], heat.get(f"length_{axis}", 1.0), heat.get(f"mode_{axis}", 1)
        ratio = heat["diffusivity"] * dt / (length / (points - 1)) ** 2
        decay -= 4 * ratio * math.sin(math.pi * mode / (2 * (points - 1))) ** 2
    return decay


def shape(heat: dict[str, Any]) -> list[list[float]]:
    """The sine without its amplitude, [y][x]."""
    waves = []
    for axis in "yx":
        points, mode = heat[f"n{axis}"], heat.get(f"mode_{axis}", 1)
        waves.append([math.sin(math.pi * mode * i / (points - 1)) for i in range(1, points - 1)])
        waves[-1] = [0.0, *waves[-1], 0.0]
    return [[down * along for along in waves[1]] for down in waves[0]]


class Hdf5:
    """A few functions of the HDF5 library, to make files that heat never writes."""

    def __init__(self) -> None:
        names = subprocess.run(["ldd", Path(sys.prefix, "bin", "heat")], capture_output=True, text=True, check=True)
        path = next(line.split()[2] for line in names.stdout.splitlines() if "hdf5" in line)
        self._library = ctypes.CDLL(path)
        assert self("H5open") >= 0

    def __call__(self, name: str, *words: Any) -> int:
        function = getattr(self._library, name)
        function.restype = ctypes.c_int64 if name.split("H5")[1][1:] in self.MAKERS else ctypes.c_int
        done = function(*(word.encode() if isinstance(word, str) else ctypes.c_int64(word) if isinstance(word, int)
                          else word for word in words))  # fmt: skip
        assert done >= 0, name
        return done

    MAKERS = ("open", "create", "open2", "create2", "create_simple")

    def constant(self, name: str) -> int:
        return ctypes.c_int64.in_dll(self._library, name).value

    def opened(self, path: Path) -> int:
        return self("H5Fopen", str(path), 1, 0)  # to read and write
