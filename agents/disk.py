"""The user's directory as the agent sees it: where things are, and how they are written so that they survive.

<root>/<job id>/<serial>/           a run directory: the code's working directory, nothing of ours in it
<root>/.jobd/runs/<job>.<serial>/   a run's control directory (records.py)
<root>/.jobd/agents/<agent id>/     the agent's outbox and lock
"""

import contextlib
import errno
import os
import stat
from typing import TypeVar

from attrs import frozen

from agents import records
from schemas import codec
from schemas.link import Epoch

RECORD_BYTES_MAX = 1024 * 1024

T = TypeVar("T")


@frozen
class Tree:
    """The paths below one user's directory for one agent."""

    root: str
    agent: str

    @property
    def own(self) -> str:
        """The agent's own directory."""
        return os.path.join(self.root, ".jobd", "agents", self.agent)

    def control(self, epoch: Epoch) -> str:
        """A run's control directory."""
        return os.path.join(self.root, ".jobd", "runs", f"{epoch.job}.{epoch.serial}")

    def run_path(self, epoch: Epoch) -> str:
        """A run's directory, relative to the root."""
        return f"{epoch.job}/{epoch.serial}"

    def run_dir(self, epoch: Epoch) -> str:
        """A run's directory."""
        return os.path.join(self.root, self.run_path(epoch))


def make_directories(path: str, attempts: int = 10) -> None:
    """Make a directory and its parents, durably; they may exist. The removal of a job's older runs may meanwhile take
    an empty parent away, so it is tried a few times."""
    if os.path.isdir(path):
        return
    make_directories(os.path.dirname(path))
    try:
        os.mkdir(path, 0o700)
        sync_directory(os.path.dirname(path))
    except FileExistsError:
        if not os.path.isdir(path):
            raise
    except FileNotFoundError:
        if attempts == 0:
            raise
        make_directories(path, attempts - 1)


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(target: str, content: bytes) -> None:
    """Write a file so that every reader, also one after a power cut, sees all of the old or all of the new."""
    os.rename(_write_draft(target, content, durable=True), target)
    sync_directory(os.path.dirname(target))


def write_record(directory: str, name: str, record: object) -> None:
    """Write a record durably."""
    write_durably(os.path.join(directory, name), records.to_bytes(record))


def note_record(directory: str, name: str, record: object) -> None:
    """Write a record that need not survive a power cut; a reader still sees all of it or none."""
    target = os.path.join(directory, name)
    os.rename(_write_draft(target, records.to_bytes(record), durable=False), target)


def claim(directory: str, record: records.Claim) -> bool:
    """Take the run's claim, durably; False if somebody has it. link(2) decides: it never replaces."""
    target = os.path.join(directory, records.CLAIM)
    draft = _write_draft(target, records.to_bytes(record), durable=True)
    try:
        os.link(draft, target)
    except FileExistsError:
        return False
    finally:
        os.unlink(draft)
    sync_directory(directory)
    return True


def _write_draft(target: str, content: bytes, durable: bool) -> str:
    draft = f"{target}.{os.getpid()}"  # two processes may be at it
    with contextlib.suppress(FileNotFoundError):
        os.unlink(draft)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        if durable:
            os.fsync(descriptor)
    return draft


def read_record(directory: str, name: str, kind: type[T]) -> T | None:
    """A record, or None if it is not there; raises CodecError if it is not what we wrote."""
    try:
        text = read_end(directory, name, RECORD_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise codec.CodecError("", f"cannot be read ({error.strerror})") from None
    record: T = codec.decode(text, kind, RECORD_BYTES_MAX)
    return record


def read_end(directory: str, name: str, bytes_max: int) -> bytes:
    """The last bytes of a regular file; raises OSError for anything else of that name."""
    with open(open_beneath(directory, name, os.O_RDONLY), "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - bytes_max))
        return file.read(bytes_max)


def open_beneath(root: str, path: str, flags: int, make: bool = False) -> int:
    """Open `path` below `root` without following any symbolic link; `make` makes the directories on the way.

    Only regular files, or directories if O_DIRECTORY says so, are opened: a FIFO would block and a device do worse.
    """
    *parents, name = path.split("/")
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parents:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=directory)
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            os.close(directory)
            directory = below
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600, dir_fd=directory)
    finally:
        os.close(directory)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode) and not flags & os.O_DIRECTORY:
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return descriptor
