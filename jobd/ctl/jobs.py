"""The commands about jobs and their runs."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click

from jobd.client import BatchRequest, Client, Input, Resources, TimeLimits
from jobd.client import Event as ClientEvent
from jobd.ctl import show
from jobd.ctl.command import EXIT_CODES, JOB, NAME, SERIAL, USER, YES, Said, Verdict, command, confirm
from jobd.ctl.progress import follow
from schemas.views import ExplainView, HistoryView, JobsView, RunView

STATES = ("pending", "running", "completed", "failed", "canceled")
LIMIT = click.option("-n", "--limit", type=click.IntRange(1), help="Show at most so many.")


@command(
    USER,
    JOB,
    click.option("--code", required=True, type=NAME, help="The simulation code, as `jobctl codes` names it."),
    click.option("--mode", type=click.Choice(["sequential", "parallel"]), default="sequential", show_default=True),
    click.option("--cores", type=click.IntRange(1), help="Cores of the run."),
    click.option("--memory-bytes", type=click.IntRange(1 << 20), help="Memory of the run."),
    click.option("--cluster", type=NAME, help="The cluster of a run in mode batch."),
    click.option("--partition", default="", help="Its partition; without it, the cluster's first."),
    click.option("--account", default="", help="The account there that pays."),
    click.option("--nodes", type=click.IntRange(1), default=1, show_default=True, help="Its nodes."),
    click.option("--tasks", type=click.IntRange(1), default=1, show_default=True, help="Its tasks, in all."),
    click.option("--run-s", type=click.FloatRange(0.1), help="The wall-time limit, in seconds."),
    click.option("-i", "--input", "inputs", multiple=True, metavar="NAME=PATH", help="An input file; may be repeated."),
    click.option(
        "-l", "--library", multiple=True, metavar="NAME=FILE", help="An input from the user's library; may be repeated."
    ),
    click.option("--force", is_flag=True, help="Run again although these inputs have a result."),
    click.option("--supersede", is_flag=True, help="Cancel an active run with other inputs."),
    click.option("--follow/--no-follow", default=True, show_default=True, help="Wait until the run has ended."),
)
def run(client: Client, user: str, job: str, **options: Any) -> Verdict:
    """Run a job and follow it; the exit code tells how it ended.

    \b
    jobctl run alice melt --code lammps -i in.lammps=melt.in
    jobctl run alice melt --code lammps --mode parallel --cores 4 -l in.lammps=melt.in --no-follow --json
    jobctl run alice melt --code lammps --cluster hpc --nodes 2 --tasks 64 -i in.lammps=melt.in
    """
    texts: dict[str, str | Input] = {name: _text(path) for name, path in _pairs("--input", options["inputs"])}
    shelved = {name: Input(library=file) for name, file in _pairs("--library", options["library"])}
    batch = None
    if options["cluster"]:
        names = {name: options[name] for name in ("cluster", "partition", "account", "nodes", "tasks")}
        batch = BatchRequest(**names)
    status = client.run(
        user,
        job,
        options["code"],
        mode="batch" if batch else options["mode"],
        inputs=texts | shelved,
        resources=Resources(options["cores"], options["memory_bytes"]),
        limits=TimeLimits(run_s=options["run_s"]),
        batch=batch,
        force=options["force"],
        supersede=options["supersede"],
    )
    return Verdict(follow(client, status) if options["follow"] else status)


def _pairs(option: str, given: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for each in given:
        name, separator, value = each.partition("=")
        if not (name and separator and value):
            raise click.BadParameter(f"{each!r} must be NAME=VALUE.", param_hint=option)
        yield name, value


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path}: {error}", param_hint="--input") from None


@command(
    USER,
    JOB,
    click.option("-f", "--follow", "followed", is_flag=True, help="Wait until the run has ended; exit as `run` does."),
)
def status(client: Client, user: str, job: str, followed: bool) -> RunView | Verdict:
    """Show a job's newest run.

    \b
    jobctl status alice melt --json | jq -r .state
    jobctl status -f alice melt && echo it has completed
    """
    now = client.status(user, job)
    return Verdict(follow(client, now)) if followed else now


@command(
    click.argument("user", type=NAME, required=False),
    click.option("--state", type=click.Choice(STATES), help="Only those in this state."),
    click.option("--code", type=NAME, help="Only those of this code."),
    LIMIT,
)
def jobs(client: Client, user: str | None, state: str | None, code: str | None, limit: int | None) -> JobsView:
    """List the jobs of a user, or without one of all, each with its newest run.

    \b
    jobctl jobs --state running
    jobctl jobs alice | awk -F'\\t' '$4 == "failed" {print $2}'
    """
    return JobsView(tuple(islice(client.jobs(user, state=state, code=code), limit)))


@command(USER, JOB, LIMIT)
def runs(client: Client, user: str, job: str, limit: int | None) -> HistoryView:
    """List a job's kept runs, newest first.

    \b
    jobctl runs alice melt --json | jq '.runs[] | .serial, .inputs'
    """
    return HistoryView(tuple(islice(client.runs(user, job), limit)))


@command(USER, JOB, SERIAL)
def explain(client: Client, user: str, job: str, serial: int | None) -> ExplainView:
    """Say why a run waits, or why it ended, with its timeline.

    \b
    jobctl explain alice melt
    jobctl explain alice melt --serial 3
    """
    return client.explain(user, job, serial)


@command(
    USER,
    JOB,
    click.option("--serial", type=click.IntRange(1), help="Cancel only if it is this run."),
    click.option("--reason", default="", help="Is shown to the user."),
)
def cancel(client: Client, user: str, job: str, serial: int | None, reason: str) -> RunView:
    """Cancel a job's run; says whether its end is confirmed.

    \b
    jobctl cancel alice melt --reason 'the host goes down at noon'
    """
    return client.cancel(user, job, serial, reason)


@command(USER, JOB, YES)
def delete(client: Client, user: str, job: str, yes: bool) -> RunView:
    """Purge a job: its runs, files and history. On a terminal it asks first.

    \b
    jobctl delete --yes alice melt
    """
    confirm(f"Delete all runs and files of {user}/{job}?", yes)
    return client.delete(user, job)


@command(
    USER,
    JOB,
    SERIAL,
    click.option("-f", "--follow", "followed", is_flag=True, help="Go on until the run has ended."),
)
def log(client: Client, user: str, job: str, serial: int | None, followed: bool) -> Any:
    """Print a run's log: its raw bytes, but on a terminal without control sequences.

    \b
    jobctl log -f alice melt
    jobctl log alice melt --serial 3 > melt.log

    With --json, one object with its `line` for each line.
    """
    pieces = client.log(user, job, follow=followed, serial=serial)
    if click.get_current_context().params["as_json"]:
        return (Said("", {"line": line}) for line in _lines(pieces))
    return show.bytes_of(pieces)


def _lines(pieces: Iterator[bytes]) -> Iterator[str]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line.decode(errors="replace") for line in whole)
    if rest:
        yield rest.decode(errors="replace")


@command(
    USER,
    JOB,
    click.option("--after", type=click.IntRange(0), default=0, show_default=True, help="Only stages after this one."),
)
def events(client: Client, user: str, job: str, after: int) -> Iterator[Said]:
    """Print the stages of a job's runs, and with --json every event, until its newest run has ended.

    \b
    jobctl events alice melt
    jobctl events alice melt --json | jq -c 'select(.event == "status") | .data.progress'
    """
    for event in client.events(user, job, after):
        if event.name == "stage" or click.get_current_context().params["as_json"]:
            yield _event(event)
        if event.status and (event.status.state == "missing" or _is_over(event.status)):
            return


def _is_over(status: RunView) -> bool:
    return status.state in EXIT_CODES and bool(status.end_confirmed)


def _event(event: ClientEvent) -> Said:
    words = (event.number, *(event.data.get(each, "") for each in ("at", "state", "name", "text")))
    text = "\t".join(show.flat(str(word)) for word in words)
    return Said(text, {"event": event.name, "number": event.number, "data": event.data})
