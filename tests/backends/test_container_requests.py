"""What is asked of an engine for a container, where no engine of the test bed can show it: GPUs."""

from pathlib import Path
from typing import Any

import pytest

from backends.base import AgentSpec, Box
from backends.containers import Hardening, creation


def asked(**box: Any) -> dict[str, Any]:
    """The host's part of the request."""
    nowhere = Path("/nowhere")
    made = Box("image", "/usr/bin/python3", 1.0, 1 << 30, **box)
    spec = AgentSpec("aaaaaaaaaa", 1, "uaaaaaaaaa", 0, nowhere, nowhere, "", 1.0, 1.0, made)
    config: dict[str, Any] = creation("i", spec, 200_000, "/agent.pyz", [], Hardening(1, 16, 64, ""))["host_config"]
    return config


@pytest.mark.parametrize(
    ("box", "count", "ids"),
    [({"gpus": 2}, 2, None), ({"gpus": -1}, -1, None), ({"gpu_ids": ("0", "GPU-7")}, 0, ["0", "GPU-7"])],
)
def test_gpus_are_asked_for_by_count_or_by_id(box: dict[str, Any], count: int, ids: list[str] | None) -> None:
    (request,) = asked(**box)["DeviceRequests"]
    assert (request["Count"], request["DeviceIDs"] or None, request["Capabilities"]) == (count, ids, [["gpu"]])


def test_without_gpus_no_device_is_asked_for() -> None:
    config = asked()
    assert not config.get("DeviceRequests")
    assert not config.get("Devices")
    assert not config.get("Privileged")


def test_a_code_with_a_network_gets_that_one_alone_and_everybody_else_none() -> None:
    assert asked()["NetworkMode"] == "none"
    assert asked(network="licences")["NetworkMode"] == "licences"
