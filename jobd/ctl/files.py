"""The commands about files: of a run, and of a user's library."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click

from jobd.client import Client
from jobd.ctl.command import JOB, NAME, PATH, SERIAL, USER, YES, Said, command, confirm, group
from jobd.ctl.progress import download, upload
from schemas.ids import check_path
from schemas.views import FileView, LibraryView, ListingView

library = group("library", "A user's library files.")

FILE = click.argument("name", type=NAME)


@command(USER, JOB, SERIAL)
def files(client: Client, user: str, job: str, serial: int | None) -> ListingView:
    """List the files of a run's directory.

    \b
    jobctl files alice melt
    """
    return client.files(user, job, serial)


@command(
    USER,
    JOB,
    click.argument("paths", metavar="[PATH]...", nargs=-1, type=PATH),
    SERIAL,
    click.option(
        "-d",
        "--directory",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path(),
        help="Where to put them; the default is here.",
    ),
)
def fetch(
    client: Client, user: str, job: str, paths: tuple[str, ...], serial: int | None, directory: Path
) -> Iterator[Said]:
    """Download files of a run as they are now, by their paths; without a PATH, all of them.

    \b
    jobctl fetch alice melt dump.lammpstrj
    jobctl fetch alice melt -d results

    A file appears when it is whole, and takes the place of an older one.
    """
    listing = client.files(user, job, serial)
    sizes = {file.path: file.bytes for file in listing.files}
    if not paths and listing.truncated:
        raise click.ClickException("there are more files than one listing shows: name those that you want")
    for path in paths or sizes:
        to = directory / _inside(path)
        count = download(partial(_get, client, user, job, path, serial), to, sizes.get(path, 0))
        yield Said(f"{to}  {count} bytes", {"path": path, "bytes": count, "to": str(to)})


def _inside(path: str) -> str:
    """A path that stays below the directory: a listing is what the user's agent says."""
    try:
        return check_path(path)
    except ValueError as error:
        raise click.ClickException(f"the listing has {path!r}, which {error}") from None


def _get(client: Client, user: str, job: str, path: str, serial: int | None, to: Path) -> int:
    return client.file(user, job, path, to, serial)


@command(USER, of=library, name="list")
def list_(client: Client, user: str) -> LibraryView:
    """List a user's library.

    \b
    jobctl library list alice
    """
    return client.library(user)


@command(
    USER,
    click.argument("source", type=click.Path(path_type=Path, exists=True, dir_okay=False)),
    click.option("--name", type=NAME, help="Its name in the library; the default is the file's own."),
    of=library,
    name="upload",
)
def upload_(client: Client, user: str, source: Path, name: str | None) -> FileView:
    """Store a file in a user's library; it is there when it is whole.

    \b
    jobctl library upload alice potentials/Cu_u3.eam
    jobctl library upload alice /tmp/new.eam --name Cu_u3.eam
    """
    name = NAME.convert(name or source.name, None, None)
    view: FileView = upload(lambda watched: client.upload(user, name, watched), source)
    return view


@command(
    USER,
    FILE,
    click.option(
        "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="The default is its name, here."
    ),
    of=library,
    name="download",
)
def download_(client: Client, user: str, name: str, output: Path | None) -> Said:
    """Download a library file.

    \b
    jobctl library download alice Cu_u3.eam -o /tmp/Cu_u3.eam
    """
    to = output or Path(name)
    sizes = {file.name: file.bytes for file in client.library(user).files}
    count = download(lambda part: client.download(user, name, part), to, sizes.get(name, 0))
    return Said(f"{to}  {count} bytes", {"name": name, "bytes": count, "to": str(to)})


@command(USER, FILE, YES, of=library)
def remove(client: Client, user: str, name: str, yes: bool) -> Said:
    """Take a name off a user's library; accepted runs keep its content. On a terminal it asks first.

    \b
    jobctl library remove --yes alice Cu_u3.eam
    """
    confirm(f"Remove {name} from the library of {user}?", yes)
    client.remove(user, name)
    return Said(f"removed {name}", {"name": name})
