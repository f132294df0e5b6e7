"""Room on the disk that only jobd's own state may use: a file that takes it until it is needed.

When a commit finds the disk full, the file is given up, so that what runs can be recorded to its end; new work is
refused until there is room again for the file, and as much besides.
"""

import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)


class Reserve:
    """The file at `path`, of so many bytes; with none there is no reserve. Every call blocks."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        self._bytes = size_bytes
        self.is_held = size_bytes == 0
        self.take()

    def take(self) -> None:
        """Have it, if the disk has room."""
        if self._bytes == 0 or not self._has_room():
            return
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self._bytes)
                os.ftruncate(descriptor, self._bytes)  # an earlier one was larger, perhaps
            finally:
                os.close(descriptor)
        except OSError as error:
            log.warning("the reserve cannot be had: %s", error)
            self._path.unlink(missing_ok=True)
        else:
            self.is_held = True

    def _has_room(self) -> bool:
        there = os.statvfs(self._path.parent)
        held = self._path.stat().st_blocks * 512 if self._path.exists() else 0
        return held >= self._bytes or there.f_bavail * there.f_frsize + held >= 2 * self._bytes

    def give_up(self) -> bool:
        """Free its room; whether there was any to free."""
        if not self.is_held or self._bytes == 0:
            return False
        log.warning("the disk is full: the reserve of %d bytes is used, and new work is refused", self._bytes)
        self._path.unlink(missing_ok=True)
        self.is_held = False
        return True
