"""The commands that a login node is given, and what they say.

Each is a small program for whatever Python is there, 2.7 included, which is to find out; it travels in the command as
base64, because users' shells differ in how they quote. A login shell of the standard kind is put around it, so that
PATH and variables are those that the site gives its users. What that prints first does not matter: the last line of
the output counts.
"""

import base64
import json
import shlex
from typing import Any

from attrs import frozen

from schemas import codec
from schemas.setups import Arrival

NO_PROGRAM = (126, 127)  # exit codes of a shell

_COMMON = """
import json, os, sys
def say(**words):
    print(json.dumps(words))
    sys.stdout.flush()
    sys.exit(0)
def refuse(error):
    full = error.errno in (28, 122)
    say(what="quota" if full else "agent_start", text="%s: %s" % (error.strerror, error.filename))
root = os.path.expanduser(os.path.expandvars(sys.argv[1]))
"""

_START = """
digest = sys.argv[2]
if sys.version_info < (3, 10):
    say(what="python", text="%d.%d.%d" % tuple(sys.version_info[:3]))
import hashlib, shutil
if not shutil.which("sbatch"):
    say(what="slurm", text="")
if "$" in root or not os.path.isabs(root):
    say(what="agent_start", text="the directory " + root + " means nothing here")
path = os.path.join(root, ".jobd", "agent-%s.pyz" % digest[:16])
try:
    os.umask(0o077)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "rb") as file:
        right = hashlib.sha256(file.read()).hexdigest() == digest
except FileNotFoundError:
    right = False
except OSError as error:
    refuse(error)
if not right:
    say(path=path)
os.execv(sys.executable, [sys.executable, "-I", path, "--login"])
"""

_LOG_TAIL = """
path = os.path.join(root, ".jobd", "agents", sys.argv[2], "log")
if os.path.exists(path):
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - int(sys.argv[3])))
        say(log=file.read().decode("utf-8", "replace"))
say(log="")
"""

_TRY_TO_WRITE = """
path = root + ".tried"
try:
    with open(path, "wb") as file:
        for _ in range(int(sys.argv[2]) // 65536 + 1):
            file.write(b"x" * 65536)
        file.flush()
        os.fsync(file.fileno())
except OSError as error:
    error.filename = os.path.dirname(path)
    refuse(error)
finally:
    if os.path.exists(path):
        os.unlink(path)
"""


@frozen
class Missing:
    """The agent is not there, or not what it should be: it goes to this path."""

    path: str


@frozen
class Unfit:
    """The place cannot have an agent: 'python', 'slurm', or the code of an error."""

    what: str
    text: str


@frozen
class Logged:
    """The end of the agent's log."""

    log: str


Said = Arrival | Missing | Unfit | Logged


def start(python: str, root: str, digest: str) -> tuple[str, ...]:
    """Look whether everything is there; if so, start the agent, which reads stdin. Says Arrival, Missing or Unfit."""
    return _command(python, _START, root, digest)


def log_tail(python: str, root: str, agent: str, bytes_max: int) -> tuple[str, ...]:
    """Says Logged."""
    return _command(python, _LOG_TAIL, root, agent, str(bytes_max))


def try_to_write(python: str, path: str, size_bytes: int) -> tuple[str, ...]:
    """Find out what keeps a file of that size from being written there; says Unfit, or nothing."""
    return _command(python, _TRY_TO_WRITE, path, str(size_bytes))


def understood(out: bytes) -> Said | None:
    """What a command has said in its last line."""
    lines = out.decode(errors="replace").strip().splitlines()
    try:
        said: Any = json.loads(lines[-1]) if lines else None
    except (ValueError, RecursionError):
        return None
    for kind in (Arrival, Missing, Unfit, Logged):
        try:
            understanding: Said = codec.from_data(said, kind)
        except codec.CodecError:
            continue
        return understanding
    return None


def _command(python: str, program: str, *arguments: str) -> tuple[str, ...]:
    packed = base64.b64encode((_COMMON + program).encode()).decode()
    words = [python, "-c", f"import base64; exec(base64.b64decode('{packed}'))", *arguments]
    return ("/bin/sh", "-lc", f"exec {shlex.join(words)}")
