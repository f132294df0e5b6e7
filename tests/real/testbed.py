"""The test bed's scripts, and clients of the engines that they start."""

import os
import subprocess
from pathlib import Path

import docker

ROOT = Path(__file__).parents[2]
BED = ROOT / "deploy" / "testbed"


def bed(
    script: str, *arguments: str, check: bool = True, home: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a script of the test bed, for the engine of this home."""
    environment = {**os.environ, **({"JOBD_BED_ENGINE": str(home)} if home else {})}
    command = ["bash", BED / script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def engine_home() -> Path:
    """Where the bed's engine has its socket."""
    return Path(os.environ.get("JOBD_BED_ENGINE", ROOT / "build" / "testbed" / "engine"))


def client_of(url: str) -> docker.DockerClient:
    client = docker.DockerClient(base_url=url, version="1.41", timeout=20)
    client.api.trust_env = False
    client.url = url
    return client
