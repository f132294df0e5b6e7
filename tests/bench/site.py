"""A real site to measure: a daemon with the intervals that it ships with, real agents, and codes that do nothing."""

import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from realdaemon import Daemon

CODES = {
    "noop": '["true"]',
    "sleep": '["sleep", "1000"]',
}


def write_codes(directory: Path, more: str = "") -> None:
    """Their descriptions, with more at the end of each."""
    directory.mkdir()
    for name, words in CODES.items():
        (directory / f"{name}.toml").write_text(
            f'name = "{name}"\ntitle = "{name}"\nversion = "1"\n[environment]\nPATH = "/usr/bin:/bin"\n'
            f"[modes.sequential]\ncommand = {words}\n"
            f"[modes.sequential.limits]\nmemory_bytes = 67108864\ngrace_s = 2.0\n{more}"
        )


@contextmanager
def site(command: Sequence[str] = (), **tables: dict[str, Any]) -> Generator[Daemon, None, None]:
    """A daemon; what differs from what it ships with is `tables`. `command` starts another than the real one."""
    with tempfile.TemporaryDirectory(prefix="jobd-bench-", dir="/tmp") as directory:
        home = Path(directory)
        write_codes(home / "codes")
        daemon = Daemon(home, tables, shipped=True, codes=str(home / "codes"))
        daemon.command = list(command) or daemon.command
        daemon.start()
        try:
            yield daemon
        finally:
            daemon.end()
