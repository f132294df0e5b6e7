"""`make demo` does what it says, and cleans up after itself also when it is cut short."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from realdaemon import processes_that_name

ROOT = Path(__file__).parents[2]
STATE = ROOT / "build" / "demo" / "state"
PNG = b"\x89PNG\r\n\x1a\n"

Demo = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def demo() -> Iterator[Demo]:
    """Starts the demo as a terminal does: in a process group of its own, to which Ctrl-C goes."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str) -> "subprocess.Popen[str]":
            command = [sys.executable, ROOT / "examples" / "demo.py", *arguments]
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start
    left = processes_that_name(str(STATE))
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left


def ctrl_c_at(process: "subprocess.Popen[str]", words: str) -> str:
    """Interrupt the demo when it says this; returns all that it said afterwards."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if words in line:
            os.killpg(process.pid, signal.SIGINT)
            return process.communicate(timeout=40)[0]
    raise AssertionError("".join(said))


def test_the_quick_demo_shows_the_main_job_and_leaves_nothing(demo: Demo) -> None:
    process = demo("--quick")
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 0, said
    for words in (
        "accepted as run 1",
        "kill -9 of the daemon",
        "the run is running, no harm done",
        "run 1: completed",
        "its end is confirmed: no process of it exists",
        "run 2: canceled by gateway for alice: seen enough",
        "the daemon is stopped, no process is left",
    ):
        assert words in said
    frames = list((STATE.parent / "frames").iterdir())
    assert frames
    assert all(frame.read_bytes().startswith(PNG) for frame in frames)


MOMENTS = {
    "the daemon starts": ("jobd demo", ""),
    "the run goes on": ("melt: step", "run 1: canceled"),
    "the daemon is dead": ("kill -9 of the daemon", "run 1: canceled"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_ends_the_run_and_the_daemon(demo: Demo, moment: str) -> None:
    words, result = MOMENTS[moment]
    process = demo(*(["--quick"] if moment == "the daemon is dead" else []))
    said = ctrl_c_at(process, words)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert result in said
    assert not processes_that_name(str(STATE)), said
