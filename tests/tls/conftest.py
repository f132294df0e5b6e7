import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "real"))

from certificates import Certificate
from remotesite import RemoteSite


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that other uids may pass through, with a path that leaves room for unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="jobd-", dir="/tmp"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def certificate() -> Certificate:
    return Certificate()


@pytest.fixture
def site(home: Path, certificate: Certificate) -> Iterator[RemoteSite]:
    """A daemon whose agents have no way home but a relay; not started."""
    with ExitStack() as stack:
        site = RemoteSite(home, certificate)
        stack.callback(site.end)
        yield site
