"""What a run leaves in the shared memory of its container: POSIX objects in /dev/shm and /dev/mqueue, System V objects.

Processes end with their run, these do not, and the container's memory group goes on paying for them: the next run of a
warm container would start with less memory, and could read what the last one left. Only what belongs to our own user is
touched, and only when the agent was told that it is alone in its container: elsewhere it may be anybody's.
"""

import contextlib
import ctypes
import logging
import os
import shutil
from collections.abc import Iterator

DIRECTORIES = ("/dev/shm", "/dev/mqueue")  # noqa: S108 - not for files of ours
OBJECTS_MAX = 10_000  # of one kind in one sweep; the next one takes the rest
TABLE_BYTES_MAX = 4 * 1024 * 1024
_IPC_RMID = 0
_libc = ctypes.CDLL(None, use_errno=True)

log = logging.getLogger(__name__)


def sweep(directories: tuple[str, ...] = DIRECTORIES) -> int:
    """Remove all of it; returns how many objects there were. Never raises: what cannot be removed stays."""
    count = sum(_sweep_directory(directory) for directory in directories)
    for kind in ("shm", "sem", "msg"):
        for number in our_objects(kind, _table(kind), os.geteuid()):
            # shmctl and msgctl take (id, command, buffer), semctl takes (id, index, command).
            arguments = (number, 0, _IPC_RMID) if kind == "sem" else (number, _IPC_RMID, None)
            count += _libc[f"{kind}ctl"](*arguments) == 0
    if count:
        log.info("removed %d objects from shared memory that a run had left", count)
    return count


def our_objects(kind: str, table: str, uid: int) -> Iterator[int]:
    """From /proc/sysvipc/shm, sem or msg: the ids of the objects that a user owns or has made."""
    head, *lines = table.splitlines() or [""]
    names = head.split()
    for line in lines[:OBJECTS_MAX]:
        values = dict(zip(names, line.split(), strict=False))
        with contextlib.suppress(KeyError, ValueError):
            if uid in (int(values["uid"]), int(values["cuid"])):
                yield int(values[f"{kind}id"])


def _table(kind: str) -> str:
    try:
        with open(f"/proc/sysvipc/{kind}") as file:
            return file.read(TABLE_BYTES_MAX)
    except (OSError, ValueError):
        return ""


def _sweep_directory(directory: str) -> int:
    count = 0
    try:
        with os.scandir(directory) as entries:
            ours = [entry for entry, _ in zip(entries, range(OBJECTS_MAX), strict=False) if _is_ours(entry)]
    except OSError:
        return 0
    for entry in ours:
        with contextlib.suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)  # follows no link
            else:
                os.unlink(entry.path)
            count += 1
    return count


def _is_ours(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.stat(follow_symlinks=False).st_uid == os.geteuid()
    except OSError:
        return False
