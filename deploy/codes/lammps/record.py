"""One record of a dump: its header, and the values of its atoms.

Place: dump.py finds the records and feeds headers; picture.py draws the `Frame` that `parse` makes of a record.

Invariant: the file is hostile. What a header claims is checked against bounds before memory is spent on it, and a
record that does not have exactly one value for each atom and column is damaged, never padded or cut.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from growing import UnanswerableError

RECORD_BYTES_MAX = 256 << 20
COLUMNS_MAX = 256
VALUES_MAX = 16_000_000  # of one record: two million atoms with eight columns
WORDS_MAX = 4_000_000  # of one record with columns of words (element names): each costs a Python object
STEP_MAX = 1 << 53  # a larger number is not exact in JavaScript

# The lines that follow each item of a record's header.
HEADER_ITEMS = {b"UNITS": 1, b"TIME": 1, b"TIMESTEP": 1, b"NUMBER OF ATOMS": 1, b"BOX BOUNDS": 3}
WHOLE_NUMBERS = frozenset({"id", "type", "mol", "proc", "procp1", "ix", "iy", "iz"})
SCALED = {"xs": "x", "ys": "y", "zs": "z", "xsu": "xu", "ysu": "yu", "zsu": "zu"}

Floats = npt.NDArray[np.float64]
Column = Floats | list[str]


class DamagedError(Exception):
    """The bytes are not a record as LAMMPS writes it."""


@dataclass
class Header:
    """The head of one record, fed line by line."""

    step: int | None = None
    natoms: int | None = None
    columns: list[str] = field(default_factory=list)
    bounds: list[list[float]] = field(default_factory=list)  # lo, hi and, for a tilted box, its tilt factor
    _item: bytes = b""
    _values: list[bytes] = field(default_factory=list)
    _missing: int = 0

    @property
    def begun(self) -> bool:
        """Whether a line was fed."""
        return bool(self._item)

    def feed(self, line: bytes) -> bool:
        """Take one line without its newline; true when the header is complete and the atoms follow."""
        if self._missing:
            self._values.append(line)
            self._missing -= 1
            if not self._missing:
                self._item_ended()
            return False
        if not line.startswith(b"ITEM: "):
            raise DamagedError("a line that is no ITEM where a record should begin")
        self._item = line[len(b"ITEM: ") :].strip()
        self._values = []
        if self._item.startswith(b"ATOMS"):
            self._complete()
            return True
        known = [name for name in HEADER_ITEMS if self._item.startswith(name)]
        if not known:
            raise DamagedError("an ITEM that a dump of atoms does not have")
        # "TIME" begins "TIMESTEP" as well: the longer name counts.
        self._item = max(known, key=len)
        self._missing = HEADER_ITEMS[self._item]
        return False

    def _item_ended(self) -> None:
        try:
            if self._item == b"TIMESTEP":
                self.step = int(self._values[0])
            elif self._item == b"NUMBER OF ATOMS":
                self.natoms = int(self._values[0])
            elif self._item == b"BOX BOUNDS":
                self.bounds = [[float(word) for word in line.split()] for line in self._values]
        except ValueError:
            raise DamagedError("a header with a word where a number should be") from None

    def _complete(self) -> None:
        if self.step is None or self.natoms is None or not self.bounds:
            raise DamagedError("a header without its step, number of atoms or box")
        if len({len(row) for row in self.bounds}) != 1 or len(self.bounds[0]) not in {2, 3}:
            raise DamagedError("a box that is neither orthogonal nor tilted")
        words = self._item.split()[1:]
        if not 1 <= len(words) <= COLUMNS_MAX or len(set(words)) != len(words):
            raise DamagedError("no columns, too many, or the same one twice")
        self.columns = [word.decode("utf-8", "replace") for word in words]
        if self.natoms < 0 or not -STEP_MAX < self.step < STEP_MAX:
            raise DamagedError("an impossible number of atoms or step")
        # Each value takes two bytes at least: its digit and what follows it.
        if self.natoms * len(words) > min(VALUES_MAX, RECORD_BYTES_MAX // 2):
            raise DamagedError("a header that claims more atoms than a frame may have")


@dataclass(frozen=True)
class Frame:
    """One record, read: the box as corner and tilt, and one column of values for each name."""

    step: int
    natoms: int
    box: list[list[float]]
    tilt: list[float] | None
    columns: dict[str, Column]

    def as_json(self) -> dict[str, Any]:
        """Return what a browser draws from; numbers that JSON has no word for are null."""
        answer: dict[str, Any] = {
            "step": self.step,
            "box": [nullable(np.array(side)) for side in self.box],
            "columns": list(self.columns),
            "rows": self.natoms,
            "data": {name: _column_as_json(name, column) for name, column in self.columns.items()},
        }
        if self.tilt is not None:
            answer["tilt"] = nullable(np.array(self.tilt))
        return answer


def nullable(numbers: Floats) -> list[float | None]:
    """Return the numbers as a list with None for nan and the infinities."""
    finite = np.isfinite(numbers)
    plain: list[float | None] = numbers.tolist()
    if not finite.all():
        for i in np.flatnonzero(~finite).tolist():
            plain[i] = None
    return plain


def _column_as_json(name: str, column: Column) -> list[Any]:
    if isinstance(column, list):
        return column
    finite = column[np.isfinite(column)]
    largest = float(np.abs(finite).max()) if len(finite) else 0.0
    if name in WHOLE_NUMBERS and len(finite) == len(column) and largest < STEP_MAX:
        whole: list[Any] = column.astype(np.int64).tolist()
        return whole
    # Four decimals; more where the whole column is small (velocities in real units are about 0.01).
    decimals = 4 if largest == 0 else min(12, max(4, 3 - int(np.floor(np.log10(largest)))))
    return list(nullable(np.round(column, decimals) if largest < STEP_MAX else column))


def parse(record: bytes, step: int, values_max: int) -> Frame:
    """Return the frame of one whole record, which must be of this step."""
    header, body = _split(record)
    assert header.natoms is not None
    if header.step != step:
        raise DamagedError("the file was written again while it was read")
    if header.natoms * len(header.columns) > values_max:
        raise UnanswerableError(
            "unreadable",
            f"The frame has {header.natoms:,} atoms, too many to be sent as numbers: ask for a png.",
        )
    columns = _columns(body, header.columns, header.natoms)
    corner, tilt = _cell(header.bounds)
    return Frame(step, header.natoms, corner, tilt, _unscaled(columns, corner, tilt))


def _split(record: bytes) -> tuple[Header, bytes]:
    header, start = Header(), 0
    while True:
        end = record.find(b"\n", start)
        if end < 0:
            raise DamagedError("a record without its atoms")
        complete = header.feed(record[start:end])
        start = end + 1
        if complete:
            return header, record[start:]


def _columns(body: bytes, names: list[str], natoms: int) -> dict[str, Column]:
    first = body[: body.find(b"\n")].split()
    if natoms and len(first) != len(names):
        raise DamagedError("an atom without one value for each column")
    if all(_is_number(word) for word in first):
        table = _numbers(body).reshape(-1)
        if len(table) != natoms * len(names):
            raise DamagedError("atoms without one value for each column")
        rows = table.reshape(natoms, len(names))
        return {name: rows[:, i] for i, name in enumerate(names)}
    if natoms * len(names) > WORDS_MAX:
        raise DamagedError("too many words")
    words = body.split()
    if len(words) != natoms * len(names):
        raise DamagedError("atoms without one value for each column")
    return {name: _words(words[i :: len(names)]) for i, name in enumerate(names)}


def _is_number(word: bytes) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _numbers(body: bytes) -> Floats:
    with warnings.catch_warnings():
        # numpy only warns when it stops at a word that is no number.
        warnings.simplefilter("error")
        try:
            return np.fromstring(body, dtype=np.float64, sep=" ")
        except (DeprecationWarning, ValueError):
            raise DamagedError("a word where a number should be") from None


def _words(words: list[bytes]) -> Column:
    try:
        return np.array([float(word) for word in words])
    except ValueError:
        return [word.decode("utf-8", "replace") for word in words]


def _cell(bounds: list[list[float]]) -> tuple[list[list[float]], list[float] | None]:
    """Return lo and hi of the box itself, and its tilt: a tilted box is dumped by its outer bounds."""
    if len(bounds[0]) == 2:
        return bounds, None
    (x, y, z), (xy, xz, yz) = [row[:2] for row in bounds], [row[2] for row in bounds]
    return [
        [x[0] - min(0.0, xy, xz, xy + xz), x[1] - max(0.0, xy, xz, xy + xz)],
        [y[0] - min(0.0, yz), y[1] - max(0.0, yz)],
        z,
    ], [xy, xz, yz]


def _unscaled(columns: dict[str, Column], box: list[list[float]], tilt: list[float] | None) -> dict[str, Column]:
    """Return the columns with coordinates that are fractions of the box replaced by lengths."""
    xy, xz, yz = tilt or (0.0, 0.0, 0.0)
    sides = [hi - lo for lo, hi in box]
    replaced: dict[str, Column] = {}
    for names in (("xs", "ys", "zs"), ("xsu", "ysu", "zsu")):
        x, y, z = (columns.get(name) for name in names)
        if isinstance(x, list) or isinstance(y, list) or isinstance(z, list):
            raise DamagedError("a word where a coordinate should be")
        if x is None or y is None or z is None or SCALED[names[0]] in columns:
            continue
        replaced[names[0]] = box[0][0] + x * sides[0] + y * xy + z * xz
        replaced[names[1]] = box[1][0] + y * sides[1] + z * yz
        replaced[names[2]] = box[2][0] + z * sides[2]
    return {SCALED[name] if name in replaced else name: replaced.get(name, column) for name, column in columns.items()}
