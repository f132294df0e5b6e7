"""What tests of every directory may need."""

import os
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from testbed import ROOT, bed, client_of


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
    home = Path(os.environ.get("JOBD_BED_ENGINE", ROOT / "build" / "testbed" / "engine"))
    client = client_of(f"unix://{home / 'docker.sock'}")
    yield client
    client.close()
    if not was_up:
        bed("engine.sh", "down")
