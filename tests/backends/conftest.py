import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from sites import SITES, LocalSite, Site, zombies


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


async def clear(site: Site) -> None:
    """End every agent of the site, without its backend's help."""
    for each in site.agents():
        with suppress(ProcessLookupError, KeyError):
            await site.kill(each)
    if isinstance(site, LocalSite):
        with trio.move_on_after(5):
            while site.processes():  # noqa: ASYNC110 - helpers end by themselves once their agent is gone
                await trio.sleep(0.01)
        for pid in site.processes():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    for zombie in zombies():  # of backends that this test has forgotten, as a restart of jobd does
        os.waitpid(zombie, 0)
