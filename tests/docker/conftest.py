"""The engine of the test bed, and jobds that use it."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from dockerdaemon import CODES, DockerDaemon
from realdaemon import short_directory


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
