"""The table [tls]: what is wrong with it is told by name, and where the port is, is written down."""

import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from certificates import Certificate
from realdaemon import BIN, Daemon
from remotesite import dial

from schemas.link import ALPN_LINK

Spoil = Callable[[Path, Certificate], object]

FAULTS: dict[str, tuple[Spoil, dict[str, object], str]] = {
    "no certificate": (lambda home, _: (home / "tls.crt").unlink(), {}, "tls.certificate_file: {home}/tls.crt"),
    "no key": (lambda home, _: (home / "tls.key").unlink(), {}, "tls.key_file: {home}/tls.key: No such file"),
    "a directory": (lambda home, _: None, {"key_file": "/etc"}, "tls.key_file: /etc: Is a directory"),
    "an empty certificate": (lambda home, _: (home / "tls.crt").write_text(""), {}, "tls.certificate_file: {home}"),
    "an odd certificate": (lambda home, _: (home / "tls.crt").write_bytes(b"\xff"), {}, "holds no PEM certificate"),
    "an odd key": (lambda home, _: (home / "tls.key").write_text("x"), {}, "tls.key_file: {home}/tls.key is no key"),
    "another's key": (lambda home, _: (home / "tls.key").write_text(Certificate().key()), {}, "KEY_VALUES_MISMATCH"),
    "a password": (lambda home, own: (home / "tls.key").write_text(own.key(b"x")), {}, "tls.key_file: {home}/tls.key"),
    "an unknown key": (lambda home, _: None, {"cert": "x"}, "tls.cert: is not a known field"),
    "no place for strangers": (lambda home, _: None, {"strangers_max": 0}, "tls.strangers_max: must be between"),
    "a host that is none": (lambda home, _: None, {"host": "no.invalid"}, "tls: cannot listen on no.invalid:0: "),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_told_in_one_line_with_its_name(home: Path, certificate: Certificate, fault: str) -> None:
    spoil, changed, words = FAULTS[fault]
    daemon = Daemon(home, {"tls": {**certificate.write(home), "host": "127.0.0.1", "port": 0, **changed}})
    spoil(home, certificate)
    refused = subprocess.run(
        [BIN / "jobd", "--config", home / "jobd.toml"], capture_output=True, text=True, timeout=20, check=False
    )
    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: ")
    assert refused.stderr.count("\n") == 1, refused.stderr
    assert words.format(home=home) in refused.stderr
    assert not (daemon.state / "tls-address").exists()
    if "listen" not in words:
        checked = subprocess.run(
            [BIN / "jobctl", "config", "check", home / "jobd.toml"], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 1
        assert words.format(home=home).split(": ")[0] in checked.stdout


def test_a_table_without_its_files_is_refused(home: Path) -> None:
    Daemon(home, {"tls": {"port": 0}})
    refused = subprocess.run(
        [BIN / "jobd", "--config", home / "jobd.toml"], capture_output=True, text=True, timeout=20, check=False
    )
    assert "tls.certificate_file: is missing" in refused.stderr


def test_the_port_is_written_down_and_the_files_may_be_named_relatively(home: Path, certificate: Certificate) -> None:
    certificate.write(home)
    daemon = Daemon(
        home, {"tls": {"certificate_file": "tls.crt", "key_file": "tls.key", "host": "127.0.0.1", "port": 0}}
    )
    daemon.start()
    path = daemon.state / "tls-address"
    address = urlsplit(path.read_text().strip())
    assert (address.scheme, address.hostname, stat.S_IMODE(path.stat().st_mode)) == ("tls", "127.0.0.1", 0o644)
    with dial(address.port, ALPN_LINK) as sock:
        assert sock.selected_alpn_protocol() == ALPN_LINK
        assert sock.version() == "TLSv1.3"
    daemon.end()
    assert not path.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.hostname, address.port))


def test_without_the_table_there_is_no_port(home: Path) -> None:
    daemon = Daemon(home).start()
    assert not (daemon.state / "tls-address").exists()
    daemon.end()
