"""The victim, the attacker, and the daemon that keeps them apart, on the test bed's engine."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "docker"))

from battlefield import Battlefield, battlefields


@pytest.fixture(scope="module")
def make_field(engine: docker.DockerClient) -> Iterator[Callable[..., Battlefield]]:
    with battlefields(engine) as make:
        yield make


@pytest.fixture(scope="module")
def field(make_field: Callable[..., Battlefield]) -> Any:
    """One for all attacks of a module."""
    return make_field()
