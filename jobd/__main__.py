"""The command `jobd`: run the daemon in the foreground."""

import logging
import signal
import sys
from pathlib import Path

import click
import trio

from jobd import config as configuration
from jobd.config import ConfigError
from jobd.daemon import STOPS, serve
from jobd.supervisor import StateInUse
from schemas.codec import CodecError


@click.command()
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("/etc/jobd/jobd.toml"),
    show_default=True,
    help="The site's configuration.",
)
@click.option("--verbose", is_flag=True, help="Log debugging detail.")
def main(path: Path, verbose: bool) -> None:
    """The job supervisor behind a science gateway. SIGTERM detaches: whatever runs goes on."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("trio-websocket").setLevel(logging.WARNING)
    try:
        config = configuration.load(path)
        for number in STOPS:
            # `serve` listens to them from its first line on, and what it puts back at its end is this: a second one
            # must not end the stop half-way.
            signal.signal(number, signal.SIG_IGN)
        trio.run(serve, config)
    except (ConfigError, CodecError, StateInUse, OSError) as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
