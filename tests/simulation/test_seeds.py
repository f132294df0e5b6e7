"""A hundred seeds of the simulation, and what makes a failing one worth having: it replays exactly."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from .simulate import simulate

REPOSITORY = Path(__file__).parents[2]
CHUNK = 10


@pytest.mark.parametrize("first", range(0, 100, CHUNK))
def test_the_contract_holds_in_every_seed(first: int) -> None:
    for seed in range(first, first + CHUNK):
        simulate(seed)


@pytest.mark.parametrize("seed", [1197])
def test_the_contract_holds_in_a_seed_that_once_failed(seed: int) -> None:
    simulate(seed)


def test_a_seed_replays_exactly() -> None:
    assert simulate(7).trace_hash == simulate(7).trace_hash


def test_another_seed_is_another_world() -> None:
    assert simulate(7).trace_hash != simulate(8).trace_hash


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_seed_replays_exactly_in_another_process(hash_seed: str) -> None:
    code = "from tests.simulation.simulate import simulate; print(simulate(11).trace_hash)"
    there = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == simulate(11).trace_hash


def test_seeds_meet_every_fault_and_every_end() -> None:
    counts: Counter[str] = Counter()
    for seed in range(100, 120):
        counts += simulate(seed).counts
    for kind in ("cut", "half open", "kill agent", "kill jobd", "restart jobd", "store outage", "commit failed"):
        assert counts[f"fault: {kind}"], kind
    for verdict in ("completed: completed", "failed: exit_code", "failed: run_timeout", "canceled: user"):
        assert counts[f"verdict: {verdict}"], verdict
