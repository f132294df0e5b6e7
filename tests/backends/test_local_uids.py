"""The local backend as root: each user's agent has a uid of its own, and nothing of anybody else's (C6)."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from sites import LocalSite, clear, ready

from backends.base import BackendError

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can run agents under other uids")

UID_FIRST = 31_000
ALICE, BOB = UID_FIRST, UID_FIRST + 1

# Tries, as another user, all that could be done to the paths on its command line; prints what succeeded.
BURGLAR = """
import json, os, socket, sys
done = []
for path in sys.argv[1:]:
    for name, flags in ("read", os.O_RDONLY), ("write", os.O_WRONLY), ("make", os.O_RDWR | os.O_CREAT):
        try:
            os.open(path + "/made" if name == "make" and os.path.isdir(path) else path, flags | os.O_NONBLOCK)
            done.append(f"{name} {path}")
        except OSError:
            pass
    for name, deed in ("list", os.listdir), ("remove", os.unlink), ("stat", os.stat):
        try:
            deed(path)
            done.append(f"{name} {path}")
        except OSError:
            pass
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        done.append(f"connect {path}")
    except OSError:
        pass
print(json.dumps(done))
"""


def as_user(uid: int, program: str, *arguments: str) -> str:
    return subprocess.run(
        [python(), "-I", "-c", program, *arguments],
        user=uid, group=uid, extra_groups=(), cwd="/", check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip


def python() -> str:
    """An interpreter that other uids may execute."""
    for candidate in (sys.executable, "/usr/bin/python3"):
        try:
            subprocess.run([candidate, "-c", ""], user=ALICE, group=ALICE, extra_groups=(), check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return candidate
    pytest.skip("no interpreter that other uids may execute")


@pytest.fixture
async def site(state: Path, nursery: trio.Nursery) -> AsyncIterator[LocalSite]:
    site = LocalSite(state, nursery, python=python(), uid_first=UID_FIRST)
    yield site
    await clear(site)


def uids(pid: str) -> set[str]:
    (line,) = (line for line in Path("/proc", pid, "status").read_text().splitlines() if line.startswith("Uid:"))
    return set(line.split()[1:])


def below(*directories: Path) -> list[str]:
    return [str(path) for directory in directories for path in (directory, *directory.rglob("*"))]


async def test_each_users_agent_and_its_helpers_run_under_a_uid_of_their_own(site: LocalSite) -> None:
    backend = site.backend()
    async with ready(site, backend) as alice, ready(site, backend, 1) as bob:
        for spec, uid in ((alice, ALICE), (bob, BOB)):
            before = set(site.processes())
            await backend.start(spec)
            await site.home.heard(spec)
            assert {number for pid in set(site.processes()) - before for number in uids(pid)} == {str(uid)}


async def test_a_token_is_read_by_its_agents_uid_alone(site: LocalSite) -> None:
    async with ready(site, site.backend(), 1) as spec:
        for name in ("token", "agent.json"):
            found = (spec.directory / name).stat()
            assert (oct(found.st_mode & 0o7777), found.st_uid, found.st_gid) == ("0o400", BOB, BOB)
        assert as_user(BOB, "import sys; print(open(sys.argv[1]).read())", str(spec.directory / "token")).strip()


async def test_no_user_reaches_anything_of_another(site: LocalSite) -> None:
    backend = site.backend()
    async with ready(site, backend) as alice, ready(site, backend, 1) as bob:
        for spec in (alice, bob):
            await backend.start(spec)
            await site.home.heard(spec)
        (bob.root / "secret").write_text("result")
        paths = below(bob.directory, bob.root)
        assert {"token", "agent.json", "control.sock", "bulk.sock", "agent.log", "outbox", "secret"} <= {
            Path(path).name for path in paths
        }
        # That the two directories exist is no secret: their names are random.
        known = {f"stat {bob.directory}", f"stat {bob.root}"}
        assert set(json.loads(as_user(ALICE, BURGLAR, *paths))) == known
        # The burglar's tools are good: at home they open doors.
        assert f"read {bob.root / 'secret'}" in as_user(BOB, BURGLAR, str(bob.root / "secret"))
        assert "connect" in as_user(BOB, BURGLAR, str(bob.directory / "control.sock"))


async def test_no_user_lists_or_changes_what_jobd_keeps(site: LocalSite) -> None:
    async with ready(site, site.backend()) as spec:
        above = [str(spec.directory.parent), str(spec.root.parent), str(spec.directory)]
        done = json.loads(as_user(ALICE, BURGLAR, *above))
        assert set(done) == {f"stat {path}" for path in above}
        # So it can lay no links in the way of what jobd opens there as root.
        inside = [str(spec.directory / name) for name in ("token", "agent.json", "control.sock", "bulk.sock")]
        done = json.loads(as_user(ALICE, BURGLAR, *inside))
        assert {deed.split()[0] for deed in done} <= {"read", "stat", "connect"}


async def test_a_user_beyond_the_range_of_uids_gets_no_agent(site: LocalSite) -> None:
    with pytest.raises(BackendError, match="all 3 uids of the configured range are taken"):
        await site.backend().prepare(site.spec(3))
    assert site.leftovers() == []


async def test_an_interpreter_that_the_uid_may_not_execute_is_named(site: LocalSite, state: Path) -> None:
    private = state / "python"
    private.write_text("#!/bin/sh\n")
    private.chmod(0o700)
    backend = site.backend(python=str(private))
    async with ready(site, backend) as spec:
        with pytest.raises(BackendError, match=f"Permission denied: .*{private}"):
            await backend.start(spec)
        assert site.leftovers() == []
