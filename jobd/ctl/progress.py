"""The progress of long work, on stderr: a bar on a terminal; in a pipe, a line for each change of a run."""

import os
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path, PosixPath
from typing import Any

import click
from attrs import evolve
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn

from jobd.client import Client
from jobd.ctl import show, views
from jobd.ctl.command import EXIT_CODES
from schemas.views import RunView

LOOK_S = 0.2


def follow(client: Client, status: RunView) -> RunView:
    """Show a run's progress until its end is confirmed, or a newer run has taken its place; returns its last status."""
    if status.serial is None:
        raise click.ClickException(f"{status.user}/{status.job} has no run")
    with _bar(TextColumn("{task.fields[state]}", markup=False), BarColumn(), _words(), TimeElapsedColumn()) as bar:
        task = bar.add_task("", total=1.0, state=status.state)
        said = ""
        events = client.events(status.user, status.job)
        while not (status.state in EXIT_CODES and status.end_confirmed):
            now = next(events).status
            if now is not None and now.serial != status.serial:
                return _replaced(client, status)
            status = now or status
            fraction = status.progress.fraction if status.progress else None
            bar.update(task, completed=fraction or 0.0, description=show.flat(views.brief(status)), state=status.state)
            words = f"{status.state}: {status.situation.text}" if status.situation else status.state
            if bar.disable and words != said:
                show.note(said := words)
    return status


def _replaced(client: Client, status: RunView) -> RunView:
    """The last status of a run that is no more the job's newest."""
    for past in client.runs(status.user, status.job):
        if past.serial == status.serial:
            return evolve(
                status,
                state=past.state,
                cause=past.cause,
                end_confirmed=past.end_confirmed,
                usage=past.usage,
                situation=None,
                progress=None,
            )
    raise click.ClickException(f"run {status.serial} of {status.user}/{status.job} was deleted")


def download(get: Callable[[Path], int], to: Path, total: int) -> int:
    """Have `get` write a file, show how far it is, and put it where it belongs once it is whole; returns its bytes."""
    to.parent.mkdir(parents=True, exist_ok=True)
    with (
        Scratch(to.parent) as directory,
        _transfer(to.name, total) as told,
        _every(LOOK_S, lambda: told(directory.bytes())),
    ):
        count = get(directory.path / to.name)
        told(count)
        os.replace(directory.path / to.name, to)
    return count


def upload(send: Callable[[Path], Any], source: Path) -> Any:
    """Have `send` read a file, and show how far it is; returns what it returns."""
    with _transfer(source.name, source.stat().st_size) as told:
        watched = _Watched(source)
        watched.told = told
        return send(watched)


class Scratch:
    """A directory beside a file in the making: what is in it is what has come."""

    def __init__(self, parent: Path) -> None:
        self.path = parent / f".jobctl-{os.getpid()}"

    def __enter__(self) -> "Scratch":
        self.path.mkdir(mode=0o700)
        return self

    def __exit__(self, *_: object) -> None:
        for file in self.path.iterdir():
            file.unlink()
        self.path.rmdir()

    def bytes(self) -> int:
        """Of all files in it."""
        with suppress(FileNotFoundError):  # one of them was just renamed
            return sum(each.stat().st_size for each in os.scandir(self.path))
        return 0


class _Watched(PosixPath):
    """A path whose reader is watched: read once for its hash, and once to send it."""

    told: Callable[[int], None]

    def open(self, *_: Any, **__: Any) -> Any:
        file = _WatchedFile(str(self), "rb")
        file.told = self.told
        return file


class _WatchedFile(FileIO):
    told: Callable[[int], None]

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(-1 if size is None else size)
        self.told(self.tell())
        return piece

    def readinto(self, buffer: Any, /) -> int:
        count = super().readinto(buffer)
        self.told(self.tell())
        return count


@contextmanager
def _transfer(name: str, total: int) -> Generator[Callable[[int], None], None, None]:
    with _bar(_words(), BarColumn(), DownloadColumn(), TransferSpeedColumn()) as bar:
        task = bar.add_task(show.flat(name), total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def _every(seconds: float, look: Callable[[], None]) -> Generator[None, None, None]:
    over = threading.Event()

    def watch() -> None:
        while not over.wait(seconds):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _words() -> TextColumn:
    return TextColumn("{task.description}", markup=False)


def _bar(*columns: Any) -> Progress:
    return Progress(*columns, console=show.console(sys.stderr), disable=not sys.stderr.isatty())
