"""`jobctl doctor` where agents are in Docker."""

import json
import subprocess
from pathlib import Path

import pytest
from realdaemon import BIN, short_directory

from jobd.ctl.engines import TRIES

pytestmark = pytest.mark.docker
ROOT = Path(__file__).parents[2]


def doctor(home, engine, **host):
    config = home / "jobd.toml"
    (home / "s").mkdir(mode=0o711)
    codes = ROOT / "tests" / "docker" / "codes"
    table = {"url": engine.url, "cores": 2, "memory_bytes": 1 << 30, **host}
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
    config.write_text(f'state = "s"\ncodes = "{codes}"\n[http]\nport = 0\n[docker.hosts.here]\n{lines}\n')
    home.chmod(0o711)
    command = [BIN / "jobctl", "doctor", "--offline", "--json", "--config", config]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    return done.returncode, {line["check"]: line for line in map(json.loads, done.stdout.splitlines())}


@pytest.fixture
def home():
    with short_directory() as path:
        yield path


def test_a_sound_site_is_well_and_nothing_is_left(home, engine):
    code, said = doctor(home, engine)
    assert code == 0, said
    assert {"host here", "image here", "isolation here", "agent", "run"} <= set(said)
    assert not engine.containers.list(all=True, filters={"label": "jobd.user=doctor"})


def test_an_engine_that_is_smaller_than_it_was_said_to_be(home, engine):
    code, said = doctor(home, engine, cores=4000)
    assert code == 1
    assert not said["host here"]["ok"]


def test_a_container_that_is_not_isolated_is_found_out(engine):
    weak = {"cap_add": ["SYS_ADMIN"], "security_opt": ["seccomp=unconfined"], "network": "bridge"}
    said = engine.containers.run("jobd-shell:bed", ["-c", TRIES], entrypoint="/usr/bin/python3", remove=True, **weak)
    found = json.loads(said)
    for each in ("is root", "has capabilities", "has a network", "can write into its image", "can mount"):
        assert f"it {each}" in found
    assert "no seccomp profile filters its system calls" in found
