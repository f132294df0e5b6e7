"""jobctl as an operator has it: a real process, its output into pipes or onto a terminal."""

import contextlib
import json
import os
import pty
import shutil
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from attrs import frozen
from realdaemon import DEADLINE_S, HERE, Daemon

COMMAND = (sys.executable, "-m", "jobd.ctl")

MAD_TOML = """
name = "mad"
title = "Says [red]what it likes[/]"
version = "1"
[environment]
PATH = "/usr/bin:/bin"
[modes.sequential]
command = ["/bin/sh", "script.sh"]
[analysis]
command = ["{prefix}/bin/python3", "{here}/mad.py"]
progress_s = 0.1
"""
MAD_WORKER = r"""
import json, sys
WILD = "\x1b]0;owned\x07\x1b[31m[red]wild[/red]\x1b[0m\x9b2J\r\n\u202e:smile: {task.fields[state]}\x1b[2J"
for line in sys.stdin:
    result = {"fraction": 0.5, "text": WILD, "frames": {}, "metrics": {}}
    print(json.dumps({"id": json.loads(line)["id"], "result": result}), flush=True)
"""


@frozen
class Ran:
    """How it ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document that it printed."""
        (line,) = self.out.splitlines()
        return json.loads(line)

    @property
    def lines(self) -> list[Any]:
        """The documents that it printed, one on each line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def rows(self) -> list[list[str]]:
        """The cells of a table in a pipe, without its heads."""
        return [line.split("\t") for line in self.out.splitlines()[1:]]


def environment(daemon: Daemon | None, **more: str) -> dict[str, str]:
    socket = {"JOBCTL_SOCKET": str(daemon.state / "admin.sock")} if daemon else {}
    return {**os.environ, **socket, "JOBCTL_PATIENCE_S": "0.5", **more}


def launch(daemon: Daemon | None, *words: object) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [*COMMAND, *map(str, words)], env=environment(daemon), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def jobctl(daemon: Daemon | None, *words: object, **more: str) -> Ran:
    """Run it with its output into pipes; `more` are environment variables."""
    done = subprocess.run(
        [*COMMAND, *map(str, words)],
        env=environment(daemon, **more),
        capture_output=True,
        timeout=3 * DEADLINE_S,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    ran = Ran(done.returncode, done.stdout.decode(), done.stderr.decode())
    assert "Traceback" not in ran.err, ran.err
    return ran


def output(daemon: Daemon, *words: str) -> bytes:
    """The very bytes that it wrote into a pipe."""
    process = launch(daemon, *words)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, err) == (0, b"")
    return out


def on_a_terminal(daemon: Daemon | None, *words: object, typed: bytes = b"", **more: str) -> Ran:
    """Run it with everything on a terminal of 60 columns, and `typed` on its keyboard; all it wrote is `out`."""
    ours, theirs = pty.openpty()
    env = {**environment(daemon), "NO_COLOR": "", "TERM": "xterm-256color", "COLUMNS": "60", **more}
    process = subprocess.Popen([*COMMAND, *map(str, words)], env=env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.write(ours, typed)
    written = b""
    try:
        while piece := os.read(ours, 65536):
            written += piece
    except OSError:
        pass  # the terminal has no writer any more
    os.close(ours)
    ran = Ran(process.wait(DEADLINE_S), written.decode(errors="surrogateescape"), "")
    assert "Traceback" not in ran.out, ran.out
    return ran


@contextlib.contextmanager
def standin(socket: Path, replies: Mapping[str, Any]) -> Iterator[None]:
    """Something in the daemon's place, that answers GETs of these paths as it likes, with a problem as 404."""

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(replies[self.path]).encode()
            self.send_response(404 if "detail" in replies[self.path] else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with socketserver.ThreadingUnixStreamServer(str(socket), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def with_own_codes(daemon: Daemon) -> Daemon:
    """Gives a daemon that is not started yet a directory of codes of its own: `shell` and `mad`."""
    codes = daemon.home / "codes"
    codes.mkdir()
    for name in ("shell.toml", "worker.py"):
        shutil.copy(HERE / "codes" / name, codes)
    (codes / "mad.toml").write_text(MAD_TOML)
    (codes / "mad.py").write_text(MAD_WORKER)
    configure(daemon, str(HERE / "codes"), str(codes))
    return daemon


def configure(daemon: Daemon, old: str, new: str) -> Path:
    """Edit its configuration; returns the file."""
    toml = daemon.home / "jobd.toml"
    text = toml.read_text()
    assert old in text
    toml.write_text(text.replace(old, new, 1))
    return toml


def script(daemon: Daemon, text: str) -> str:
    """A shell script as the option that makes it the input of a run."""
    path = daemon.home / "script.sh"
    path.write_text(text)
    return f"--input=script.sh={path}"
