"""What the commands of jobctl share: the group, the client that they are given, and how they end.

A command is a function of the client and its own arguments. It returns a class of schemas.views, which is shown, or
printed as JSON with --json; `Verdict` and `Said` say more. Errors become one line in `run`.
"""

import sys
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import click
from attrs import frozen
from click.exceptions import NoArgsIsHelpError

from jobd.client import Client, JobdClientError, ProblemError, UnreachableError
from jobd.ctl import show, views
from schemas.codec import to_data
from schemas.ids import check_name, check_path
from schemas.views import RunView

REFUSED, USAGE, INTERRUPTED = 1, 2, 130
EXIT_CODES = {"completed": 0, "failed": 3, "canceled": 4}
EXIT_CODES_HELP = """\b
Exit codes:
  0    done; a run that was followed has completed
  1    refused, failed or unreachable (the reason is one line on stderr)
  2    wrong usage
  3    the run has failed
  4    the run was canceled
  130  interrupted; a run that was followed goes on
"""

Parameter = Callable[[Any], Any]
Commanded = Callable[..., Any]


@frozen
class Verdict:
    """A run, whose verdict is the exit code."""

    view: RunView


@frozen
class Said:
    """What no class of schemas.views says: a text for people, data for JSON. On a bad end the exit code is not 0."""

    text: str
    data: Any
    exit_code: int = 0
    style: str = ""


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "JOBCTL"}, epilog=EXIT_CODES_HELP
)
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    default=Path("/var/lib/jobd/admin.sock"),
    show_default=True,
    show_envvar=True,
    help="The daemon's admin socket, <state>/admin.sock.",
)
@click.option(
    "--patience",
    "patience_s",
    type=click.FloatRange(0, 86400),
    default=5.0,
    show_default=True,
    show_envvar=True,
    metavar="SECONDS",
    help="How long to wait for a daemon that does not answer, as in a restart.",
)
@click.version_option(package_name="jobd")
@click.pass_context
def jobctl(context: click.Context, socket: Path, patience_s: float) -> None:
    """See and steer a running jobd, as an operator.

    \b
    jobctl run alice melt --code lammps -i in.lammps=melt.in
    jobctl jobs --state running
    jobctl explain alice melt
    jobctl doctor --config /etc/jobd/jobd.toml

    Every command takes --json. In a pipe, tables are lines of cells parted by tabs.
    """
    context.obj = context.with_resource(Client(socket=socket, patience_s=patience_s))


def group(name: str, about: str) -> click.Group:
    """A group of commands."""
    made = click.Group(name, help=about)
    jobctl.add_command(made)
    return made


def command(*parameters: Parameter, of: click.Group = jobctl, name: str | None = None) -> Callable[[Commanded], Any]:
    """Makes a command of a function: with these arguments and options and --json, given the client, its reply shown."""

    def decorate(function: Commanded) -> Any:
        @click.pass_obj
        @wraps(function)
        def call(client: Client, /, as_json: bool, **options: Any) -> int:
            return _finish(function(client, **options), as_json)

        called: Any = call
        for parameter in reversed((*parameters, AS_JSON)):
            called = parameter(called)
        return of.command(name or function.__name__)(called)

    return decorate


def _finish(reply: Any, as_json: bool) -> int:
    """Show a reply, or each of many; returns the exit code."""
    if isinstance(reply, Iterator):
        return max((_finish(each, as_json) for each in reply), default=0)
    view = reply.view if isinstance(reply, Verdict) else reply
    if as_json and view is not None:
        show.document(view.data if isinstance(view, Said) else to_data(view))
    elif isinstance(view, Said):
        show.line((view.text, view.style))
    elif view is not None:
        views.view(view)
    if isinstance(reply, Verdict):
        return EXIT_CODES.get(reply.view.state, 0)
    return reply.exit_code if isinstance(reply, Said) else 0


def run() -> int:
    """Run the command line; every error is one line on stderr. Returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        return jobctl.main(prog_name="jobctl", standalone_mode=False) or 0
    except NoArgsIsHelpError as error:
        error.show()
        return USAGE
    except (click.ClickException, click.Abort, JobdClientError, OSError) as error:
        text, code = _told(error)
        show.note(("jobctl: ", "red"), show.flat(text))
        return code


def _told(error: Exception) -> tuple[str, int]:
    """What an error is to people, and to scripts."""
    match error:
        case click.UsageError():
            path = error.ctx.command_path if error.ctx else "jobctl"
            return f"{error.format_message()} (see {path} --help)", USAGE
        case click.Abort():
            return "interrupted", INTERRUPTED
        case UnreachableError():
            return f"{error}; is the daemon running, and may you use its socket? `jobctl doctor` finds out", REFUSED
        case ProblemError():
            return f"{error} ({error.code})", REFUSED
    return str(error), REFUSED


# --- arguments and options that many commands have ------------------------------------------------------------------


class Checked(click.ParamType[str]):
    """A text that one of schemas.ids' functions accepts."""

    def __init__(self, name: str, check: Callable[[str], str]) -> None:
        self.name = name
        self._check = check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text, or wrong usage with what is allowed."""
        try:
            return self._check(value)
        except ValueError as error:
            self.fail(f"{value!r} {error}.", param, ctx)


NAME = Checked("name", check_name)
PATH = Checked("path", check_path)
CONFIG = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("/etc/jobd/jobd.toml"),
    show_default=True,
    help="The site's configuration.",
)
USER = click.argument("user", type=NAME)
JOB = click.argument("job", type=NAME)
SERIAL = click.option("--serial", type=click.IntRange(1), help="This run of the job; without it, the newest.")
YES = click.option("-y", "--yes", is_flag=True, help="Do not ask on a terminal.")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print the reply as JSON, by the API's field names.")


def confirm(question: str, yes: bool) -> None:
    """Ask whoever sits at a terminal; a script has said it already."""
    if not yes and sys.stdin.isatty():
        click.confirm(show.flat(question), abort=True, err=True)
