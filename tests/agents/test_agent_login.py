"""Agents that are started as on a login node: detached, with the token in memory only, and home by TLS."""

import hashlib
import os
import re
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from certificates import Certificate
from homes import LoginPlace, jobd_behind_tls, proxy, until_gone

from agents import procs
from agents.dial import Calls, connect_request
from schemas.link import ALPN_LINK, Read
from schemas.setups import Home

PATIENCE_S = 30


async def test_it_runs_and_moves_files_as_any_agent_does(node: LoginPlace) -> None:
    content = os.urandom(3 << 20)
    with trio.fail_after(PATIENCE_S):
        async with jobd_behind_tls(node) as jobd:
            assert node.login(1).returncode == 0
            await jobd.until(lambda: jobd.hellos)
            given = jobd.input("big", content)
            epoch = await jobd.start("sh", "-c", "cat big big >out", inputs=(given,))
            assert (await jobd.ended(epoch)).exit_code == 0
            out = await jobd.asked_bytes(Read, epoch, path="out")
            assert hashlib.sha256(out).digest() == hashlib.sha256(2 * content).digest()


async def test_a_lost_connection_is_dialled_again(node: LoginPlace) -> None:
    with trio.fail_after(PATIENCE_S):
        async with jobd_behind_tls(node) as jobd:
            node.login(1)
            await jobd.until(lambda: jobd.hellos)
            await jobd.vanish()
            await trio.sleep(0.5)
            await jobd.listen()
            await jobd.until(lambda: len(jobd.hellos) == 2)
    assert "all attempts to connect" in node.log()
    assert "is there again" in node.log()


# --- the start ------------------------------------------------------------------------------------------------------


async def test_the_command_ends_and_its_agent_lives_on_in_a_session_of_its_own(node: LoginPlace) -> None:
    async with jobd_behind_tls(node):
        began = time.monotonic()
        done = node.login(1)
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - began < 10
    arrival = node.arrivals[0]
    process = procs.look_up(arrival.pid)
    assert process is not None
    assert (process.session, process.start_ticks) == (arrival.pid, arrival.start_ticks)
    assert (arrival.host, arrival.boot) == (os.uname().nodename, procs.boot_id())
    assert arrival.python == ".".join(map(str, __import__("sys").version_info[:3]))
    log = str(node.own / "log")
    assert [os.readlink(f"/proc/{arrival.pid}/fd/{number}") for number in range(3)] == [os.devnull, log, log]
    assert os.readlink(f"/proc/{arrival.pid}/cwd") == "/"
    for pid in node.survivors():
        if pid != arrival.pid:  # the fork server, which has a pipe to itself and none of the command's
            links = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
            assert len([link for link in links if link.startswith("pipe:")]) == 1


async def test_whether_there_is_a_scheduler_is_told(node: LoginPlace) -> None:
    scheduler = node.place / "bin" / "sbatch"
    scheduler.parent.mkdir()
    scheduler.write_text("#!/bin/sh\n")
    scheduler.chmod(0o755)
    async with jobd_behind_tls(node):
        node.login(1, PATH="/nowhere")  # this machine may have one
        node.login(2, PATH=f"{scheduler.parent}:/usr/bin:/bin")
    assert [arrival.sbatch for arrival in node.arrivals] == [False, True]


async def test_its_directories_are_the_users_own(node: LoginPlace) -> None:
    async with jobd_behind_tls(node):
        os.umask(0)
        node.login(1)
        os.umask(0o022)
    for path in [node.root / ".jobd", *(node.root / ".jobd").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize("written", ["~/work/jobd", "$SCRATCH/jobd", "${HOME}/work/./jobd/"])
async def test_the_directory_is_named_in_the_machines_own_words(node: LoginPlace, written: str) -> None:
    node.written_root = written
    async with jobd_behind_tls(node):
        assert node.login(1, HOME=str(node.root), SCRATCH=str(node.root / "work")).returncode == 0
    assert (node.root / "work" / "jobd" / ".jobd" / "agents" / node.agent / "log").exists()


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "a variable that is not set": ({"written_root": "$NOWHERE/x"}, r"root: \$NOWHERE is not set on "),
    "a relative path": ({"written_root": "x"}, "root: 'x' does not begin with /"),
    "a path that cannot be": ({"written_root": "/proc/x"}, "No such file or directory: '/proc/x'"),
    "certificates that are none": ({"home": {"certificates": "x"}}, "cannot start: "),
    "a proxy that is none": ({"home": {"proxy": "x"}}, "'x' is not host:port"),
    "a host that is none": ({"home": {"host": "a b"}}, "'a b' is not the name of a host"),
}


@pytest.mark.parametrize("fault", REFUSALS)
async def test_a_setup_that_cannot_work_is_told_by_the_command(node: LoginPlace, fault: str) -> None:
    changed, words = REFUSALS[fault]
    for name, value in changed.items():
        setattr(node, name, value)
    async with jobd_behind_tls(node):
        done = node.login(1)
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.search(words, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert node.survivors() == []


@pytest.mark.parametrize("given", ["", "nonsense\n", "{}\n", "x" * 200_000, '{"agent": "aaaaaaaaaa"}\ntoken\n'])
def test_whatever_else_comes_by_stdin_is_refused(node: LoginPlace, given: str) -> None:
    import subprocess
    import sys

    from standin_jobd import REPOSITORY

    done = subprocess.run(
        [sys.executable, "-m", "agents", "--login"], input=given, capture_output=True, text=True, cwd="/",
        env={"PYTHONPATH": str(REPOSITORY)}, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("cannot start: ")
    assert "Traceback" not in done.stderr


async def test_without_a_token_it_does_not_begin(node: LoginPlace) -> None:
    (node.place / "token").write_text("")
    async with jobd_behind_tls(node):
        done = node.login(1)
    assert (done.returncode, node.survivors()) == (1, [])
    assert "no token came" in done.stderr


async def test_its_log_does_not_grow_without_end(node: LoginPlace) -> None:
    node.own.mkdir(parents=True)
    (node.own / "log").write_bytes(b"old line\n" * 200_000)
    async with jobd_behind_tls(node):
        node.login(1)
    assert (node.own / "log").stat().st_size < 600_000
    assert "generation 1" in node.log()[-500:]
    (node.own / "log").write_bytes(b"old line\n" * 200_000)
    (node.place / "token").write_text("")
    done = node.login(2)
    assert "generation 2" in done.stderr
    assert "old line" not in done.stderr


# --- the token ------------------------------------------------------------------------------------------------------


async def test_the_token_is_in_the_memory_of_the_agent_and_nowhere_else(node: LoginPlace) -> None:
    with trio.fail_after(PATIENCE_S):
        async with jobd_behind_tls(node) as jobd:
            node.login(1)
            await jobd.until(lambda: jobd.hellos)
            epoch = await jobd.start("sleep", "60")
            await jobd.started(epoch)
            ours = {pid: in_memory(pid, node.token.encode()) for pid in node.survivors()}
            assert ours.pop(node.pid)
            assert len(ours) >= 3  # the fork server, the run's parent, the run
            assert not any(ours.values())
            for pid in (node.pid, *ours):
                for part in ("cmdline", "environ"):
                    assert node.token.encode() not in Path(f"/proc/{pid}/{part}").read_bytes()
            for path in node.root.rglob("*"):
                assert path.is_dir() or node.token.encode() not in path.read_bytes(), path
            await jobd.stop(epoch)
            await jobd.ended(epoch)


def in_memory(pid: int, secret: bytes) -> bool:
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            first, last = (int(number, 16) for number in line.split()[0].split("-"))
            if line.split()[1].startswith("rw"):
                memory.seek(first)
                try:
                    if secret in memory.read(last - first):
                        return True
                except OSError:
                    continue
    return False


# --- the way --------------------------------------------------------------------------------------------------------


async def test_it_goes_through_a_proxy(node: LoginPlace) -> None:
    with trio.fail_after(PATIENCE_S), proxy() as (address, process):
        node.home["proxy"] = address
        async with jobd_behind_tls(node) as jobd:
            node.login(1)
            await jobd.until(lambda: jobd.hellos)
            given = jobd.input("file", b"x" * 100_000)
            epoch = await jobd.start("cmp", "file", "file", inputs=(given,))
            assert (await jobd.ended(epoch)).exit_code == 0
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == [f"127.0.0.1:{node.port}\n"] * 2


PROXY_ANSWERS = {
    "HTTP/1.1 407 Proxy Authentication Required": "answered CONNECT with 'HTTP/1.1 407 Proxy Authentication Required'",
    "HTTP/1.1 502 Bad Gateway": "answered CONNECT with 'HTTP/1.1 502 Bad Gateway'",
    "SSH-2.0-OpenSSH": "answered CONNECT with 'SSH-2.0-OpenSSH'",
    "HTTP/1.1 299 ok\\r\\n\\r\\nearly": "sent something of its own",
    "HTTP/1.1 200 " + "x" * 20_000: "gave no answer to CONNECT",
    "silence": "no answer within 1 s",
}


@pytest.mark.parametrize("answer", PROXY_ANSWERS)
async def test_a_proxy_that_does_not_join_is_told(certificate: Certificate, answer: str) -> None:
    with proxy(answer) as (address, _):
        calls = Calls(Home("127.0.0.1", 9, "jobd.example", certificate.pem, address), connect_s=1.0)
        with pytest.raises(ConnectionError) as caught:
            await calls.dial(ALPN_LINK)
    assert PROXY_ANSWERS[answer] in str(caught.value)


async def test_a_proxy_that_is_not_there_is_told(certificate: Certificate) -> None:
    calls = Calls(Home("127.0.0.1", 9, "jobd.example", certificate.pem, "127.0.0.1:9"))
    with pytest.raises(ConnectionError, match="all attempts to connect"):
        await calls.dial(ALPN_LINK)


def test_a_proxy_is_asked_for_an_address_in_its_own_notation() -> None:
    assert connect_request(Home("::1", 5, "x", "")).startswith(b"CONNECT [::1]:5 HTTP/1.1\r\nHost: [::1]:5\r\n")


async def test_a_jobd_that_is_not_the_pinned_one_is_never_told_the_token(node: LoginPlace) -> None:
    node.home["certificates"] = Certificate().pem
    async with jobd_behind_tls(node) as jobd:
        node.login(1)
        await trio.sleep(1)
        assert jobd.hellos == []
    assert "certificate verify failed" in node.log()
    assert node.log().count("certificate verify failed") == 1  # told once


async def test_a_name_that_is_not_the_certificates_is_refused(node: LoginPlace) -> None:
    node.home["server_name"] = "other.example"
    async with jobd_behind_tls(node) as jobd:
        node.login(1)
        await trio.sleep(1)
        assert jobd.hellos == []
    assert "Hostname mismatch" in node.log()


# --- the end --------------------------------------------------------------------------------------------------------


async def test_its_end_releases_the_hold(node: LoginPlace) -> None:
    async with jobd_behind_tls(node):
        node.login(1)
        assert (node.own / "holder").exists()
        os.kill(node.pid, signal.SIGTERM)
        until_gone(node.pid)
    assert not (node.own / "holder").exists()
    assert node.survivors() == []


async def test_it_holds_on_until_nothing_of_it_could_start_a_run(node: LoginPlace) -> None:
    async with jobd_behind_tls(node):
        node.login(1)
        [fork_server] = [pid for pid in node.survivors() if pid != node.pid]
        os.kill(fork_server, signal.SIGSTOP)
        os.kill(node.pid, signal.SIGTERM)
        await trio.sleep(1.5)
        assert (node.own / "holder").exists()
        until_gone(node.pid)
    assert not (node.own / "holder").exists()
    assert node.survivors() == []


@pytest.fixture(autouse=True)
def no_tracebacks(node: LoginPlace) -> Iterator[None]:
    yield
    if (node.own / "log").exists():
        assert "Traceback" not in node.log(), node.log()
