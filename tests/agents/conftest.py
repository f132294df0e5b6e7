import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tls"))

from certificates import Certificate
from homes import LoginPlace
from standin_jobd import AgentPlace, Ended, StandIn, stand_in, stand_in_for


def short_directory() -> Iterator[Path]:
    """A directory with a path short enough for unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="ja", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


place = pytest.fixture(short_directory)
module_place = pytest.fixture(short_directory, scope="module")


@pytest.fixture
async def jobd(place: Path) -> AsyncIterator[StandIn]:
    """A stand-in jobd whose agent, the test's own, has called home."""
    async with stand_in(place) as jobd:
        jobd.call_agent()
        await jobd.until(lambda: jobd.hellos)
        yield jobd


@pytest.fixture(scope="module")
def kept_agent(module_place: Path) -> Iterator[AgentPlace]:
    """An agent for the tests of one module that leave it as it was: an interpreter's start is most of a test's time."""
    at = AgentPlace(module_place)
    yield at
    at.assert_empty()


@pytest.fixture
async def kept(kept_agent: AgentPlace) -> AsyncIterator[StandIn]:
    """A stand-in jobd to which the module's agent has called; the test's runs are of a job of its own."""
    if not kept_agent.processes or kept_agent.processes[-1].poll() is not None:
        kept_agent.call_agent()
    async with stand_in_for(kept_agent) as jobd:
        await jobd.until(lambda: jobd.hellos)
        yield jobd
        assert jobd.hellos[-1].generation == len(kept_agent.processes)
        kept_agent.acked = max([kept_agent.acked, *(fact.number for fact in jobd.facts if isinstance(fact, Ended))])


@pytest.fixture(scope="session")
def certificate() -> Certificate:
    return Certificate()


@pytest.fixture
def node(place: Path, certificate: Certificate) -> Iterator[LoginPlace]:
    """A user's directory on a login node, without an agent yet."""
    at = LoginPlace(place, certificate)
    yield at
    at.assert_empty()
