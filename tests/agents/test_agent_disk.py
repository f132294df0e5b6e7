"""Directories that others take away or put something in the place of."""

import os
from pathlib import Path

import pytest

from agents import disk


def test_a_parent_that_is_removed_meanwhile_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mkdir, removed = os.mkdir, []

    def removing(path: str, mode: int = 0o777) -> None:
        if path.endswith("/2") and not removed:  # the removal of run 1 has just ended
            removed.append(path)
            os.rmdir(os.path.dirname(path))
        mkdir(path, mode)

    (tmp_path / "job").mkdir()
    monkeypatch.setattr(os, "mkdir", removing)
    disk.make_directories(str(tmp_path / "job" / "2"))
    assert removed
    assert (tmp_path / "job" / "2").is_dir()


def test_a_parent_that_always_goes_away_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def vanished(path: str, mode: int = 0o777) -> None:
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "mkdir", vanished)
    with pytest.raises(FileNotFoundError):
        disk.make_directories(str(tmp_path / "job"))


def test_a_file_in_the_place_of_a_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "job").touch()
    with pytest.raises(OSError, match="exists"):
        disk.make_directories(str(tmp_path / "job"))
