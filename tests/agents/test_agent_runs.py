"""What a run's parent does: real commands, real limits, real escapes."""

import os
import signal
import sys
import time

import pytest
import trio
from standin_jobd import StandIn, eventually

from schemas.link import Ended, Started


def python(text: str) -> tuple[str, str, str]:
    return (sys.executable, "-c", text)


# Leaves the session, forks twice, forgets its environment: nothing but being an orphan of the run marks it.
FUGITIVE = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.chdir("/")
        code = "import os, time; open({mark!r}, 'w').write(str(os.getpid())); time.sleep(60)"
        os.execve(sys.executable, [sys.executable, "-c", code], {{}})
    os._exit(0)
while not os.path.exists({mark!r}) or not open({mark!r}).read():
    time.sleep(0.01)
{then}
"""


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
async def jobd(kept: StandIn) -> StandIn:
    """These tests leave the agent as it was."""
    return kept


async def test_a_run_is_taken_then_started_then_ended_with_its_exit_code(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch = await jobd.start("sh", "-c", "echo out; echo err >&2; exit 3")
        await jobd.taken(epoch)
        started = await jobd.started(epoch)
        ended = await jobd.ended(epoch)
        assert ended.number == started.number + 1
        assert (ended.outcome, ended.exit_code, ended.signal) == ("exited", 3, None)
        assert ended.text == "exited with code 3"
        assert ended.log_tail == "out\nerr\n"
        assert (jobd.control(epoch) / "log").read_text() == "out\nerr\n"


async def test_a_run_sees_its_directory_and_exactly_the_environment_of_the_order(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch = await jobd.start("sh", "-c", "pwd; echo {run_dir}; env | sort", environment={"A": "1"})
        ended = await jobd.ended(epoch)
        run_dir = str(jobd.run_dir(epoch))
        lines = ended.log_tail.splitlines()
        assert lines[:2] == [run_dir, run_dir]
        names = {line.split("=")[0] for line in lines[2:]}
        assert names - {"_", "SHLVL", "OLDPWD"} == {"A", "HOME", "JOBD_RUN", "PATH", "PWD", "TMPDIR"}
        assert f"HOME={run_dir}" in lines
        assert os.listdir(run_dir) == []
        assert jobd.root.joinpath(".jobd").stat().st_mode & 0o777 == 0o700


async def test_a_run_has_no_input_and_inherits_no_descriptor(jobd: StandIn) -> None:
    with trio.fail_after(10):
        code = "import os, sys; print(sys.stdin.read() == '', sorted(map(int, os.listdir('/proc/self/fd')))[:-1])"
        ended = await jobd.ended(await jobd.start(*python(code)))
        assert ended.log_tail == "True [0, 1, 2]\n"


async def test_a_stopped_run_gets_sigterm_and_then_its_grace(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch = await jobd.start("sh", "-c", "trap 'echo bye; exit 7' TERM; echo up; sleep 60 & wait")
        await wait_for_log(jobd, epoch, "up")
        await jobd.stop(epoch)
        ended = await jobd.ended(epoch)
        assert (ended.outcome, ended.exit_code, ended.text) == ("stopped", 7, "was stopped")
        assert ended.log_tail == "up\nbye\n"
        assert jobd.at.run_processes() == []


async def test_a_run_that_ignores_sigterm_is_killed_after_its_grace(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch = await jobd.start(
            *python("import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)")
        )
        await wait_for_log(jobd, epoch, "up")
        began = time.monotonic()
        await jobd.stop(epoch, grace_s=0.4)
        ended = await jobd.ended(epoch)
        assert (ended.outcome, ended.signal) == ("stopped", signal.SIGKILL)
        assert 0.35 < time.monotonic() - began < 3


async def test_a_run_that_is_suspended_still_ends(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch = await jobd.start(
            *python("import os, signal; print('up', flush=True); os.kill(os.getpid(), signal.SIGSTOP)")
        )
        await wait_for_log(jobd, epoch, "up")
        await jobd.stop(epoch, grace_s=30.0)
        ended = await jobd.ended(epoch)
        assert (ended.outcome, ended.signal) == ("stopped", signal.SIGTERM)


async def test_a_parent_that_is_suspended_still_takes_a_stop(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch = await jobd.start("sleep", "60")
        await jobd.started(epoch)
        os.kill(jobd.claim(epoch).pid, signal.SIGSTOP)
        await jobd.stop(epoch)
        assert (await jobd.ended(epoch)).outcome == "stopped"


async def test_a_stop_that_is_noted_before_the_parent_looks_keeps_the_command_from_being_executed(
    jobd: StandIn,
) -> None:
    with trio.fail_after(10):
        order = jobd.order("touch", "../ran")
        jobd.control(order.epoch).mkdir(parents=True)
        (jobd.control(order.epoch) / "stop.json").write_text('{"grace_s":1.0}')
        await jobd.send(order)
        ended = await jobd.ended(order.epoch)
        assert (ended.outcome, ended.text) == ("stopped", "was stopped before it began")
        assert not (jobd.scratch / "ran").exists()


async def test_a_parent_that_gets_a_signal_without_a_note_gives_the_grace_of_the_order(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch = await jobd.start("sleep", "60")
        await jobd.started(epoch)
        os.kill(jobd.claim(epoch).pid, signal.SIGTERM)
        assert (await jobd.ended(epoch)).outcome == "stopped"


async def test_stop_orders_may_be_repeated_and_may_come_late_or_for_nobody(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch = await jobd.start("sleep", "60")
        for _ in range(5):
            await jobd.stop(epoch)
        ended = await jobd.ended(epoch)
        await jobd.stop(epoch)
        await jobd.stop(type(epoch)(epoch.job, 99))
        again = await jobd.start("true", serial=2)
        await jobd.ended(again)
        assert next(fact for fact in jobd.facts if isinstance(fact, Ended)) == ended
        assert ended.outcome == "stopped"
        assert sum(isinstance(fact, Ended) for fact in jobd.numbered().values()) == 2


async def test_the_wall_time_limit_ends_a_run(jobd: StandIn) -> None:
    with trio.fail_after(10):
        ended = await jobd.ended(await jobd.start("sleep", "60", run_s=0.3))
        assert (ended.outcome, ended.signal) == ("wall_time", signal.SIGTERM)
        assert ended.text == "reached its wall-time limit of 0.3 s"
        assert 0.3 <= ended.wall_s < 2


async def test_a_log_flood_ends_a_run_and_the_log_keeps_to_its_limit(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch = await jobd.start("sh", "-c", "trap '' TERM; yes", log_bytes=100_000)
        ended = await jobd.ended(epoch)
        assert ended.outcome == "log_limit"
        assert (jobd.control(epoch) / "log").stat().st_size == 100_000


async def test_a_flood_that_ends_by_itself_leaves_a_cut_log_and_says_so(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch = await jobd.start("sh", "-c", "printf 1234567890", log_bytes=4)
        ended = await jobd.ended(epoch)
        assert (jobd.control(epoch) / "log").read_text() == "1234"
        assert ended.outcome == "log_limit" or ended.text == "exited with code 0; its log was cut at 4 bytes"


async def test_a_run_that_closes_its_descriptors_is_still_watched(jobd: StandIn) -> None:
    with trio.fail_after(10):
        ended = await jobd.ended(await jobd.start("sh", "-c", "exec >&- 2>&- <&-; sleep 0.3; exit 5"))
        assert (ended.outcome, ended.exit_code) == ("exited", 5)
        assert ended.wall_s >= 0.3


async def test_what_holds_the_output_open_does_not_hold_the_end(jobd: StandIn) -> None:
    with trio.fail_after(10):
        ended = await jobd.ended(await jobd.start("sh", "-c", "sleep 60 & echo main; exit 0"))
        assert (ended.exit_code, ended.log_tail) == (0, "main\n")
        assert jobd.at.run_processes() == []


@pytest.mark.parametrize("then", ["", "time.sleep(60)"])
async def test_an_escape_by_setsid_and_double_fork_is_swept(jobd: StandIn, then: str) -> None:
    with trio.fail_after(10):
        mark = jobd.scratch / "mark"
        epoch = await jobd.start(*python(FUGITIVE.format(mark=str(mark), then=then)))
        await eventually(lambda: mark.exists() and mark.read_text())
        fugitive = int(mark.read_text())
        if then:
            assert is_alive(fugitive)
            await jobd.stop(epoch)
        await jobd.ended(epoch)
        assert not is_alive(fugitive)


async def test_a_moderate_fork_bomb_ends(jobd: StandIn) -> None:
    with trio.fail_after(20):
        bomb = """
import os, time
end = time.time() + 60
for generation in range(6):
    os.fork(); os.setsid() if os.getpid() % 2 and os.getpgid(0) != os.getpid() else None
print("up", flush=True)
while time.time() < end:
    if os.fork() == 0:
        os._exit(0) if os.fork() else time.sleep(0.05)
        os._exit(0)
    os.wait()
"""
        epoch = await jobd.start(*python(bomb))
        await wait_for_log(jobd, epoch, "up")
        await jobd.stop(epoch, grace_s=0.1)
        assert (await jobd.ended(epoch)).outcome == "stopped"
        assert jobd.at.run_processes() == []


async def test_a_signal_that_ends_a_run_is_named(jobd: StandIn) -> None:
    with trio.fail_after(10):
        ended = await jobd.ended(await jobd.start("sh", "-c", "kill -SEGV $$"))
        assert (ended.outcome, ended.exit_code, ended.signal) == ("exited", None, signal.SIGSEGV)
        assert ended.text == "ended by signal 11 (segmentation fault)"


async def test_a_command_that_cannot_be_executed_is_not_started(jobd: StandIn) -> None:
    with trio.fail_after(10):
        for serial, (command, text) in enumerate(
            (
                ("no-such-command", "command not found: no-such-command"),
                ("/etc/passwd", "cannot execute /etc/passwd: Permission denied"),
                ("bad\0name", "cannot execute bad\0name: embedded null byte"),
            ),
            start=1,
        ):
            ended = await jobd.ended(await jobd.start(command, serial=serial))
            assert (ended.outcome, ended.text) == ("not_started", text)
            assert not [fact for fact in jobd.facts if isinstance(fact, Started)]


async def test_memory_beyond_the_limit_is_refused_to_the_code(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch = await jobd.start(*python("bytearray(1 << 30)"), memory_bytes=256 << 20)
        ended = await jobd.ended(epoch)
        assert ended.exit_code == 1
        assert "MemoryError" in ended.log_tail


async def test_a_file_beyond_the_limit_is_refused_to_the_code(jobd: StandIn) -> None:
    with trio.fail_after(10):
        epoch = await jobd.start("sh", "-c", "exec dd if=/dev/zero of=big bs=1M count=8", output_bytes=1 << 20)
        ended = await jobd.ended(epoch)
        assert (ended.signal, ended.text) == (signal.SIGXFSZ, "ended by signal 25 (file size limit exceeded)")
        assert (jobd.run_dir(epoch) / "big").stat().st_size == 1 << 20


async def test_the_end_tells_what_the_run_used(jobd: StandIn) -> None:
    with trio.fail_after(10):
        code = "import time; held = bytearray(80 << 20)\nwhile time.process_time() < 0.4: pass"
        ended = await jobd.ended(await jobd.start("sh", "-c", f"{sys.executable} -c '{code}'"))
        assert 0.3 <= ended.cpu_s < 2
        assert ended.wall_s >= 0.3
        assert (80 << 20) < ended.peak_memory_bytes < (200 << 20)


async def test_many_runs_go_on_at_once(jobd: StandIn) -> None:
    with trio.fail_after(20):
        epochs = [await jobd.start("sh", "-c", f"sleep 0.2; exit {serial}", serial=serial) for serial in range(1, 21)]
        codes = [(await jobd.ended(epoch)).exit_code for epoch in epochs]
        assert codes == list(range(1, 21))
        assert len(jobd.numbered()) == 40


async def wait_for_log(jobd: StandIn, epoch: object, text: str) -> None:
    log = jobd.control(epoch) / "log"  # type: ignore[arg-type]
    await eventually(lambda: log.exists() and text in log.read_text())
