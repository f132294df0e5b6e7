"""Removing purged runs: their directories and all that is ours of them.

What the code has left there is hostile to a deletion too: directories without permissions, links to elsewhere, names
without end. shutil.rmtree follows no link; a directory that it may not enter is opened up and tried once more.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator

from agents.disk import Tree
from schemas.link import Epoch


def remove_runs(tree: Tree, upto: Epoch) -> None:
    """Delete what there is of the job's runs up to this serial; in a thread. Raises OSError when something stays."""
    for directory in [*_run_directories(tree, upto), *_control_directories(tree, upto)]:
        try:
            shutil.rmtree(directory)
        except FileNotFoundError:
            pass
        except PermissionError:
            _open_up(directory)
            shutil.rmtree(directory)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.join(tree.root, upto.job))  # its last run is gone


def _run_directories(tree: Tree, upto: Epoch) -> Iterator[str]:
    for name in _names(os.path.join(tree.root, upto.job)):
        if name.isdecimal() and int(name) <= upto.serial:
            yield tree.run_dir(Epoch(upto.job, int(name)))


def _control_directories(tree: Tree, upto: Epoch) -> Iterator[str]:
    for name in _names(os.path.join(tree.root, ".jobd", "runs")):
        job, _, serial = name.partition(".")
        if job == upto.job and serial.isdecimal() and int(serial) <= upto.serial:
            yield tree.control(Epoch(job, int(serial)))


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _open_up(directory: str) -> None:
    os.chmod(directory, 0o700)
    for where, below, _ in os.walk(directory):
        for name in below:
            path = os.path.join(where, name)
            if not os.path.islink(path):
                os.chmod(path, 0o700)
