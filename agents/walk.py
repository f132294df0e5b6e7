"""A look over a run's directory: what it holds in all, counted in slices, whatever the code does there meanwhile.

The code is hostile and at work: it renames, deletes and links while we count. So every step is taken from a
descriptor, never by a path; no symbolic link is followed, no other file system entered, and nothing is entered that was
not a directory when it was opened. A tree that cannot be counted for sure (too deep, not readable) is an answer of its
own, because a code must not be able to hide in it. Each inode counts once, by its blocks: a sparse file is as large as
what it occupies, hard links are one file, and one that is renamed between two slices is not counted twice.
"""

import contextlib
import os
import stat
import time

DEPTH_MAX = 100  # two descriptors a level
BLOCK_BYTES = 512  # the unit of st_blocks, whatever the file system's own is
ENTRIES_PER_LOOK_AT_CLOCK = 64
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Walk:
    """One look; `bytes` and `entries` are right once `go_on` has returned True and `trouble` is empty."""

    def __init__(self, directory: int, entries_max: int) -> None:
        """`directory` is a descriptor, which stays open and the caller's; beyond `entries_max` the walk gives up."""
        self.bytes = 0
        self.entries = 0  # files and directories
        self.trouble = ""  # why it could not count everything: a clause for people
        self.slices = 0
        self._entries_max = entries_max
        self._seen: set[int] = set()
        self._levels: list[tuple[int, os._ScandirIterator[str]]] = []
        found = os.fstat(directory)
        self.device = found.st_dev
        self._count(found)
        self._enter(os.open(".", _FLAGS, dir_fd=directory))

    def go_on(self, until: float) -> bool:
        """Count on until this time.monotonic(); True when it is over."""
        self.slices += 1
        looked = 0
        while self._levels:
            looked += 1
            if looked % ENTRIES_PER_LOOK_AT_CLOCK == 0 and time.monotonic() >= until:
                return False
            self._take_one()
            if self.trouble or self.entries > self._entries_max:
                self.close()
        return True

    def close(self) -> None:
        """Let go of what is open; the walk is over."""
        while self._levels:
            self._leave()

    def _take_one(self) -> None:
        directory, names = self._levels[-1]
        try:
            entry = next(names, None)
            if entry is None:
                self._leave()
                return
            found = entry.stat(follow_symlinks=False)
            if found.st_dev != self.device:
                return  # something else is mounted there, and has a size of its own
            if self._count(found) and stat.S_ISDIR(found.st_mode):
                self._descend(directory, entry.name)
        except FileNotFoundError:
            pass  # it was deleted or renamed meanwhile
        except OSError as error:
            self.trouble = f"what it holds cannot be counted ({error.strerror})"

    def _descend(self, directory: int, name: str) -> None:
        if len(self._levels) >= DEPTH_MAX:
            self.trouble = f"its directories are nested more than {DEPTH_MAX} deep"
            return
        try:
            below = os.open(name, _FLAGS, dir_fd=directory)
        except NotADirectoryError:
            return  # replaced meanwhile; O_NOFOLLOW says the same of a symbolic link
        except PermissionError:
            self.trouble = "it has a directory that cannot be looked into"
            return
        if os.fstat(below).st_dev != self.device:
            os.close(below)
            return
        self._enter(below)

    def _count(self, found: os.stat_result) -> bool:
        """Count it unless it was counted before; returns whether it was not."""
        if found.st_ino in self._seen:
            return False
        self._seen.add(found.st_ino)
        self.bytes += found.st_blocks * BLOCK_BYTES
        self.entries += 1
        return True

    def _enter(self, directory: int) -> None:
        try:
            self._levels.append((directory, os.scandir(directory)))
        except OSError:
            os.close(directory)
            raise

    def _leave(self) -> None:
        directory, names = self._levels.pop()
        with contextlib.suppress(OSError):
            names.close()
        os.close(directory)
