"""A real daemon, a real sshd: a user logs in over REST, and the agent that this brings outlives the login."""

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from certificates import Certificate
from loginnode import PYTHON, Sshd, User, public_key

sys.path.insert(0, str(Path(__file__).parent.parent / "real"))

from realdaemon import Daemon, short_directory, wait_until

pytestmark = pytest.mark.ssh

CODE = """
name = "shell"
title = "A shell script"
version = "1"
[modes.sequential]
command = ["/bin/sh", "script.sh"]
[modes.batch]
command = ["/bin/sh", "script.sh"]
"""
LOGIN = "/v1/users/alice/clusters/hpc/login"


def described(sshd: Sshd, *host_keys: str) -> str:
    values = {
        "name": "hpc",
        "title": "A cluster",
        "login_nodes": [f"127.0.0.1:{sshd.port}"],
        "host_keys": list(host_keys or sshd.target().host_keys),
        "home": "127.0.0.1",
        "python": PYTHON,
    }
    top = "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
    return f"{top}\n[partitions.short]\nrun_s_max = 3600.0\n[codes.shell]\n"


class Site:
    """The daemon and what it knows of the cluster."""

    def __init__(self, home: Path, sshd: Sshd, certificate: Certificate, *host_keys: str) -> None:
        for name in ("codes", "clusters"):
            (home / name).mkdir()
        (home / "codes" / "shell.toml").write_text(CODE)
        (home / "clusters" / "hpc.toml").write_text(described(sshd, *host_keys))
        (home / "tls.pem").write_text(certificate.pem)
        (home / "tls.key").write_text(certificate.key())
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        tls = {"certificate_file": "tls.pem", "key_file": "tls.key", "host": "127.0.0.1", "port": port}
        self.daemon = Daemon(home, {"tls": tls}, clusters=str(home / "clusters"), codes=str(home / "codes"))
        self.daemon.start()

    def ask(self, method: str, path: str = LOGIN, body: Any = None) -> httpx.Response:
        with self.daemon.http() as http:
            return http.request(method, path, json=body, timeout=60)

    def state(self) -> str:
        state: str = self.ask("GET").json()["state"]
        return state


@pytest.fixture
def make_site(certificate: Certificate, user: User) -> Iterator[Any]:
    user.write("bin/sbatch", "#!/bin/sh\n", 0o755)
    user.write(".profile", 'PATH="$HOME/bin:$PATH"\n')
    with ExitStack() as stack:

        def make(sshd: Sshd, *host_keys: str) -> Site:
            site = Site(stack.enter_context(short_directory()), sshd, certificate, *host_keys)
            stack.callback(site.daemon.end)
            return site

        yield make
    user.end_processes()


def test_a_login_is_used_once_and_its_agent_outlives_it_and_the_daemon(make_site: Any, sshd: Sshd, user: User) -> None:
    site = make_site(sshd)
    assert site.ask("GET", "/v1/clusters").json()["clusters"][0]["codes"] == ["shell"]
    body = {"username": user.name, "password": user.password}
    reply = site.ask("POST", body=body)
    assert reply.status_code == 200, reply.text
    assert (reply.json()["state"], reply.json()["username"]) == ("ready", user.name)
    (pid,) = [each for each in user.processes() if b"--login" in Path(f"/proc/{each}/cmdline").read_bytes()][:1]
    site.daemon.sigkill_and_restart()
    wait_until(lambda: site.state() == "ready", "it calls home by itself")
    assert pid in user.processes()
    assert site.ask("DELETE").status_code == 204
    wait_until(lambda: not user.processes(), "logged out, it has ended")
    assert site.state() == "none"
    left = [
        path for path in site.daemon.home.rglob("*") if path.is_file() and user.password in path.read_text("latin-1")
    ]
    assert not left, "the password is nowhere"


@pytest.mark.parametrize("what", ["password", "key"])
def test_wrong_credentials_are_told_once_and_then_there_is_a_pause(
    make_site: Any, sshd: Sshd, user: User, what: str
) -> None:
    site = make_site(sshd)
    secret = "hunter2-hunter2" if what == "password" else "-----BEGIN OPENSSH PRIVATE KEY-----\nZm9vYmFyYmF6\n"
    first = site.ask("POST", body={"username": user.name, what: secret})
    assert first.status_code in (403, 502), first.text
    assert first.json()["code"] in ("login_refused", "login_failed")
    second = site.ask("POST", body={"username": user.name, what: secret})
    assert (second.status_code, second.json()["code"]) == (429, "login_active")
    assert int(second.headers["retry-after"]) >= 1
    told = first.text + second.text + site.ask("GET").text + site.daemon.log()
    assert secret not in told
    assert "Zm9vYmFyYmF6" not in told


def test_a_changed_host_key_is_refused_before_any_secret_is_sent(
    make_site: Any, sshd: Sshd, user: User, bed: Path
) -> None:
    site = make_site(sshd, public_key(bed))
    let_in = sshd.log().count("Accepted")
    reply = site.ask("POST", body={"username": user.name, "password": user.password})
    assert (reply.status_code, reply.json()["reason"]) == (502, "host_key_changed"), reply.text
    assert sshd.log().count("Accepted") == let_in


def test_a_batch_run_waits_for_the_login_and_is_never_executed_on_the_login_node(
    make_site: Any, sshd: Sshd, user: User
) -> None:
    site = make_site(sshd)
    run = {"code": "shell", "mode": "batch", "batch": {"cluster": "hpc"}, "inputs": {"script.sh": {"text": "true"}}}
    refused = site.ask(
        "PUT", "/v1/users/alice/jobs/j/run", {**run, "batch": {"cluster": "hpc", "nodes": 9, "tasks": 9}}
    )
    assert (refused.status_code, refused.json()["field"]) == (422, "batch.nodes")
    assert site.ask("PUT", "/v1/users/alice/jobs/j/run", run).status_code == 202
    wait_until(lambda: site.daemon.status("alice", "j").get("situation", {}).get("code") == "login", "it waits")
    site.ask("POST", body={"username": user.name, "password": user.password})
    status = site.daemon.until("alice", "j", "failed")
    assert status["cause"]["code"] == "not_started"


def test_another_users_login_and_unknown_clusters_are_nobodys(make_site: Any, sshd: Sshd, user: User) -> None:
    site = make_site(sshd)
    site.ask("POST", body={"username": user.name, "password": user.password})
    assert site.ask("GET", LOGIN.replace("alice", "mallory")).json()["state"] == "none"
    assert site.ask("POST", LOGIN.replace("hpc", "other"), {"username": "x", "password": "y"}).status_code == 404
    for body, field in (({"username": "x"}, "password"), ({"username": "", "password": "y"}, "username")):
        reply = site.ask("POST", body=body)
        assert (reply.status_code, reply.json()["field"]) == (422, field), reply.text
