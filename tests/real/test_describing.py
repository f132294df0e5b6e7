"""docs/describing-a-code.md does what it says: its description and its worker, run by a real jobd."""

import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import short_directory
from realdaemon import Daemon

PAGE = Path(__file__).parents[2] / "docs" / "describing-a-code.md"
PROGRAM = """#!/bin/sh
test -e beam.toml || exit 1
for row in 1 2 3; do echo "$row,0.5" >> out.csv; done
printf '4,0.' >> out.csv
while [ ! -e go ]; do sleep 0.05; done
"""


def block(language: str) -> str:
    """The page's first block in this language."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def home() -> Iterator[Path]:
    with short_directory() as path:
        yield path


def test_the_page_is_a_whole_code(home: Path) -> None:
    codes, prefix = home / "codes", home / "prefix"
    (codes / "beam").mkdir(parents=True)
    (prefix / "bin").mkdir(parents=True)
    (codes / "beam.toml").write_text(block("toml"))
    (codes / "beam" / "worker.py").write_text(block("python"))
    (prefix / "bin" / "python").symlink_to(sys.executable)
    (prefix / "bin" / "beam").write_text(PROGRAM)
    (prefix / "bin" / "beam").chmod(0o755 | stat.S_IXUSR)
    daemon = Daemon(home, codes=str(codes), codes_prefix=str(prefix)).start()
    try:
        with daemon.http() as http:
            job = "/v1/users/alice/jobs/j"
            refused = http.put(f"{job}/run", json={"code": "beam"})
            assert (refused.status_code, refused.json()["field"]) == (422, "inputs.beam.toml")
            assert http.put(f"{job}/run", json={"code": "beam", "inputs": {"beam.toml": {"text": ""}}}).is_success
            status = daemon.until("alice", "j", lambda now: (now.get("progress") or {}).get("frames"))
            assert status["progress"] == {
                "fraction": 0.03,
                "text": "row 3 of 100",
                "frames": {"shape": 3},
                "metrics": {},
            }
            frame = http.get(f"{job}/frames/shape/latest").json()
            assert frame == {"view": "shape", "index": 2, "row": [3.0, 0.5]}, "the half-written row is not shown"
            assert http.get(f"{job}/frames/shape/3").json()["code"] == "no_frame"
            arguments = {"load": 3.0, "length": 2.0, "stiffness": 4.0}
            answer = http.post("/v1/users/alice/compute/beam/bounds", json={"arguments": arguments})
            assert answer.json() == {"deflection_max": 2.0}
            daemon.file("alice", "j", "go").touch()
            assert daemon.until("alice", "j", "completed")["cause"]["code"] == "completed"
    finally:
        daemon.end()
