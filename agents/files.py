"""Files of the runs, read and listed while the codes write them.

The tree belongs to whoever can run code as this user, so nothing in it is trusted: every file is opened beneath the
user's directory without following symbolic links, and only regular files are.
"""

import mimetypes
import os
import time
from collections.abc import Callable

import trio

from agents import disk, records
from agents.answers import Content, OpFailed
from agents.disk import Tree
from schemas import codec
from schemas.codec import Json
from schemas.ids import PATH_PARTS_MAX, check_path
from schemas.link import Epoch, List, ListedFile, Read

WAIT_S_MAX = 60.0
LOOK_PAUSE_S_MIN, LOOK_PAUSE_S_MAX = 0.02, 0.2
ENTRIES_MAX = 100_000  # looked at for one listing
LOG_TYPE = "text/plain; charset=utf-8"


async def read(order: Read, tree: Tree, is_running: Callable[[Epoch], bool]) -> Content:
    """The part of a file that is asked for; with `wait_s`, as soon as there is any, or when the run has ended."""
    deadline = trio.current_time() + min(order.wait_s, WAIT_S_MAX)
    pause_s = LOOK_PAUSE_S_MIN
    while True:
        # Asked before the look: what a run wrote before it ended is then seen.
        is_last_look = trio.current_time() >= deadline or not is_running(order.epoch)
        try:
            content = await trio.to_thread.run_sync(_open, order, tree)
            if content.length > 0 or order.length == 0 or is_last_look:
                return content
            content.close()
        except OpFailed as failure:
            if failure.code != "not_found" or is_last_look:
                raise
        await trio.sleep(pause_s)
        pause_s = min(2 * pause_s, LOOK_PAUSE_S_MAX)


def _open(order: Read, tree: Tree) -> Content:
    if order.path is None:
        root, path, kind = tree.control(order.epoch), records.LOG, LOG_TYPE
    else:
        root, path, kind = tree.root, f"{tree.run_path(order.epoch)}/{order.path}", _type(order.path)
    try:
        descriptor = disk.open_beneath(root, path, os.O_RDONLY)
    except FileNotFoundError:
        raise OpFailed("not_found", f"there is no {order.path or 'log'}") from None
    except OSError as error:
        raise OpFailed("not_found", f"{order.path or 'the log'} cannot be read: {error.strerror}") from None
    size = os.fstat(descriptor).st_size
    if order.offset > size:
        os.close(descriptor)
        raise OpFailed("range", f"{order.path or 'the log'} has only {size} bytes")
    rest = size - order.offset
    return Content(descriptor, order.offset, rest if order.length is None else min(rest, order.length), kind)


def _type(path: str) -> str:
    kind, compression = mimetypes.guess_type(path)
    return kind if kind is not None and compression is None else "application/octet-stream"


def list_files(order: List, tree: Tree) -> Json:
    """The Listing of a run directory, in a thread. Files whose names could not be asked for are left out."""
    try:
        descriptor = disk.open_beneath(tree.root, tree.run_path(order.epoch), os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        raise OpFailed("not_found", "there is no directory of this run") from None
    walk = _Walk(order.files_max)
    walk.look_into(descriptor, "", 1)
    files = sorted(walk.files, key=lambda file: file.path)
    return {"files": [codec.to_data(file) for file in files], "truncated": walk.is_truncated}


class _Walk:
    """One listing in the making."""

    def __init__(self, files_max: int) -> None:
        self.files: list[ListedFile] = []
        self.is_truncated = False
        self._files_max = files_max
        self._entries = 0
        self._now = time.time()

    def look_into(self, descriptor: int, prefix: str, parts: int) -> None:
        """Gather the files of one directory and those below; closes it."""
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    self._entries += 1
                    if len(self.files) >= self._files_max or self._entries > ENTRIES_MAX:
                        self.is_truncated = True
                        return
                    self._look_at(entry, descriptor, prefix, parts)
        except FileNotFoundError:
            pass  # removed while we look
        finally:
            os.close(descriptor)

    def _look_at(self, entry: "os.DirEntry[str]", directory: int, prefix: str, parts: int) -> None:
        path = prefix + entry.name
        try:
            check_path(path)
            if entry.is_dir(follow_symlinks=False) and parts < PATH_PARTS_MAX:
                below = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
                self.look_into(below, f"{path}/", parts + 1)
            elif entry.is_file(follow_symlinks=False):
                status = os.stat(entry.name, dir_fd=directory, follow_symlinks=False)
                self.files.append(ListedFile(path, status.st_size, max(0.0, self._now - status.st_mtime)))
        except (ValueError, OSError):
            pass  # a name that cannot be asked for, or removed while we look
