"""What the manual shows works: its boxes are run as they stand, against a real daemon in place of `make run`'s."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import short_directory
from realdaemon import HERE, Daemon

ROOT = HERE.parent.parent
BOX = re.compile(r"(?ms)^```(\w+)\n(.*?)^```$")
DEV = (ROOT / "deploy" / "jobd-dev.toml").read_text()


@pytest.fixture
def dev() -> Iterator[Daemon]:
    """What `make run` starts, but for its place and port."""
    origins = re.findall(r'"(http[^"]+)"', DEV)
    tables = {"http": {"origins": origins}, "host": {}, "tiers": {"default": {"sequential": 1, "parallel": 1}}}
    with short_directory() as home:
        daemon = Daemon(home, tables, codes=str(ROOT / "deploy" / "codes"))
        (home / "build").mkdir()
        try:
            yield daemon.start()
        finally:
            daemon.end()


def placed(text: str, daemon: Daemon) -> str:
    """The text, about this daemon."""
    text = text.replace("http://127.0.0.1:8080", daemon.url).replace("build/state", str(daemon.state))
    text = re.sub(r"(?<![\w/])build/", f"{daemon.home}/build/", text)
    return text.replace(".venv/bin/", f"{Path(sys.executable).parent}/")


def shell(text: str, exported: list[str]) -> str:
    """Run a box after what earlier ones have exported; what it printed."""
    script = "set -euo pipefail\n" + "\n".join([*exported, text])
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    exported += [line for line in text.splitlines() if line.startswith("export ")]
    return done.stdout


def run(page: str, daemon: Daemon) -> tuple[str, str]:
    """Run the page from top to bottom; what its shell boxes and its Python boxes printed."""
    exported: list[str] = []
    printed, said, python = "", "", ""
    for language, shown in BOX.findall((ROOT / "docs" / page).read_text()):
        text = placed(shown, daemon)
        if language == "sh" and not text.startswith("make ") and "flask_gateway" not in text:
            printed += shell(text, exported)
        elif language == "python":
            python += text
    if python:
        done = subprocess.run(
            [sys.executable, "-c", python], cwd=ROOT, capture_output=True, text=True, timeout=100,
            env={**os.environ, "PYTHONWARNINGS": "error"}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        said = done.stdout
    return printed, said


def test_getting_started_works(dev):
    printed, said = run("getting-started.md", dev)
    assert "alice/melt  completed  run 1" in printed
    assert "Loop time of" in printed  # the log
    assert '"state":"running"' in printed or '"state":"pending"' in printed  # the PUT
    assert '"state":"canceled"' in printed
    assert said.strip().endswith("completed step 400 of 400")
    assert (dev.home / "build" / "frame.png").read_bytes().startswith(b"\x89PNG")


def test_the_guide_for_gateway_authors_works(dev):
    printed, said = run("gateway-author.md", dev)
    assert "access-control-allow-origin: http://127.0.0.1:5000" in printed.lower()
    for expected in (
        "1 is the run of before", "2 is a new one", "3 replaces it", "canceled True", "image/png",
        "422 invalid code", "log.lammps", "\ncompleted\n", "\nmissing\n",
    ):  # fmt: skip
        assert expected in said, f"{expected} is not in\n{said}"
    stages = [int(number) for number in re.findall(r"stage (\d+)", said)]
    assert stages == list(range(stages[0], stages[0] + len(stages))) if stages else True


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_what_a_page_names_is_there(page):
    text = (ROOT / "docs" / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (ROOT / "docs" / target).exists(), target
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?m)^make (\w+)", text):
        assert f"\n{target}:" in makefile, target


def test_readme_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert target.startswith("http") or (ROOT / target).exists(), target
