"""The victim, the attacker, and the daemon that keeps them apart, on the test bed's engine."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "docker"))

from battlefield import Battlefield, codes_with
from dockerdaemon import DockerDaemon, daemons

make_daemon = pytest.fixture(daemons, scope="module")


@pytest.fixture(scope="module")
def make_field(
    make_daemon: Callable[..., DockerDaemon], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Battlefield]:
    """Makes one whose runs have these limits besides."""

    def make(limits: str = "") -> Battlefield:
        codes = codes_with(tmp_path_factory.mktemp("codes"), limits)
        return Battlefield(make_daemon(codes=codes, docker={"processes": 64}))

    return make


@pytest.fixture(scope="module")
def field(make_field: Callable[..., Battlefield]) -> Battlefield:
    """One for all attacks of a module."""
    return make_field()
