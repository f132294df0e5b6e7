"""The dump of a run: where its whole records are.

Place: worker.py asks `Dump` for the count of frames and for one frame; record.py knows what a record is.

Invariants:
- A frame is counted only when its whole record is in the file: the header and one line for each atom, the last
  newline included. LAMMPS writes a record in many pieces, so the end of the file is mostly half a record.
- After the first record that makes no sense nothing is counted any more; the frames before it stay readable.
"""

from __future__ import annotations

import os
from array import array

import numpy as np
from growing import GrowingFile, UnanswerableError, opened
from record import RECORD_BYTES_MAX, VALUES_MAX, DamagedError, Frame, Header, parse

NAME = "dump.lammpstrj"
RECORDS_MAX = 1_000_000
HEADER_LINE_BYTES_MAX = 16 << 10


class Dump(GrowingFile):
    """The index of a dump: where its whole records are."""

    def __init__(self, run: str) -> None:
        super().__init__(run, NAME)

    def forget(self) -> None:
        """Know of no record."""
        self.damage = ""
        self.steps = array("q")
        self._ends = array("q")
        self._header = Header()
        self._lines_missing = 0
        self._partial = b""

    @property
    def count(self) -> int:
        """The whole frames found so far."""
        return len(self._ends)

    def take(self, chunk: bytes) -> None:
        """Count the lines of the chunk against what the record they belong to still needs."""
        if self.damage:
            return
        try:
            self._count_lines(chunk)
        except DamagedError as damaged:
            self.damage = f"{NAME} is damaged after frame {self.count - 1}: {damaged}."
            self._partial = b""

    def _count_lines(self, chunk: bytes) -> None:
        newlines = np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n"))
        taken, start = 0, 0  # lines, and the byte after them
        while taken < len(newlines):
            if self._lines_missing:
                lines = min(self._lines_missing, len(newlines) - taken)
                taken += lines
                self._lines_missing -= lines
                start = int(newlines[taken - 1]) + 1
                if not self._lines_missing:
                    self._record_ended(self.scanned + start)
                continue
            line = self._partial + chunk[start : int(newlines[taken])]
            self._partial = b""
            start = int(newlines[taken]) + 1
            taken += 1
            if self._header.feed(line):
                assert self._header.natoms is not None
                self._lines_missing = self._header.natoms
                if not self._lines_missing:
                    self._record_ended(self.scanned + start)
        if not self._lines_missing:
            self._partial += chunk[start:]
            if len(self._partial) > HEADER_LINE_BYTES_MAX:
                raise DamagedError("a header line without an end")
        if self.scanned + len(chunk) - self._last_end() > RECORD_BYTES_MAX:
            raise DamagedError("a record larger than a frame may be")

    def _last_end(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _record_ended(self, end: int) -> None:
        if end - self._last_end() > RECORD_BYTES_MAX:
            raise DamagedError("a record larger than a frame may be")
        if len(self._ends) == RECORDS_MAX:
            raise DamagedError("more frames than can be indexed")
        assert self._header.step is not None
        self._ends.append(end)
        self.steps.append(self._header.step)
        self._header = Header()

    def frame(self, index: int, values_max: int = VALUES_MAX) -> Frame:
        """Read one whole frame; its index must be one of `range(count)`."""
        start = self._ends[index - 1] if index else 0
        try:
            with opened(self.run, self.name) as fd:
                record = _read(fd, start, self._ends[index] - start)
            return parse(record, self.steps[index], values_max)
        except (DamagedError, FileNotFoundError) as wrong:
            reason = "it is gone" if isinstance(wrong, FileNotFoundError) else str(wrong)
            raise UnanswerableError("unreadable", f"Frame {index} of {NAME} cannot be read: {reason}.") from None


def _read(fd: int, start: int, length: int) -> bytes:
    record = bytearray()
    while len(record) < length:
        piece = os.pread(fd, length - len(record), start + len(record))
        if not piece:
            raise DamagedError("the file was cut while it was read")
        record += piece
    return bytes(record)
