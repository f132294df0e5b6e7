import contextlib
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from realdaemon import Daemon, short_directory
from talking import Proxy, Speaker

# Whoever starts the tests in the background of a shell leaves them deaf to Ctrl-C, and with them all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def daemons() -> Iterator[Callable[..., Daemon]]:
    """Makes daemons, with the TOML tables that differ; they are not started, and ended at the end."""
    with contextlib.ExitStack() as stack:

        def make(**tables: Any) -> Daemon:
            daemon = Daemon(stack.enter_context(short_directory()), tables)
            stack.callback(daemon.end)
            return daemon

        yield make


make_daemon = pytest.fixture(daemons)
make_module_daemon = pytest.fixture(daemons, scope="module")


@pytest.fixture(scope="module")
def daemon(make_module_daemon: Callable[..., Daemon]) -> Daemon:
    """One daemon for all tests of a module. Tests use jobs of their own, and leave no run behind."""
    return make_module_daemon().start()


@pytest.fixture
def job(request: pytest.FixtureRequest) -> str:
    """A job name that no other test uses."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", request.node.name)[-100:].strip("-_.")


# --- a client over a wire that a test may cut; `kind` is the parameter of the test: "threads" or "trio" -------------


@pytest.fixture
def proxy(daemon: Daemon) -> Iterator[Proxy]:
    proxy = Proxy(daemon.url)
    yield proxy
    proxy.close()


@pytest.fixture
def jobd(proxy: Proxy, daemon: Daemon, kind: str) -> Speaker:
    """The gateway's client, over the proxy."""
    return Speaker(kind, proxy.url, token=daemon.token)


@pytest.fixture
def direct(daemon: Daemon) -> Speaker:
    """What nothing harms."""
    return Speaker("threads", daemon.url, token=daemon.token)
