"""The command `jobctl`: what an operator does, over the daemon's admin socket. docs/jobctl.md shows it by task.

command   the group, and what each command is given and may return
jobs, files, users, agents, clusters, site   the commands, by subject
doctor    what `doctor` and `config check` look at
views     how each reply looks to people
progress  of long work
show      what reaches the terminal, and in which form
"""

import sys

from jobd.ctl import agents, clusters, files, jobs, site, users
from jobd.ctl.command import run

__all__ = ["agents", "clusters", "files", "jobs", "main", "site", "users"]


def main() -> None:
    """Run the command line."""
    sys.exit(run())
