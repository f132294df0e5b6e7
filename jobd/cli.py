"""The command `jobctl`: what an operator does, over the daemon's admin socket.

Exit codes: 0 done, 1 refused or unreachable, 2 wrong usage, 3 the run failed, 4 the run was canceled.
"""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.tree import Tree

from jobd.client import Client, JobdClientError, Resources
from schemas.codec import dumps, to_data
from schemas.views import RunView

EXIT_CODES = {"completed": 0, "failed": 3, "canceled": 4}

out = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "JOBCTL"})
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    default=Path("/var/lib/jobd/admin.sock"),
    show_default=True,
    show_envvar=True,
    help="The daemon's admin socket, <state>/admin.sock.",
)
@click.pass_context
def main(context: click.Context, socket: Path) -> None:
    """See and steer a running jobd."""
    context.obj = context.with_resource(Client(socket=socket, patience_s=5.0))


def command(function: Callable[..., int | None]) -> click.Command:
    """A subcommand that is given the client; problems become one line on stderr and exit code 1."""

    @main.command(function.__name__, help=function.__doc__)
    @click.pass_context
    @wraps(function)
    def run(context: click.Context, /, **options: Any) -> None:
        try:
            code = function(context.obj, **options)
        except JobdClientError as error:
            errors.print(f"[red]{type(error).__name__.removesuffix('Error')}:[/] {error}", markup=True)
            code = 1
        except BrokenPipeError:
            code = 1
        sys.exit(code or 0)

    return run


JOB = (click.argument("user"), click.argument("job"))
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print the reply as JSON.")


def job_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    """The arguments USER JOB."""
    for argument in reversed(JOB):
        function = argument(function)
    return function


@command
@job_arguments
@click.option("--code", required=True, help="The simulation code, as `GET /v1/codes` names it.")
@click.option("--mode", type=click.Choice(["sequential", "parallel", "batch"]), default="sequential", show_default=True)
@click.option("--cores", type=click.IntRange(1), help="Cores of the run.")
@click.option("-i", "--input", "inputs", multiple=True, metavar="NAME=PATH", help="An input file; may be repeated.")
@click.option("--force", is_flag=True, help="Run again although this input has a result.")
@click.option("--supersede", is_flag=True, help="Cancel an active run with other inputs.")
@click.option("--follow/--no-follow", default=True, show_default=True, help="Show progress until the run has ended.")
@AS_JSON
def run(client: Client, user: str, job: str, inputs: tuple[str, ...], **options: Any) -> int:
    """Run a job and follow it."""
    files = {}
    for each in inputs:
        name, separator, path = each.partition("=")
        if not separator:
            raise click.BadParameter("must be NAME=PATH", param_hint="--input")
        try:
            files[name] = Path(path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise click.BadParameter(str(error), param_hint="--input") from None
    status = client.run(
        user,
        job,
        code=options["code"],
        mode=options["mode"],
        inputs=files,
        resources=Resources(cores=options["cores"]),
        force=options["force"],
        supersede=options["supersede"],
    )
    if options["follow"]:
        status = follow(client, user, job, status)
    show(status, options["as_json"])
    return EXIT_CODES.get(status.state, 0)


@command
@job_arguments
@AS_JSON
def status(client: Client, user: str, job: str, as_json: bool) -> None:
    """Show a job's newest run."""
    show(client.status(user, job), as_json)


@command
@job_arguments
@click.option("--serial", type=click.IntRange(1), help="Cancel only if it is this run.")
@click.option("--reason", default="", help="Is shown to the user.")
@AS_JSON
def cancel(client: Client, user: str, job: str, serial: int | None, reason: str, as_json: bool) -> None:
    """Cancel a job's run."""
    show(client.cancel(user, job, serial, reason), as_json)


@command
@job_arguments
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended.")
def log(client: Client, user: str, job: str, follow: bool) -> None:
    """Print a run's log."""
    for piece in client.log(user, job, follow=follow):
        sys.stdout.buffer.write(piece)
        sys.stdout.flush()


@command
@AS_JSON
def tree(client: Client, as_json: bool) -> None:
    """Print the live cancel-scope tree, with what each node awaits."""
    view = client.tree()
    if as_json:
        click.echo(dumps(to_data(view)))
        return
    branches: list[Tree] = []
    for node in view.tree:
        doing = f"  [dim]{node.doing}[/]" if node.doing else ""
        cause = f"  [red]{node.cause}[/]" if node.cause else ""
        label = f"{node.kind} [bold]{node.name}[/]{doing}{cause}"
        del branches[node.depth :]
        branches.append(branches[-1].add(label) if branches else Tree(label))
    out.print(branches[0])


def follow(client: Client, user: str, job: str, status: RunView) -> RunView:
    """Show live progress until the run has ended; returns its last status."""
    bar = Progress(
        TextColumn("{task.fields[state]}"), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(),
        console=errors,
    )  # fmt: skip
    with bar:
        task = bar.add_task("", total=1.0, state="pending")
        events = client.events(user, job)
        while not (status.state in EXIT_CODES and status.end_confirmed):
            now = next(events).status
            if now is not None and now.serial == status.serial:
                status = now
            fraction = status.progress.fraction if status.progress else None
            words = status.progress.text if status.progress else status.situation.text if status.situation else ""
            bar.update(task, completed=fraction or 0.0, description=words, state=status.state)
    return status


def show(status: RunView, as_json: bool) -> None:
    """Print a status, for people or as JSON."""
    if as_json:
        click.echo(dumps(to_data(status)))
        return
    out.print(f"[bold]{status.user}/{status.job}[/]  {status.state}", end="")
    out.print(f"  run {status.serial}  {status.code} {status.mode}" if status.serial else "")
    known = status.known
    rows = {
        "waits": status.situation and status.situation.text,
        "progress": status.progress and status.progress.text,
        "cause": status.cause and status.cause.text,
        "end": "not confirmed yet" if status.end_confirmed is False else None,
        "known": f"unknown for {known.age_s:g} s" if known and known.state == "unknown" else None,
    }
    for name, words in rows.items():
        if words:
            out.print(f"  {name:9} {words}", markup=False)
    for stage in status.timeline:
        out.print(f"  {stage.at}  {stage.name:14} {stage.text}", markup=False)
    if status.state == "failed" and status.log_tail:
        out.print("  the end of its log:", markup=False)
        out.print(status.log_tail, markup=False)


if __name__ == "__main__":
    main()
