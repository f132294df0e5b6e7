"""The commands about the site: what it offers, its configuration, and whether it works."""

from collections.abc import Iterator
from pathlib import Path

import click

from jobd.client import Client
from jobd.ctl.command import CONFIG, Said, command, group
from schemas.views import CodesView

config = group("config", "The site's configuration.")


@command()
def codes(client: Client) -> CodesView:
    """List the codes that the site offers.

    \b
    jobctl codes --json | jq -r '.codes[].name'
    """
    return client.codes()


@command(
    click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default=Path("/etc/jobd/jobd.toml")),
    of=config,
)
def check(client: Client, file: Path) -> Said:
    """Check a configuration and its codes without a daemon: every problem, with its field and limit.

    \b
    jobctl config check /etc/jobd/jobd.toml && systemctl restart jobd

    The exit code is 1 when there is a problem.
    """
    from jobd.ctl.checking import problems  # noqa: PLC0415 - brings the whole daemon, which other commands do not need

    found = problems(file)
    words = [f"{each.field}: {each.problem}" if each.field else each.problem for each in found]
    data = [{"field": each.field, "problem": each.problem} for each in found]
    text = "\n".join(words) or f"{file} is good"
    return Said(text, {"file": str(file), "problems": data}, 1 if found else 0, "red" if found else "green")


@command(CONFIG, click.option("--offline", is_flag=True, help="The daemon is not meant to run now."))
def doctor(client: Client, path: Path, offline: bool) -> Iterator[Said]:
    """Check that the site works: one line for each check, ok or failed, with what to do.

    Looks at the configuration, the state directory, the sockets and every code's description; then starts an agent and
    a run that does nothing, by the configured backend but in a scratch daemon of its own: the one that serves is only
    asked how it is. Run it as the user that jobd runs as.

    \b
    jobctl doctor
    jobctl doctor --offline --config ./jobd.toml

    The exit code is 1 when a check has failed. With --json, one object for each check.
    """
    from jobd.ctl.doctor import checks  # noqa: PLC0415 - as above

    for each in checks(path, offline):
        words = f"ok      {each.name:10} {each.text}" if each.ok else f"failed  {each.name:10} {each.text}"
        data = {"check": each.name, "ok": each.ok, "text": each.text, "advice": each.advice}
        yield Said(
            f"{words}; {each.advice}" if each.advice else words, data, int(not each.ok), "" if each.ok else "red"
        )
