"""Files without a name that a run holds open: no directory shows them, and they fill the disk all the same.

A code that writes into a file it has unlinked would be bounded by nothing else. They are found by the descriptors of
the run's processes, which are all below its parent. A run with more than DESCRIPTORS_MAX is counted in part.
"""

import contextlib
import os
import stat

from agents import procs
from agents.walk import BLOCK_BYTES

DESCRIPTORS_MAX = 20_000


def held_bytes(ancestor: int, device: int) -> int:
    """What the unlinked files on `device` occupy that processes below `ancestor` hold open."""
    occupied: dict[int, int] = {}
    left = DESCRIPTORS_MAX
    for process in procs.descendants(ancestor):
        # Another user's process (a set-uid program), or one that is gone, cannot be looked into.
        with contextlib.suppress(OSError), os.scandir(f"/proc/{process.pid}/fd") as descriptors:
            for descriptor in descriptors:
                left -= 1
                if left < 0:
                    break
                with contextlib.suppress(OSError):
                    found = os.stat(descriptor.path)
                    if found.st_nlink == 0 and found.st_dev == device and stat.S_ISREG(found.st_mode):
                        occupied[found.st_ino] = found.st_blocks * BLOCK_BYTES
    return sum(occupied.values())
