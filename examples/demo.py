"""`make demo`: the main job of jobd, as a gateway's user sees it.

Starts a daemon of its own, runs LAMMPS in parallel, follows it live, saves its frames as pictures while it runs, kills
the daemon with SIGKILL in the middle and starts it again, cancels a second run half-way, and cleans up after itself.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from jobd.client import Client, ProblemError, Resources
from schemas.views import ProgressView, RunView

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
HOME = ROOT / "build" / "demo"
STATE = HOME / "state"
FRAMES = HOME / "frames"
START_S = 20.0
OVER = ("completed", "failed", "canceled")
NOTHING = ProgressView(None, "", {}, {})

sys.path.insert(0, str(ROOT / "deploy" / "codes" / "lammps"))
from decks import deck  # noqa: E402 - it lies beside the code's description

say = Console(highlight=False, soft_wrap=True)

CONFIG = f"""
state = "{STATE}"
codes = "{ROOT / "deploy" / "codes"}"
[http]
port = 0
[local]
allow_root = true
[agents]
lonely_s = 2.0
"""


@contextmanager
def holding_ctrl_c() -> Iterator[None]:
    """A Ctrl-C inside comes at its end: a process that has just been made must not be lost."""
    pressed = False

    def press(*_: object) -> None:
        nonlocal pressed
        pressed = True

    before = signal.signal(signal.SIGINT, press)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


class Daemon:
    """A jobd process of our own; killing it harms nothing that it supervises."""

    def __init__(self) -> None:
        (HOME / "jobd.toml").write_text(CONFIG)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, unless it lives, and wait until it serves."""
        address = STATE / "address"
        if self.process is None or self.process.poll() is not None:
            address.unlink(missing_ok=True)
            # In a session of its own: a terminal's Ctrl-C is for us, who need it once more, to cancel the run.
            with (HOME / "jobd.log").open("ab") as log, holding_ctrl_c():
                command = [BIN / "jobd", "--config", HOME / "jobd.toml"]
                self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        until = time.monotonic() + START_S
        while not address.exists():
            if self.process.poll() is not None or time.monotonic() > until:
                sys.exit(f"jobd did not start; its log is {HOME / 'jobd.log'}")
            time.sleep(0.05)

    def client(self) -> Client:
        """What the gateway's web server would use: the address and the service token."""
        return Client((STATE / "address").read_text().strip(), token=(STATE / "service-token").read_text().strip())

    def kill_and_restart(self) -> None:
        """SIGKILL: no clean-up, no last word."""
        assert self.process is not None
        with holding_ctrl_c():  # or a clean-up would take the dying process for a living one
            self.process.kill()
            self.process.wait()
        self.start()

    def stop(self) -> None:
        """SIGTERM: it detaches. The agents see that nobody needs them and end."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(timeout=START_S)


def leftovers() -> list[int]:
    """Processes whose command line names the demo's directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if str(STATE).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@contextmanager
def progress_bar(title: str) -> Iterator[Any]:
    """A bar with live numbers; `update(status)` moves it."""
    columns = (TextColumn(f"  {title}"), BarColumn(30), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=say) as bar:
        task = bar.add_task("", total=1.0)
        said = ""

        def update(status: RunView) -> None:
            nonlocal said
            said_now = status.progress or NOTHING
            words = said_now.text or (status.situation.text if status.situation else status.state)
            if said_now.metrics.get("temperature") is not None:
                words += f"   T {said_now.metrics['temperature']:.3f}   E {said_now.metrics['total_energy']:.4f}"
            bar.update(task, completed=said_now.fraction or 0.0, description=words)
            if not say.is_terminal and words != said:
                say.print(f"  {title}: {words}")
                said = words

        yield update


def save_frame(client: Client, user: str, job: str, saved: set[int], frames: int) -> None:
    """Save the newest whole frame as a picture, if it is a new one."""
    if frames and frames - 1 not in saved:
        try:
            (FRAMES / f"atoms-{frames - 1:04d}.png").write_bytes(
                client.frame(user, job, "atoms", frames - 1, format="png").content
            )
            saved.add(frames - 1)
        except ProblemError as problem:
            say.print(f"  frame {frames - 1}: {problem}")


def watch_first_run(daemon: Daemon, steps: int) -> RunView:
    """Run, follow, picture; kill the daemon half-way; returns the final status."""
    client, saved, killed = daemon.client(), set[int](), False
    text = deck("lj", steps=steps, every=max(5, steps // 50), prefix=sys.prefix)
    status = client.run(
        "alice", "melt", "lammps", mode="parallel", resources=Resources(cores=2), force=True,
        inputs={"in.lammps": text},
    )  # fmt: skip
    say.print(f"  accepted as run {status.serial}, durable before the answer")
    with progress_bar("melt") as update:
        while True:
            for event in client.events("alice", "melt"):
                status = event.status or status
                progress = status.progress or NOTHING
                update(status)
                if status.state == "running":
                    save_frame(client, "alice", "melt", saved, progress.frames.get("atoms", 0))
                if not killed and (progress.fraction or 0) > 0.4:
                    break
                if status.state in OVER and status.end_confirmed:
                    say.print(f"  {len(saved)} pictures were saved while it ran, in {FRAMES.relative_to(ROOT)}/")
                    return status
            killed = True
            say.print("  [bold]kill -9 of the daemon[/], and a new one ...")
            began = time.monotonic()
            daemon.kill_and_restart()
            client = daemon.client()
            status = client.status("alice", "melt")
            say.print(f"  back after {time.monotonic() - began:.1f} s: the run is {status.state}, no harm done")


def cancel_second_run(daemon: Daemon, steps: int) -> RunView:
    """Start another, shorter run of the same job and cancel it half-way."""
    client = daemon.client()
    # Long enough that half-way is not over before progress, which comes twice a second, has told of it.
    text = deck("lj", steps=max(300, steps // 2), every=max(5, steps // 50), prefix=sys.prefix)
    client.run(
        "alice", "melt", "lammps", mode="parallel", resources=Resources(cores=2), inputs={"in.lammps": text}
    )  # fmt: skip
    with progress_bar("again") as update:
        for event in client.events("alice", "melt"):
            if (now := event.status) is not None:
                update(now)
                if now.state in OVER or ((now.progress or NOTHING).fraction or 0) > 0.5:
                    break
    began = time.monotonic()
    status = client.cancel("alice", "melt", reason="seen enough")
    proof = "confirmed: no process of it exists" if status.end_confirmed else "not confirmed yet"
    say.print(f"  canceled in {time.monotonic() - began:.1f} s, its end is {proof}")
    return status


def report(client: Client, first: RunView, second: RunView) -> bool:
    """Print what came of it; returns whether all is as it should be."""
    numbers = (first.progress or NOTHING).metrics
    say.print(f"  run {first.serial}: [bold]{first.state}[/]", end="")
    if first.usage:
        say.print(f" after {first.usage.wall_s:.1f} s, {first.usage.cpu_s:.1f} core-seconds", end="")
    say.print("\n    " + "   ".join(f"{name} {value:g}" for name, value in numbers.items() if value is not None))
    for stage in first.timeline:
        say.print(f"    {stage.at}  {stage.name:10} {stage.text}")
    if second.cause:
        say.print(f"  run {second.serial}: [bold]{second.state}[/] by {second.cause.actor}: {second.cause.text}")
    for file in client.files("alice", "melt").files:
        say.print(f"    {file.path:20} {file.bytes:>12,} bytes")
    return first.state == "completed" and second.state == "canceled" and bool(second.end_confirmed)


def end_run(daemon: Daemon) -> None:
    """Cancel what still runs when the demo was cut short: a daemon that is merely stopped lets it go on."""
    daemon.start()
    client = daemon.client()
    if client.status("alice", "melt").state not in ("missing", *OVER):
        status = client.cancel("alice", "melt", reason="the demo was cut short")
        say.print(f"  run {status.serial}: {status.state}")


def clean_up(daemon: Daemon) -> bool:
    """Cancel what runs and stop the daemon; returns whether no process is left."""
    try:
        end_run(daemon)
    finally:
        daemon.stop()
    until = time.monotonic() + START_S
    while (left := leftovers()) and time.monotonic() < until:
        time.sleep(0.2)
    for pid in left:
        say.print(f"  [red]process {pid} is left[/]")
    return not left


def main() -> int:
    """Run the demo; exit code 0 when everything happened as it should."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short run, for tests")
    steps = 150 if parser.parse_args().quick else 1000
    if left := leftovers():
        sys.exit(f"a demo is still running: processes {left}")
    shutil.rmtree(HOME, ignore_errors=True)
    FRAMES.mkdir(parents=True)
    daemon = Daemon()
    well = cut_short = False
    try:
        say.rule("jobd demo")
        daemon.start()
        say.print("[bold]1  Alice runs LAMMPS on 2 cores through the API[/]")
        first = watch_first_run(daemon, steps)
        say.print("[bold]2  She runs it again with another input, and cancels half-way[/]")
        second = cancel_second_run(daemon, steps)
        say.print("[bold]3  What came of it[/]")
        well = report(daemon.client(), first, second)
    except KeyboardInterrupt:
        cut_short = True
        say.print("[bold]Ctrl-C: cleaning up ...[/]")
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it takes some seconds, and no longer than its limits
        well = clean_up(daemon) and well
    if cut_short:
        return 130
    say.print("  the daemon is stopped, no process is left" if well else f"  [red]see {HOME / 'jobd.log'}[/]")
    say.print("\nGo on: [bold]make run[/] starts a daemon to play with, and then, in another terminal,")
    say.print("  export JOBCTL_SOCKET=build/state/admin.sock")
    say.print("  .venv/bin/python deploy/codes/lammps/decks.py lj --steps 1000 --every 20 > build/in.lj")
    say.print("  .venv/bin/jobctl run alice melt --code lammps --mode parallel --cores 2 -i in.lammps=build/in.lj")
    say.print("  .venv/bin/jobctl status alice melt;  .venv/bin/jobctl log -f alice melt;  .venv/bin/jobctl tree")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
