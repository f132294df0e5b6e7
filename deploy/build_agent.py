"""Build the agent's zipapp: `python deploy/build_agent.py [--out PATH] [--python INTERPRETER ...] [--force]`.

One file that any Python from 3.10 on can execute, with nothing to install at the site:

    __main__.py                 puts the tree of the running interpreter before the sources
    agents/ schemas/ trio/ ...  the sources, always
    cpython-311/ ...            bytecode, one tree for each interpreter found here

zipimport reads no __pycache__, only a .pyc in the place of the source, hence the trees (measured: docs/protocol.md).
The archive is deterministic, holds pure Python only, and is not built again while its inputs are unchanged; their
hash is the archive's comment.
"""

import argparse
import glob
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
OURS = ("agents", "schemas")
REQUIREMENTS = ("trio", "trio-websocket", "attrs", "exceptiongroup", "typing-extensions")
OLDEST_MINOR, NEWEST_MINOR = 10, 14
LEFT_OUT = ("bin", "_tests", "__pycache__", "RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
LONG_AGO = (1980, 1, 1, 0, 0, 0)
SHEBANG = b"#!/usr/bin/env python3\n"

MAIN = '''\
"""The agent's zipapp: sources, and bytecode for some interpreters (deploy/build_agent.py)."""

import sys

if sys.version_info < (3, 10):
    sys.exit("jobd-agent needs Python 3.10 or newer, not " + sys.version.split()[0])
sys.path.insert(0, f"{sys.path[0]}/{sys.implementation.cache_tag}")

from agents.__main__ import main

sys.exit(main())
'''

COMPILE = """
import os, py_compile, sys
source, target = sys.argv[1:]
for directory, names, files in os.walk(source):
    names.sort()
    for name in sorted(files):
        if name.endswith(".py"):
            path = os.path.join(directory, name)
            shown = os.path.relpath(path, source)
            py_compile.compile(path, os.path.join(target, shown + "c"), shown, doraise=True,
                               invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
"""

PROBE = (
    "import sys; print(sys.version_info[0], sys.version_info[1], sys.implementation.cache_tag, sys.version.split()[0])"
)
IMPORT = (
    "import sys; sys.path[:0] = [f'{sys.argv[1]}/{sys.implementation.cache_tag}', sys.argv[1]]; import agents.agent"
)


def main() -> int:
    """Build, unless nothing has changed, and say what was built."""
    parser = argparse.ArgumentParser(description="Build the agent's zipapp.")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build" / "jobd-agent.pyz")
    parser.add_argument("--python", action="append", default=[], help="one more interpreter to compile for")
    parser.add_argument("--force", action="store_true", help="build even if nothing has changed")
    options = parser.parse_args()
    interpreters = find_interpreters(options.python)
    inputs = hash_inputs(interpreters)
    if not options.force and options.out.is_file() and read_comment(options.out) == inputs:
        print(f"{options.out} is up to date")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        stage = Path(scratch, "stage")
        gather_sources(stage)
        refuse_impure(stage)
        trees = {tag: compile_tree(stage, Path(scratch, tag), path) for tag, (_, path) in interpreters.items()}
        archive = pack(stage, trees, inputs)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draft = options.out.with_suffix(".new")
    draft.write_bytes(archive)
    draft.chmod(0o755)
    draft.replace(options.out)
    for _, path in interpreters.values():
        if run([path, "-I", "-c", IMPORT, str(options.out)]).returncode != 0:
            sys.exit(f"{path} could not import the archive")
    versions = [version for version, _ in interpreters.values()]
    minors = {int(version.split(".")[1]) for version in versions}
    untested = [f"3.{minor}" for minor in range(OLDEST_MINOR, NEWEST_MINOR + 1) if minor not in minors]
    print(f"{options.out}: {len(archive)} bytes, sha256 {hashlib.sha256(archive).hexdigest()}")
    print(f"compiled for and imported by: {', '.join(versions)}")
    print(f"untested, from source: {', '.join(untested) or 'none'}")
    return 0


def run(command: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run pip or an interpreter; the caller looks at how it went."""
    return subprocess.run(command, check=False, **options)  # noqa: S603 - commands of our own


def find_interpreters(named: list[str]) -> dict[str, tuple[str, str]]:
    """Cache tag to version and path of each interpreter that works: named, ours, on the PATH, or pyenv's."""
    pyenv = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    candidates = [*named, sys.executable]
    candidates += [f"python3.{minor}" for minor in range(OLDEST_MINOR, NEWEST_MINOR + 1)]
    candidates += sorted(glob.glob(f"{pyenv}/versions/3.*/bin/python"), reverse=True)
    found: dict[str, tuple[str, str]] = {}
    for candidate in candidates:
        path = shutil.which(candidate)
        if path is None:
            continue
        probe = run([path, "-I", "-c", PROBE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if probe.returncode == 0:
            major, minor, tag, version = probe.stdout.split()
            if (int(major), int(minor)) >= (3, OLDEST_MINOR):
                found.setdefault(tag, (version, path))
    return dict(sorted(found.items()))


def hash_inputs(interpreters: dict[str, tuple[str, str]]) -> bytes:
    """One hash over everything that the archive is made from."""
    digest = hashlib.sha256(repr([(tag, version) for tag, (version, _) in interpreters.items()]).encode())
    files = [Path(__file__), REPOSITORY / "constraints.txt"]
    files += [path for package in OURS for path in sorted((REPOSITORY / package).rglob("*.py"))]
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(REPOSITORY)} {len(content)}\n".encode() + content)
    return digest.hexdigest().encode()


def read_comment(path: Path) -> bytes:
    """The hash in an archive that was built before."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment
    except zipfile.BadZipFile:
        return b""


def gather_sources(stage: Path) -> None:
    """Our packages, and what they require, as sources."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    constraints = ["-c", str(REPOSITORY / "constraints.txt")]
    done = run([*pip, *constraints, "--target", str(stage), *REQUIREMENTS], stderr=subprocess.PIPE, text=True)
    for line in done.stderr.splitlines():
        if "is ignored: it is neither a file nor a directory" not in line:  # an index of this machine that is absent
            print(line, file=sys.stderr)
    if done.returncode != 0:
        sys.exit("pip failed")
    for package in OURS:
        shutil.copytree(REPOSITORY / package, stage / package)
    for path in sorted(stage.rglob("*"), reverse=True):
        if path.name in LEFT_OUT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (stage / "__main__.py").write_text(MAIN)


def refuse_impure(stage: Path) -> None:
    """What is compiled for one machine must not travel to another."""
    impure = [str(path.relative_to(stage)) for path in stage.rglob("*") if path.suffix in (".so", ".pyd", ".dylib")]
    if impure:
        sys.exit(f"not pure Python: {', '.join(impure)}")


def compile_tree(stage: Path, target: Path, interpreter: str) -> Path:
    """The bytecode of all sources, made by the interpreter that will read it."""
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    if run([interpreter, "-c", COMPILE, str(stage), str(target)], env=environment).returncode != 0:
        sys.exit(f"{interpreter} could not compile the sources")
    (target / "__main__.pyc").unlink()
    return target


def pack(stage: Path, trees: dict[str, Path], comment: bytes) -> bytes:
    """The archive: the same inputs give the same bytes."""
    buffer = io.BytesIO(SHEBANG)
    buffer.seek(0, io.SEEK_END)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = comment
        for prefix, root in (("", stage), *((f"{tag}/", tree) for tag, tree in sorted(trees.items()))):
            for path in sorted(path for path in root.rglob("*") if path.is_file()):
                entry = zipfile.ZipInfo(prefix + path.relative_to(root).as_posix(), LONG_AGO)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, path.read_bytes())
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
