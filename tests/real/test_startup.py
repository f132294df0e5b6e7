"""How a daemon begins, and how it refuses to: one line on stderr that names what to change, and no traceback."""

import os
import re
import socket
import subprocess
from collections.abc import Callable

import pytest
from realdaemon import BIN, Daemon, wait_until


def refusal(daemon: Daemon) -> str:
    """What a daemon that cannot start says."""
    refused = subprocess.run(
        [BIN / "jobd", "--config", daemon.home / "jobd.toml"], capture_output=True, text=True, timeout=20, check=False
    )
    assert refused.returncode == 1, refused.stderr
    assert refused.stderr.startswith("Error: ")
    assert refused.stderr.count("\n") == 1, refused.stderr
    assert refused.stdout == ""
    assert not (daemon.state / "address").exists()
    assert not (daemon.state / "admin.sock").is_socket()
    return refused.stderr.strip()


def write(content: bytes, *path: str) -> Callable[[Daemon], None]:
    def spoil(daemon: Daemon) -> None:
        where = daemon.home.joinpath(*path)
        where.parent.mkdir(exist_ok=True)
        where.write_bytes(content)

    return spoil


def add(line: str) -> Callable[[Daemon], None]:
    """One more line at the top of the configuration."""

    def spoil(daemon: Daemon) -> None:
        toml = daemon.home / "jobd.toml"
        toml.write_text(line + "\n" + toml.read_text())

    return spoil


def directory(*path: str) -> Callable[[Daemon], None]:
    return lambda daemon: daemon.home.joinpath(*path).mkdir(parents=True)


def nothing(_: Daemon) -> None:
    """The tables say it already."""


def put(key: str, value: str) -> Callable[[Daemon], None]:
    """Another value of a key at the top of the configuration."""

    def spoil(daemon: Daemon) -> None:
        toml = daemon.home / "jobd.toml"
        toml.write_text(re.sub(rf"(?m)^{key} = .*", f'{key} = "{value}"', toml.read_text()))

    return spoil


def a_bad_code(content: bytes) -> Callable[[Daemon], None]:
    """Codes of our own, with this one."""

    def spoil(daemon: Daemon) -> None:
        put("codes", "c")(daemon)
        write(content, "c", "x.toml")(daemon)

    return spoil


FAULTS = {
    "no file": (lambda daemon: (daemon.home / "jobd.toml").unlink(), {}, "{home}/jobd.toml"),
    "no TOML": (add("state = "), {}, "{home}/jobd.toml: is not TOML: Invalid value (at line 1, column 9)"),
    "no text": (write(b"state = '\xff'", "jobd.toml"), {}, "{home}/jobd.toml: is not UTF-8"),
    "an unknown key": (add("stat = 1"), {}, "{home}/jobd.toml: stat: is not a known field"),
    "an unknown key of a table": (nothing, {"http": {"prot": 1}}, "{home}/jobd.toml: http.prot: is not a known field"),
    "a wrong type": (nothing, {"http": {"port": "80"}}, "{home}/jobd.toml: http.port: must be an integer"),
    "a wrong number": (nothing, {"http": {"port": 70000}}, "http.port: must be between 0 and 65535, not 70000"),
    "a wrong time": (nothing, {"agents": {"stop_s": 0}}, "agents.stop_s: must be between 0.001 and"),
    "no codes": (put("codes", "nowhere"), {}, "codes: {home}/nowhere is not a directory"),
    "codes that are a file": (put("codes", "jobd.toml"), {}, "codes: {home}/jobd.toml is not a directory"),
    "a code without text": (a_bad_code(b"\xff"), {}, "{home}/c/x.toml: is not UTF-8"),
    "a code without a name": (a_bad_code(b"title = ''"), {}, "{home}/c/x.toml: name: is missing"),
    "a state below a file": (put("state", "jobd.toml/s"), {}, "{home}/jobd.toml/s"),
    "a state in nowhere": (put("state", "/proc/nowhere"), {}, "/proc/nowhere"),
    "a state with a long path": (put("state", "x" * 99), {}, "state: the path is too long for unix sockets"),
    "a store that is none": (write(b"x" * 999, "s", "jobd.sqlite"), {}, "{home}/s/jobd.sqlite: file is not a database"),
    "a store that is a directory": (directory("s", "jobd.sqlite"), {}, "{home}/s/jobd.sqlite: unable to open"),
    "a door that is a directory": (directory("s", "admin.sock"), {}, "{home}/s/admin.sock"),
    "no token": (nothing, {"http": {"token_file": "/no/token"}}, "http.token_file: /no/token: No such file"),
    "a token without text": (write(b"\xff" * 40, "s", "service-token"), {}, "{home}/s/service-token is not UTF-8"),
    "a token that is too short": (write(b"short", "s", "service-token"), {}, "a token of at least 16 characters"),
    "a host that is none": (nothing, {"http": {"host": "no.invalid"}}, "http: cannot listen on no.invalid:0: "),
    "no agent": (nothing, {"local": {"zipapp": "/no/agent"}}, "there is no agent at /no/agent"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_told_in_one_line_with_its_name(make_daemon: Callable[..., Daemon], fault: str) -> None:
    spoil, changed, words = FAULTS[fault]
    daemon = make_daemon(**changed)
    spoil(daemon)
    assert words.format(home=daemon.home) in refusal(daemon)


def test_a_port_that_is_taken_is_named(make_daemon: Callable[..., Daemon]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        daemon = make_daemon(http={"port": port})
        assert f"http: cannot listen on 127.0.0.1:{port}: Address already in use" in refusal(daemon)
    daemon.start()  # it has left nothing behind that a second try would fall over
    assert daemon.url == f"http://127.0.0.1:{port}"


@pytest.mark.skipif(os.getuid() != 0, reason="needs another uid that may not write")
def test_a_state_that_jobd_may_not_write_is_named(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    daemon.state.mkdir(mode=0o711)
    program = "import os; from jobd.__main__ import main; os.setgroups(()); os.setgid(31000); os.setuid(31000); main()"
    refused = subprocess.run(
        [BIN / "python", "-c", program, "--config", daemon.home / "jobd.toml"],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert refused.returncode == 1
    assert refused.stderr.strip() == f"Error: [Errno 13] Permission denied: '{daemon.state}/lock'"


# --- its own files --------------------------------------------------------------------------------------------------


def test_the_address_is_replaced_as_a_whole(make_daemon: Callable[..., Daemon]) -> None:
    """Programs wait for the file and read it at once; a file that is being written would have told them half of it."""
    daemon = make_daemon()
    daemon.state.mkdir(mode=0o711)
    address = daemon.state / "address"
    address.write_text("http://of.one.that.was.killed:1\n")
    with address.open() as before:
        daemon.process = daemon.launch()
        wait_until(lambda: "127.0.0.1" in address.read_text(), "jobd serves")
        assert before.read() == "http://of.one.that.was.killed:1\n"
    with daemon.client() as client:
        assert client.status("alice", "j")["state"] == "missing"


def test_the_daemons_files_are_its_own(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon().start()
    daemon.done("alice", "j", "true")
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in daemon.state.iterdir()}
    assert {name: mode for name, mode in modes.items() if mode not in ("0o600", "0o700")} == {
        "address": "0o644",  # where it listens is no secret
        "agents": "0o711",  # agents pass through, and see nothing
        "runs": "0o711",
    }


@pytest.mark.skipif(os.getuid() != 0, reason="only root can run agents under other uids")
@pytest.mark.parametrize("left_open", [False, True])
def test_no_run_can_keep_the_next_daemon_from_starting(make_daemon: Callable[..., Daemon], left_open: bool) -> None:
    """A lock can be taken by whoever can open its file, for reading too."""
    daemon = make_daemon(local={"uid_first": 31_000, "python": "/usr/bin/python3"})
    if left_open:  # by an older jobd
        daemon.state.mkdir(mode=0o711)
        (daemon.state / "lock").touch(mode=0o666)
        (daemon.state / "lock").chmod(0o666)
    daemon.start()
    daemon.run("mallory", "j", f"exec 9<{daemon.state}/lock; touch opened; flock 9; sleep 1000")
    opened = daemon.file("mallory", "j", "opened")
    daemon.until("mallory", "j", lambda now: now["state"] == "failed" or opened.exists())
    daemon.sigkill()
    daemon.start()
    status = daemon.until("mallory", "j", "failed")
    assert "Permission denied" in status["log_tail"]
