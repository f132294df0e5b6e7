import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
from sites import SITES, Site, clear


@pytest.fixture
def state() -> Iterator[Path]:
    """A state directory that other uids may pass through, with a path short enough for unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="jb-", dir="/tmp"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=SITES)
async def site(request: pytest.FixtureRequest, state: Path, nursery: trio.Nursery) -> AsyncIterator[Site]:
    """Every test runs at every site; what it leaves running is ended here."""
    site = SITES[request.param](state, nursery)
    yield site
    await clear(site)
