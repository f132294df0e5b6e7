"""The log of a run: its thermo series.

Place: worker.py asks `ThermoLog` for the series (the view "thermo") and, with pace.py, for the progress of a run.

LAMMPS buffers its log by 4 KiB: without `thermo_modify flush yes` in the deck, after the last `thermo_style`, about
45 rows come late (`-nonbuf` does not change that: measured with 22 Jul 2025 update 4).

Invariants: only lines with their newline count. The styles `one`, `custom`, `multi` and `yaml` are read; where a run
has columns that another run of the deck has not, they are nan there.
"""

from __future__ import annotations

import math
import re
from array import array
from typing import Any

import numpy as np
from growing import GrowingFile, UnanswerableError
from pace import Deck, Pace
from record import STEP_MAX, nullable

NAME = "log.lammps"
LINE_BYTES_MAX = 64 << 10  # of a longer line only the head is looked at
COLUMNS_MAX = 256
VALUES_MAX = 4_000_000  # rows after these are not kept; the progress goes on
SCAN_BYTES_MAX = 64 << 20  # for one question: about a second

METRIC_NAMES = {
    "Temp": "temperature",
    "Press": "pressure",
    "PotEng": "potential_energy",
    "KinEng": "kinetic_energy",
    "TotEng": "total_energy",
    "E_pair": "pair_energy",
    "E_mol": "molecular_energy",
    "Volume": "volume",
    "Density": "density",
}

_LOOP_TIME = re.compile(rb"Loop time of \S+ on \d+ procs for (\d{1,18}) steps")
_MULTI_HEAD = re.compile(rb"-{3,} Step\s+(\S+) -+ CPU =\s+(\S+)")
_MULTI_PAIR = re.compile(rb"(\S+)\s*=\s*(\S+)")


class ThermoLog(GrowingFile):
    """The thermo series of a run, and its pace."""

    def __init__(self, run: str) -> None:
        super().__init__(run, NAME, SCAN_BYTES_MAX)
        self._deck = Deck(run)

    def forget(self) -> None:
        """Know of no row and no run command."""
        self.rows = 0
        self._columns: dict[str, array[float]] = {}
        self._last_row: dict[str, float] = {}
        self._error = ""
        self._pace = Pace()
        self._partial = b""
        self._foreign: bool | None = None  # until the first line was seen
        self._table: list[str] | None = None  # the names of the table we are in; empty before its header line
        self._multi: dict[str, float] = {}  # a row of the style `multi`, so far

    def update(self) -> None:
        """Read what was written since the last look; refuse a file that is no log of LAMMPS."""
        super().update()
        if self._foreign:
            raise UnanswerableError("unreadable", f"{NAME} is not a log that LAMMPS wrote.")

    def take(self, chunk: bytes) -> None:
        """Read the complete lines of the chunk."""
        *lines, partial = (self._partial + chunk).split(b"\n")
        self._partial = partial[:LINE_BYTES_MAX]
        if self._foreign is None and lines:
            self._foreign = not lines[0].startswith(b"LAMMPS (")
        if not self._foreign:
            for line in lines:
                self._line(line[:LINE_BYTES_MAX])

    def _line(self, line: bytes) -> None:
        if line.startswith(b"Per MPI rank memory allocation"):
            self._table = []
            self._pace.loop_began()
        elif loop := _LOOP_TIME.match(line):
            self._row(self._multi)
            self._multi, self._table = {}, None
            self._pace.loop_ended(int(loop[1]))
        elif line.startswith(b"ERROR"):
            self._error = line.decode("utf-8", "replace")[:300]
        elif line.startswith(b"Total wall time:"):
            self._pace.finished = True
        elif self._table is not None:
            self._table_line(line, self._table)
        elif line.lstrip().startswith((b"run", b"minimize", b"rerun")) and b"$" not in line:
            # With a variable in it, it was echoed as written; the next line has the number.
            words = line.decode("utf-8", "replace").split("#")[0].split()
            if words[0] in {"run", "minimize", "rerun"}:
                self._pace.command(words)

    def _table_line(self, line: bytes, names: list[str]) -> None:
        if head := _MULTI_HEAD.match(line):
            self._row(self._multi)
            self._multi = _numbered([("Step", head[1]), ("CPU", head[2])])
        elif self._multi:
            pairs = [(name.decode("utf-8", "replace"), word) for name, word in _MULTI_PAIR.findall(line)]
            self._multi.update(_numbered(pairs))
        elif line.startswith(b"keywords: ["):
            self._table = [word.strip(" '") for word in line.decode("utf-8", "replace")[11:].split(",")][:-1]
        elif names:
            words = line.removeprefix(b"  - [").rstrip(b"] ").replace(b",", b" ").split()
            row = _numbered(zip(names, words, strict=False))
            # A warning or a command between two rows is not a row.
            if len(words) == len(names) and len(row) == len(set(names)):
                self._row(row)
        elif not line.startswith((b"---", b"WARNING")):
            self._table = line.decode("utf-8", "replace").split()[:COLUMNS_MAX]

    def _row(self, row: dict[str, float]) -> None:
        if not row:
            return
        self._last_row = row
        step = row.get("Step", math.nan)
        if abs(step) < STEP_MAX:
            self._pace.shown(int(step))
        if (self.rows + 1) * max(len(self._columns), len(row)) > VALUES_MAX:
            return
        for name in row:
            if name not in self._columns and len(self._columns) < COLUMNS_MAX:
                self._columns[name] = array("d", [math.nan]) * self.rows
        for name, column in self._columns.items():
            column.append(row.get(name, math.nan))
        self.rows += 1

    def series(self, index: int) -> dict[str, list[Any]]:
        """Return each column up to and with row `index`."""
        return {name: _plain(name, np.array(column[: index + 1])) for name, column in self._columns.items()}

    def progress(self, dumped: tuple[int, int] | None) -> dict[str, Any]:
        """Return fraction, text and metrics; `dumped` is the first and the last step in the dump."""
        fraction, text, step = self._pace.report(self._deck, dumped)
        metrics: dict[str, float | int | None] = {} if step is None else {"step": step}
        for name, value in self._last_row.items():
            if name != "Step":
                metrics[METRIC_NAMES.get(name, name)] = value if math.isfinite(value) else None
        if self._error:
            text = f"{text}; LAMMPS stopped: {self._error}"
        return {"fraction": fraction, "text": text, "metrics": metrics}


def _numbered(pairs: Any) -> dict[str, float]:
    """Return the pairs of a name and a word whose word is a number."""
    row: dict[str, float] = {}
    for name, word in pairs:
        try:
            row[name] = float(word)
        except ValueError:
            continue
    return row


def _plain(name: str, numbers: Any) -> list[Any]:
    plain = nullable(numbers)
    if name in {"Step", "Atoms"}:
        return [None if x is None or abs(x) >= STEP_MAX else int(x) for x in plain]
    return list(plain)
