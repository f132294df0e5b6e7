"""The engine of the test bed, and jobds that use it."""

from collections.abc import Callable

import pytest
from dockerdaemon import DockerDaemon, daemons

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
