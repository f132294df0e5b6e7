import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture(params=["fake", "local", pytest.param("docker", marks=pytest.mark.docker)])
def needed(request: pytest.FixtureRequest) -> tuple[str, list[Any]]:
    """The name of a site, and what it needs besides."""
    return request.param, [request.getfixturevalue("engine")] if request.param == "docker" else []


@pytest.fixture
async def site(needed: tuple[str, list[Any]], state: Path, nursery: trio.Nursery) -> AsyncIterator[Site]:
    """Every test runs at every site; what it leaves running is ended here."""
    name, besides = needed
    site = SITES[name](state, nursery, *besides)
    yield site
    await clear(site)
