"""A login node: a real sshd on loopback with host key and configuration of its own, and a real user of the tests."""

import base64
import contextlib
import grp
import hmac
import os
import pwd
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backends._ssh import Target

SSHD = "/usr/sbin/sshd"
PAM_MODULE = "pam_google_authenticator.so"
PACKAGES = ("openssh-server", "libpam-google-authenticator")
PAM = {
    "password": "auth required pam_unix.so nodelay",
    "then a code": f"auth requisite pam_unix.so nodelay\nauth required {PAM_MODULE}",
    "code first": f"auth requisite {PAM_MODULE}\nauth required pam_unix.so nodelay",
    "one field": f"auth required {PAM_MODULE} forward_pass\nauth required pam_unix.so nodelay use_first_pass",
}


def install() -> None:
    """The packages, where they are missing; needs root."""
    if not os.path.exists(SSHD) or not list(Path("/lib").glob(f"*/security/{PAM_MODULE}")):
        os.environ.setdefault("DEBIAN_FRONTEND", "noninteractive")
        ran("apt-get", "update")
        ran("apt-get", "install", "-y", "--no-install-recommends", *PACKAGES)


def ran(*command: str | Path) -> str:
    """What a command has printed; it must succeed."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class User:
    """An account with a password, a one-time code and a key; gone afterwards, with all that it left."""

    def __init__(self, directory: Path) -> None:
        self.name = f"jobdt{secrets.token_hex(3)}"
        self.home = directory / self.name
        self.password = f"pw-{secrets.token_hex(12)}"
        self.seed = secrets.token_bytes(20)
        subprocess.run(["useradd", "-m", "-d", self.home, "-s", "/bin/bash", self.name], check=True)
        subprocess.run(["chpasswd"], input=f"{self.name}:{self.password}", text=True, check=True)
        self.uid = pwd.getpwnam(self.name).pw_uid
        self.key = directory / "user_key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        self.write(".google_authenticator", f'{base64.b32encode(self.seed).decode()}\n" TOTP_AUTH\n', 0o400)

    def write(self, name: str, text: str, mode: int = 0o644) -> Path:
        path = self.home / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(mode)
        for each in (path, path.parent):
            shutil.chown(each, self.name, self.name)
        return path

    def code(self, steps_away: int = 0) -> str:
        """The one-time code of now (RFC 6238)."""
        digest = hmac.digest(self.seed, struct.pack(">Q", int(time.time() / 30) + steps_away), "sha1")
        number = struct.unpack(">I", digest[digest[-1] & 15 :][:4])[0] & 0x7FFFFFFF
        return f"{number % 1_000_000:06d}"

    def processes(self) -> list[int]:
        """Its living ones."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if path.stat().st_uid == self.uid and (path / "cmdline").read_bytes():
                    found.append(int(path.name))
        return found

    def end_processes(self) -> None:
        deadline = time.monotonic() + 10
        while (pids := self.processes()) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def remove(self) -> None:
        self.end_processes()
        subprocess.run(["userdel", self.name], check=True, capture_output=True)
        with contextlib.suppress(KeyError):
            grp.getgrnam(self.name)
            subprocess.run(["groupdel", self.name], check=True)


class Sshd:
    """One server. `pam` names what it asks."""

    def __init__(self, user: User, directory: Path, pam: str = "password", **options: Any) -> None:
        self.directory = Path(tempfile.mkdtemp(dir=directory))
        self.directory.chmod(0o755)
        self.user = user
        self.host_key = self.directory / "host_key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.host_key], check=True)
        # PAM's service is named by the program, so this server has rules of its own.
        self._program = self.directory / f"jobdsshd{secrets.token_hex(3)}"
        self._program.symlink_to(SSHD)
        self._pam_file = Path("/etc/pam.d") / self._program.name
        rules = PAM[pam].format(directory=self.directory)
        self._pam_file.write_text(f"{rules}\naccount required pam_unix.so\nsession required pam_permit.so\n")
        shutil.copy(user.key.with_suffix(".pub"), self.directory / "authorized_keys")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Sshd":
        options = {
            "Port": self.port,
            "ListenAddress": "127.0.0.1",
            "HostKey": self.host_key,
            "PidFile": "none",
            "AuthorizedKeysFile": self.directory / "authorized_keys",
            "StrictModes": "no",
            "UsePAM": "yes",
            "PasswordAuthentication": "yes",
            "KbdInteractiveAuthentication": "yes",
            "AllowUsers": self.user.name,
            "LogLevel": "VERBOSE",
            "UseDNS": "no",
            "PrintMotd": "no",
            "Subsystem": "sftp internal-sftp",
        } | self._options
        config = self.directory / "sshd_config"
        config.write_text("".join(f"{key} {value}\n" for key, value in options.items()))
        Path("/run/sshd").mkdir(exist_ok=True)
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                [self._program, "-D", "-e", "-f", config], stderr=log, stdin=subprocess.DEVNULL
            )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return self
            time.sleep(0.02)
        raise AssertionError(self.log())

    def log(self) -> str:
        return (self.directory / "log").read_text()

    def target(self, *keys: str) -> Target:
        """How it is known; its own host key, if no other is given."""
        own = " ".join(self.host_key.with_suffix(".pub").read_text().split()[:2])
        return Target("127.0.0.1", self.port, keys or (own,))

    def end(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
        self._pam_file.unlink()


def public_key(directory: Path, kind: str = "ed25519") -> str:
    """Of a key that nobody has."""
    path = directory / f"other_{secrets.token_hex(3)}"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", path], check=True)
    return " ".join(path.with_suffix(".pub").read_text().split()[:2])


@contextlib.contextmanager
def mute_port() -> Iterator[int]:
    """A port that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


PYTHON = next((path for path in ("/usr/bin/python3", sys.executable) if os.path.exists(path)), sys.executable)
