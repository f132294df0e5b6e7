import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "real"))

from certificates import Certificate
from remotesite import RemoteSite


@pytest.fixture(scope="session")
def certificate() -> Certificate:
    return Certificate()


@pytest.fixture(scope="module")
def make_home() -> Iterator[Callable[[], Path]]:
    """Makes directories that other uids may pass through, with a path that leaves room for unix sockets."""
    with ExitStack() as stack:

        def make() -> Path:
            path = Path(tempfile.mkdtemp(prefix="jobd-", dir="/tmp"))
            stack.callback(shutil.rmtree, path)
            path.chmod(0o711)
            return path

        yield make


@pytest.fixture
def home(make_home: Callable[[], Path]) -> Path:
    return make_home()


@pytest.fixture(scope="module")
def make_site(make_home: Callable[[], Path], certificate: Certificate) -> Iterator[Callable[..., RemoteSite]]:
    """Makes daemons whose agents have no way home but a relay; not started."""
    with ExitStack() as stack:

        def make(**tables: Any) -> RemoteSite:
            site = RemoteSite(make_home(), certificate, **tables)
            stack.callback(site.end)
            return site

        yield make
