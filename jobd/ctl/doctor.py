"""What `jobctl doctor` looks at. A check is a function that says in a few words what it found, or raises `Unwell`.

The checks that start something do so in a scratch daemon (`rehearsal`), so they need no running one and leave nothing
in its store; the one that serves is only asked how it is.
"""

import os
import pwd
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from attrs import frozen

from backends.base import BackendError
from jobd.client import Client, JobdClientError
from jobd.codes import Code, Image, load_code, load_codes, paths_of
from jobd.config import Config, ConfigError, load
from jobd.ctl.checking import prefix
from jobd.ctl.engines import engine_checks
from jobd.ctl.rehearsal import Unwell, rehearse
from jobd.daemon import check_paths, service_token
from jobd.hosting import hosts_of
from schemas.codec import CodecError

FREE_BYTES_MIN = 1 << 30
FREE_INODES_MIN = 10_000
PATIENCE_S = 2.0
OTHERS_WRITE = 0o022
OTHERS_ANY = 0o077
SECRETS = ("service-token", "jobd.sqlite", "admin.sock")
RUN_AS = "run doctor as the user that jobd runs as"


@frozen
class Check:
    """What one check found."""

    name: str
    ok: bool
    text: str
    advice: str = ""


def checks(path: Path, offline: bool) -> Iterator[Check]:
    """All checks, one after the other."""
    try:
        config = load(path)
    except (CodecError, OSError, UnicodeDecodeError) as error:
        yield Check("config", False, f"{path}: {error}", f"`jobctl config check {path}` lists every problem")
        return
    yield Check("config", True, str(path))
    every: list[tuple[str, Callable[[Config], str]]] = [
        ("state", _state),
        ("space", _space),
        ("lock", _lock),
        ("paths", _paths),
        ("address", _address),
        *([] if offline else [("daemon", _daemon)]),
        *(("code", partial(_code, each)) for each in sorted(Path(config.codes).glob("*.toml"))),
        ("codes", _codes),
    ]
    for name, check in every:
        yield _checked(name, partial(check, config))
    backend = _checked("backend", partial(_backend, config))
    yield backend
    images: list[Image] = []
    if backend.ok and config.docker.hosts:
        offered = site_codes(config)
        images = [code.docker for code in offered.values() if code.docker]
        for name, look in engine_checks(config, offered):
            yield _checked(name, look)
    if backend.ok:
        yield from _rehearsed(config, images[0] if images else None)
    else:
        yield from (Check(name, False, "could not be tried", "mend the backend first") for name in ("agent", "run"))


def _rehearsed(config: Config, image: Image | None) -> Iterator[Check]:
    for name, found in rehearse(config, image):
        if isinstance(found, Unwell):
            yield Check(name, False, str(found), found.advice)
        else:
            yield Check(name, True, found)


def _checked(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check())
    except Unwell as fault:
        return Check(name, False, str(fault), fault.advice)
    except (ConfigError, CodecError, BackendError, OSError, UnicodeDecodeError) as error:
        return Check(name, False, str(error))


# --- the state directory --------------------------------------------------------------------------------------------


def _state(config: Config) -> str:
    """It is there, ours, and nobody else's."""
    directory = config.directory
    if not directory.is_dir():
        raise Unwell(f"{directory} is no directory", f"make it: install -d -m 711 -o USER {directory}")
    status = directory.stat()
    if status.st_uid != os.geteuid():
        raise Unwell(f"{directory} belongs to {_name(status.st_uid)}, and you are {_name(os.geteuid())}", RUN_AS)
    if status.st_mode & OTHERS_WRITE:
        raise Unwell(f"others than jobd can write into {directory}", f"chmod go-w {directory}")
    for secret in (directory / name for name in SECRETS):
        if secret.exists() and secret.stat().st_mode & OTHERS_ANY:
            raise Unwell(f"{secret} is open to others than jobd", f"chmod go= {secret}")
    try:
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise Unwell(f"{directory} cannot be written: {error.strerror}", "is it mounted read-only?") from None
    return str(directory)


def _space(config: Config) -> str:
    """There is room for logs, results and the store."""
    directory = config.directory
    while not directory.exists():
        directory = directory.parent
    disk = os.statvfs(directory)
    free = disk.f_bavail * disk.f_frsize
    if free < FREE_BYTES_MIN:
        raise Unwell(f"{free >> 20} MiB free", "make room, or move state to a larger disk")
    if disk.f_files and disk.f_favail < FREE_INODES_MIN:
        raise Unwell(f"{disk.f_favail} inodes free", "the disk holds too many small files")
    return f"{free / (1 << 30):.1f} GiB free"


def _lock(config: Config) -> str:
    """Who works in the state directory."""
    holder = _holder(config)
    if holder is None:
        return "no daemon works here"
    try:
        words = Path(f"/proc/{holder}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        words = "another process"
    return f"held by process {holder}: {words}"


def _holder(config: Config) -> int | None:
    """The process that holds the lock: from the kernel's list, since to try it could stop a daemon that starts."""
    lock = config.directory / "lock"
    if not lock.exists():
        return None
    inode = str(lock.stat().st_ino)
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1] == "FLOCK" and words[5].rpartition(":")[2] == inode:
            return int(words[4])
    return None


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


# --- doors ----------------------------------------------------------------------------------------------------------


def _paths(config: Config) -> str:
    check_paths(config)
    return "the sockets' paths are short enough"


def _address(config: Config) -> str:
    """The gateway's door, and the token that opens it."""
    http = config.http
    if http.token_file:
        service_token(config)
    if _holder(config) is not None:
        return f"the daemon has it: {(config.directory / 'address').read_text().strip()}"
    family, kind, protocol, _, address = socket.getaddrinfo(http.host, http.port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind(address)
        except OSError as error:
            raise Unwell(f"{http.host}:{http.port}: {error.strerror}", "change http.host or http.port") from None
    return f"{http.host}:{http.port} is free"


def _daemon(config: Config) -> str:
    """The one that serves: it answers, offers the codes that are described, and its agents start."""
    path = config.admin_socket
    if path.exists() and not os.access(path, os.W_OK):
        raise Unwell(f"you may not use {path}", RUN_AS)
    try:
        with Client(socket=path, patience_s=PATIENCE_S) as client:
            offered = {code.name: code.version for code in client.codes().codes}
            agents = client.agents().agents
    except JobdClientError as error:
        raise Unwell(f"{path}: {error}", "start it (systemctl start jobd), or say --offline") from None
    try:
        described = {code.name: code.version for code in load_codes(Path(config.codes), prefix(config)).values()}
    except CodecError:
        described = offered  # the codes' own check tells
    if offered != described:
        raise Unwell(f"it offers {', '.join(offered)}, not what {config.codes} describes now", "restart it")
    for agent in agents:
        if agent.failure and not agent.linked:
            raise Unwell(f"agent {agent.id} of {agent.user} does not start: {agent.failure}", "see `jobctl agents`")
    return f"answers at {path}; {sum(agent.linked for agent in agents)} agents are linked"


# --- codes and agents -----------------------------------------------------------------------------------------------


def _code(path: Path, config: Config) -> str:
    """A description parses, and what it names is there."""
    in_docker = bool(config.docker.hosts)
    code = load_code(path, paths_of(path, prefix(config), in_docker=in_docker))
    if in_docker:  # its programs are in its image
        return f"{code.name} {code.version}: {', '.join(code.modes)}"
    commands = {f"modes.{name}.command": mode.command for name, mode in code.modes.items() if name != "batch"}
    if code.analysis:
        commands["analysis.command"] = code.analysis.command
    where = code.environment.get("PATH", os.defpath)
    here = f"{path.resolve().parent}/"
    for field, command in commands.items():
        program = command[0] if command else ""
        if not shutil.which(program, path=where):
            raise Unwell(f"{path}: {field}: there is no program {program!r} in {where}", "install it, or mend its PATH")
        for word in command[1:]:
            if word.startswith(here) and not Path(word).exists():
                raise Unwell(f"{path}: {field}: there is no {word}", "install the code's files beside its description")
    return f"{code.name} {code.version}: {', '.join(code.modes)}"


def site_codes(config: Config) -> dict[str, Code]:
    """The codes as the daemon reads them; raises CodecError."""
    return load_codes(Path(config.codes), prefix(config), in_docker=bool(config.docker.hosts))


def _codes(config: Config) -> str:
    codes = site_codes(config)
    if not codes:
        raise Unwell(f"{config.codes} describes no code", "see docs/describing-a-code.md")
    return f"{config.codes} describes {', '.join(codes)}"


def _backend(config: Config) -> str:
    """What starts agents is there."""
    if config.docker.hosts:
        hosts_of(config, site_codes(config))
        return f"Docker, on {', '.join(config.docker.hosts)}"
    python = config.local.python or sys.executable
    if not shutil.which(python):
        raise Unwell(f"local.python: {python} cannot be executed", "name an interpreter, 3.10 or newer")
    hosts_of(config, {})
    return f"local, with {python}"
