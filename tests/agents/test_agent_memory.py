"""Out of memory: what is read of recorded memory groups, and what is said of a run that a real kernel killed."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import recorded_groups
import trio
from recorded_groups import write
from standin_jobd import StandIn, stand_in

from agents import cgroup
from agents.cgroup import Memory
from agents.memory import MemoryAccount

MIB = 1 << 20
MEMORY_TREE = Path("/sys/fs/cgroup/memory")

# --- recorded trees


def test_on_a_v1_host_the_own_group_counts_and_the_limit_of_one_above_it(tmp_path: Path) -> None:
    recorded_groups.v1_host(tmp_path)
    group = cgroup.find_group(str(tmp_path))
    assert group is not None
    assert group.read() == Memory(512 * MIB, 100 * MIB, 80 * MIB, 2)


def test_in_a_v1_container_the_mount_is_the_own_group(tmp_path: Path) -> None:
    recorded_groups.v1_container(tmp_path)
    group = cgroup.find_group(str(tmp_path))
    assert group is not None
    assert group.directory == str(tmp_path / "sys/fs/cgroup/memory")
    assert group.read() == Memory(64 * MIB, 64 * MIB, 20 * MIB, 1)


@pytest.mark.parametrize("peak", [64 * MIB, None])
def test_in_a_v2_container_the_peak_may_be_missing(tmp_path: Path, peak: int | None) -> None:
    recorded_groups.v2_container(tmp_path, peak)
    group = cgroup.find_group(str(tmp_path))
    assert group is not None
    assert group.read() == Memory(64 * MIB, peak, 20 * MIB, 3)
    assert not group.begin_peak_anew()


def test_no_limit_is_none(tmp_path: Path) -> None:
    recorded_groups.v2_container(tmp_path, limit="max\n")
    group = cgroup.find_group(str(tmp_path))
    assert group is not None
    assert group.read().limit_bytes is None
    write(tmp_path / "v1", "sys/fs/cgroup/memory/memory.limit_in_bytes", recorded_groups.V1_UNLIMITED)
    directory = str(tmp_path / "v1/sys/fs/cgroup/memory")
    assert cgroup.MemoryGroup(directory, directory, 1).read() == Memory(None, None, None, None)


def test_no_group_and_strange_files_are_none(tmp_path: Path) -> None:
    assert cgroup.find_group(str(tmp_path)) is None
    write(tmp_path, "proc/self/cgroup", "\n:\n4:memory:/../../etc\n0::\n")
    write(tmp_path, "proc/self/mountinfo", "- -\n1 2 3 / /nowhere rw - cgroup cgroup rw,memory\n x - y\n")
    assert cgroup.find_group(str(tmp_path)) is None
    recorded_groups.v2_container(tmp_path, limit="-5\n")
    write(tmp_path, "sys/fs/cgroup/memory.events", "oom_kill lots\n")
    write(tmp_path, "sys/fs/cgroup/memory.peak", "²\n")
    group = cgroup.find_group(str(tmp_path))
    assert group is not None
    assert group.read() == Memory(None, None, 20 * MIB, None)


def test_a_path_that_leads_out_of_the_mount_is_not_followed(tmp_path: Path) -> None:
    recorded_groups.v1_container(tmp_path)
    write(tmp_path, "proc/self/cgroup", f"4:memory:{recorded_groups.CONTAINER}/../../secret\n")
    recorded_groups.v1_files(tmp_path, "sys/fs/secret", "1\n", 1, 1, 1)
    group = cgroup.find_group(str(tmp_path))
    assert group is not None
    assert group.directory == str(tmp_path / "sys/fs/cgroup/memory")


def test_a_peak_is_begun_anew_where_that_can_be_done(tmp_path: Path) -> None:
    recorded_groups.v1_container(tmp_path, peak=60 * MIB, kills=0)
    account = MemoryAccount(is_own=True, root=str(tmp_path))
    assert (tmp_path / "sys/fs/cgroup/memory/memory.max_usage_in_bytes").read_text() == "0"
    recorded_groups.v1_container(tmp_path, peak=50 * MIB, kills=1)  # less than an earlier run's
    account.close()
    assert account.verdict() == "the kernel killed its main process; peak 50.0 MiB, limit 64.0 MiB"
    assert account.remark() == "1 of its processes was killed for lack of memory (peak 50.0 MiB, limit 64.0 MiB)"


def test_the_peak_of_a_shared_group_is_left_to_the_others(tmp_path: Path) -> None:
    recorded_groups.v1_host(tmp_path)
    MemoryAccount(is_own=False, root=str(tmp_path))
    peak = tmp_path / "sys/fs/cgroup/memory/system/agent/memory.max_usage_in_bytes"
    assert peak.read_text() == f"{100 * MIB}\n"


def test_a_peak_that_may_be_an_earlier_runs_is_not_said_to_be_this_ones(tmp_path: Path) -> None:
    recorded_groups.v2_container(tmp_path, kills=3)
    account = MemoryAccount(is_own=True, root=str(tmp_path))
    recorded_groups.v2_container(tmp_path, kills=5)
    account.close()
    numbers = "20.0 MiB in use at its end (in an earlier run at most 64.0 MiB), limit 64.0 MiB"
    assert account.remark() == f"2 of its processes were killed for lack of memory ({numbers})"
    assert account.verdict() == f"the kernel killed its main process, and 1 more of its processes; {numbers}"


def test_a_peak_that_rose_is_this_runs(tmp_path: Path) -> None:
    recorded_groups.v2_container(tmp_path, peak=30 * MIB, kills=0)
    account = MemoryAccount(is_own=True, root=str(tmp_path))
    recorded_groups.v2_container(tmp_path, peak=64 * MIB, kills=1)
    account.close()
    assert "peak 64.0 MiB" in account.remark()


def test_without_a_peak_the_usage_is_told_and_without_a_kill_nothing(tmp_path: Path) -> None:
    recorded_groups.v2_container(tmp_path, peak=None, kills=0)
    account = MemoryAccount(is_own=False, root=str(tmp_path))
    account.close()
    assert account.remark() == ""
    recorded_groups.v2_container(tmp_path, peak=None, limit="max\n", kills=1)
    account.close()
    assert account.remark() == (
        "1 of the processes in its memory group, which others may share, was killed for lack of memory "
        "(20.0 MiB in use at its end, no limit of its own)"
    )
    assert MemoryAccount(is_own=True, root=str(tmp_path / "none")).kills == 0


# --- a real kernel

real = pytest.mark.skipif(
    os.geteuid() != 0 or not (MEMORY_TREE / "memory.oom_control").exists(),
    reason="needs root and a v1 memory hierarchy",
)
EATER = "held = []\nwhile True: held.append(bytearray(4 << 20))"
CHILD_EATS = f"""
import os, sys, time
pid = os.fork()
if pid == 0:
    exec({EATER!r})
_, status = os.waitpid(pid, 0)
print("child", os.WTERMSIG(status), flush=True)
sys.exit({{code}})
"""


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Iterator[Path]:
    """A memory group made by hand; at the end it must be empty and goes."""
    group = MEMORY_TREE / f"jobd-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit_bytes))
        with contextlib.suppress(OSError):  # no accounting of swap
            (group / "memory.memsw.limit_in_bytes").write_text(str(limit_bytes))
        yield group
    finally:
        deadline = time.monotonic() + 5
        while True:
            try:
                group.rmdir()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


@pytest.fixture
async def boxed(place: Path) -> AsyncIterator[StandIn]:
    """An agent that lives in a memory group of 96 MiB, with all that it forks."""
    with memory_group(96 * MIB) as group:
        async with stand_in(place) as jobd:
            enter = f"echo $$ > {group}/cgroup.procs && exec {sys.executable} -m agents $0"
            jobd.call_agent(command=["sh", "-c", enter])
            await jobd.until(lambda: jobd.hellos)
            yield jobd


@real
async def test_a_main_process_that_the_kernel_kills_ends_out_of_memory(boxed: StandIn) -> None:
    with trio.fail_after(30):
        epoch = await boxed.start(sys.executable, "-c", EATER, memory_bytes=None, processes=None)
        ended = await boxed.ended(epoch)
        assert (ended.outcome, ended.signal, ended.remark) == ("out_of_memory", signal.SIGKILL, "")
        assert ended.text == "the kernel killed its main process; peak 96.0 MiB, limit 96.0 MiB"
        # Agent, fork server and parent live on, and the next run is not blamed for the last one.
        ended = await boxed.ended(await boxed.start("sh", "-c", "kill -KILL $$", serial=2, memory_bytes=None))
        assert (ended.outcome, ended.signal, ended.remark) == ("exited", signal.SIGKILL, "")
        assert len(boxed.hellos) == 1


@real
@pytest.mark.parametrize("code", [0, 7])
async def test_a_child_that_the_kernel_kills_is_told_and_the_outcome_stays(boxed: StandIn, code: int) -> None:
    with trio.fail_after(30):
        epoch = await boxed.start(sys.executable, "-c", CHILD_EATS.format(code=code), memory_bytes=None)
        ended = await boxed.ended(epoch)
        assert (ended.outcome, ended.exit_code, ended.log_tail) == ("exited", code, "child 9\n")
        assert ended.remark == "1 of its processes was killed for lack of memory (peak 96.0 MiB, limit 96.0 MiB)"
        assert ended.text == f"exited with code {code}; {ended.remark}"


@real
async def test_a_stop_that_kills_is_not_blamed_on_memory(boxed: StandIn) -> None:
    with trio.fail_after(30):
        script = "import signal; signal.signal(15, signal.SIG_IGN)\n" + CHILD_EATS.format(code=0).replace(
            "sys.exit(0)", "time.sleep(60)"
        )
        epoch = await boxed.start(sys.executable, "-c", script, memory_bytes=None)
        log = boxed.control(epoch) / "log"
        while not (log.exists() and "child 9" in log.read_text()):
            await trio.sleep(0.02)
        await boxed.stop(epoch, grace_s=0.1)
        ended = await boxed.ended(epoch)
        assert (ended.outcome, ended.signal) == ("stopped", signal.SIGKILL)
        assert ended.text == f"was stopped; {ended.remark}"


async def test_a_run_is_offered_to_the_oom_killer_before_those_that_watch_it(kept: StandIn) -> None:
    with trio.fail_after(10):
        ended = await kept.ended(await kept.start("sh", "-c", "cat /proc/self/oom_score_adj /proc/$PPID/oom_score_adj"))
        run, parent = map(int, ended.log_tail.split())
        assert run == min(1000, parent + 500)
        assert parent == int(Path("/proc/self/oom_score_adj").read_text())


async def test_in_a_container_no_address_space_and_no_count_of_processes_is_limited(kept: StandIn) -> None:
    with trio.fail_after(10):
        limits = kept.order("true").limits.in_container()
        assert (limits.memory_bytes, limits.processes) == (None, None)
        code = "import resource as r; print(r.getrlimit(r.RLIMIT_AS)[0], r.getrlimit(r.RLIMIT_NPROC)[0])"
        epoch = await kept.start(sys.executable, "-c", code, memory_bytes=None, processes=None)
        inherited = Path("/proc/self/limits").read_text()
        assert (await kept.ended(epoch)).log_tail.split()[0] == "-1"
        processes = next(line.split()[2] for line in inherited.splitlines() if line.startswith("Max processes"))
        assert (await kept.ended(epoch)).log_tail.split()[1] == processes.replace("unlimited", "-1")
