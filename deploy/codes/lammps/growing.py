"""Files of a run directory that grow while they are read.

Place: under dump.py and thermo.py, which say what the bytes mean; worker.py asks those two.

Invariants:
- Only fixed names are opened, below the run directory, never through a symbolic link, and only regular
  files: the deck is the user's and may leave anything under those names, a link or a FIFO included.
- Each byte is scanned once. What was learned is forgotten when the file is no longer the one it was learned
  from: another inode, shorter than before, or other bytes just before the place the scan had reached.
- One question scans a bounded number of bytes; `behind` says how many are left for the next.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

CHUNK_BYTES = 1 << 20
SCAN_BYTES_MAX = 1 << 30  # of one file for one question: about a second
MARK_BYTES = 256


class UnanswerableError(Exception):
    """A question has no answer; `code` is for programs and `text` is one sentence for the user."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@contextmanager
def opened(run: str, name: str) -> Iterator[int]:
    """Open the regular file `name` of the directory `run`; FileNotFoundError if there is no such name."""
    try:
        directory = os.open(run, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as refused:
        raise UnanswerableError("unreadable", f"The run directory cannot be read: {refused.strerror}.") from None
    try:
        # O_NONBLOCK: a FIFO of that name must not hold us.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=directory)
    except FileNotFoundError:
        raise
    except OSError as refused:
        raise UnanswerableError("unreadable", f"{name} cannot be read: {refused.strerror}.") from None
    finally:
        os.close(directory)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise UnanswerableError("unreadable", f"{name} is not a regular file.")
        yield fd
    finally:
        os.close(fd)


class GrowingFile:
    """What has been learned so far from one file that a program appends to."""

    def __init__(self, run: str, name: str, scan_bytes_max: int = SCAN_BYTES_MAX) -> None:
        self.run = run
        self.name = name
        self.scan_bytes_max = scan_bytes_max
        self._start_over()

    def forget(self) -> None:
        """Drop all that was learned: the file is another one now."""
        raise NotImplementedError

    def take(self, chunk: bytes) -> None:
        """Learn from the next bytes of the file, which begin at `self.scanned`."""
        raise NotImplementedError

    def _start_over(self) -> None:
        self._identity: tuple[int, int] | None = None
        self._mark = b""
        self.scanned = 0
        self.behind = 0
        self.forget()

    def update(self) -> None:
        """Learn from what was written since the last look."""
        try:
            with opened(self.run, self.name) as fd:
                self._scan(fd)
        except FileNotFoundError:
            self._start_over()

    def _scan(self, fd: int) -> None:
        found = os.fstat(fd)
        identity = (found.st_dev, found.st_ino)
        if identity != self._identity or not self._same_before(fd):
            self._start_over()
            self._identity = identity
        stop = min(found.st_size, self.scanned + self.scan_bytes_max)
        while self.scanned < stop:
            chunk = os.pread(fd, min(CHUNK_BYTES, stop - self.scanned), self.scanned)
            if not chunk:
                break
            self.take(chunk)
            self.scanned += len(chunk)
            self._mark = (self._mark + chunk)[-MARK_BYTES:]
        self.behind = found.st_size - self.scanned

    def _same_before(self, fd: int) -> bool:
        # LAMMPS truncates and writes again in place when a deck dumps twice to one name: the same inode, shorter
        # or by now longer than before. The bytes before our place are then gone or others.
        return os.pread(fd, len(self._mark), self.scanned - len(self._mark)) == self._mark
