"""The local backend tells an agent from whatever else has its command line, and says what a full disk is."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import attrs
import pytest
import trio
from sites import LocalSite, clear, eventually, ready

from agents import records
from backends.base import BackendError
from schemas import ids
from schemas.link import Epoch, RunLimits, Start

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
async def site(state: Path, nursery: trio.Nursery) -> AsyncIterator[LocalSite]:
    site = LocalSite(state, nursery)
    yield site
    await clear(site)


async def test_the_fork_server_of_a_dead_agent_is_not_adopted_and_ends(site: LocalSite) -> None:
    backend = site.backend()
    async with ready(site, backend) as spec:
        handle = await backend.start(spec)
        await site.home.heard(spec)
        (agent,) = site.agents()
        (fork_server,) = (pid for pid in site.processes() if pid != agent)
        os.kill(int(fork_server), signal.SIGSTOP)  # or it would be gone before we could look
        try:
            await site.kill(handle)
            assert list(site.processes()) == [fork_server]
            assert await backend.adopt(spec) is None
            assert not await backend.alive(handle)
        finally:
            os.kill(int(fork_server), signal.SIGCONT)
        await eventually(lambda: not site.leftovers())


@pytest.fixture
def small_disk(state: Path) -> Iterator[Path]:
    """A file system of 16 KiB."""
    if os.getuid() != 0:
        pytest.skip("only root can mount a small file system")
    disk = state / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@contextlib.contextmanager
def a_program_that_names(directory: Path) -> Iterator[int]:
    """Its pid; it leads a session, but it does not write the agent's log."""
    command = [sys.executable, "-c", "input()", str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True) as program:
        yield program.pid


async def test_a_program_that_names_the_agents_directory_is_not_adopted(site: LocalSite) -> None:
    backend = site.backend()
    async with ready(site, backend) as spec:
        (spec.directory / "agent.log").touch()
        with a_program_that_names(spec.directory) as pid:
            await eventually(lambda: str(pid) in site.processes())  # the kernel shows it a little later
            assert await backend.adopt(spec) is None


# What the parent of a run has as its output at the moment in which it becomes the leader of a session.
PARENT = """
import os, sys
from agents import parent

def setsid():
    with open(sys.argv[2], "w") as file:
        file.write(os.readlink("/proc/self/fd/1"))
    os._exit(0)

os.setsid = setsid
parent.live(sys.argv[1], sys.argv[1])
"""


def test_the_parent_of_a_run_never_looks_like_an_agent(tmp_path: Path) -> None:
    """It has the agent's command line; leading a session that writes the agent's log, it would be stopped for it."""
    limits = RunLimits(1.0, 1.0, 1, 1, 1, 1)
    order = Start(Epoch(ids.new_id("j"), 1), ("true",), {}, (), limits)
    (tmp_path / records.ORDER).write_bytes(records.to_bytes(order))
    seen = tmp_path / "seen"
    with (tmp_path / "agent.log").open("w") as log:
        command = [sys.executable, "-c", PARENT, str(tmp_path), str(seen)]
        subprocess.run(command, stdout=log, stderr=log, check=True, cwd=REPOSITORY, timeout=20)
    assert seen.read_text() == "/dev/null"


async def test_a_full_disk_is_named_as_the_reason(site: LocalSite, small_disk: Path) -> None:
    spec = attrs.evolve(site.spec(), directory=small_disk / "agents" / "a", root=small_disk / "runs" / "u")
    await site.backend().prepare(attrs.evolve(spec, token=""))
    (small_disk / "filler").write_bytes(bytes(16384))
    with pytest.raises(BackendError, match=r"No space left on device$"):
        await site.backend().prepare(spec)
    (small_disk / "filler").unlink()
    await site.backend().prepare(spec)
    assert (spec.directory / "token").read_text() == spec.token
