"""The engine of the test bed, and jobds that use it."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from dockerdaemon import CODES, DockerDaemon
from realdaemon import short_directory

ROOT = Path(__file__).parents[2]
BED = ROOT / "deploy" / "testbed"


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """A client of the bed's engine, which has our images; an engine that was down is stopped at the end."""
    if os.getuid() != 0:
        words = "an engine needs root: run the tests as root, after `make testbed`"
        pytest.fail(words) if os.environ.get("JOBD_REAL") == "all" else pytest.skip(words)
    was_up = bed("engine.sh", "status", check=False).returncode == 0
    bed("engine.sh", "install")
    bed("engine.sh", "up")
    bed("images.sh", "build")
    home = Path(os.environ.get("JOBD_BED_ENGINE", ROOT / "build" / "testbed" / "engine"))
    client = client_of(f"unix://{home / 'docker.sock'}")
    yield client
    client.close()
    if not was_up:
        bed("engine.sh", "down")


def bed(
    script: str, *arguments: str, check: bool = True, home: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a script of the test bed, for the engine of this home."""
    environment = {**os.environ, **({"JOBD_BED_ENGINE": str(home)} if home else {})}
    command = ["bash", BED / script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def client_of(url: str) -> docker.DockerClient:
    client = docker.DockerClient(base_url=url, version="1.41", timeout=20)
    client.api.trust_env = False
    client.url = url
    return client


def daemons(engine: docker.DockerClient) -> Iterator[Callable[..., DockerDaemon]]:
    """Makes daemons on the engine, with the TOML tables that differ; they are not started, and ended at the end."""
    with contextlib.ExitStack() as stack:

        def make(host: dict[str, Any] | None = None, codes: Path = CODES, **tables: Any) -> DockerDaemon:
            hosts = {"here": {"url": engine.url, "cores": 8, "memory_bytes": 8 << 30, **(host or {})}}
            daemon = DockerDaemon(stack.enter_context(short_directory()), engine, hosts, tables, codes)
            stack.callback(daemon.end)
            return daemon

        yield make


make_daemon = pytest.fixture(daemons)
make_module_daemon = pytest.fixture(daemons, scope="module")


@pytest.fixture(scope="module")
def daemon(make_module_daemon: Callable[..., DockerDaemon]) -> DockerDaemon:
    """One for all tests of a module that break nothing; each test has users of its own."""
    return make_module_daemon().start()


@pytest.fixture
def user(request: pytest.FixtureRequest) -> str:
    """A user of the test's own."""
    return request.node.name.replace("[", "-").replace("]", "")[:100]
