"""What tests of every directory may need."""

import os
from collections.abc import Iterator

import docker
import pytest
from testbed import bed, client_of, engine_home


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
    client = client_of(f"unix://{engine_home() / 'docker.sock'}")
    yield client
    client.close()
    if not was_up:
        bed("engine.sh", "down")
