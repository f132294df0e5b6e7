"""The directories of agents on a disk that jobd shares with them: made, owned, and filled with setup and token."""

import os
from pathlib import Path

from backends.base import AgentSpec, BackendError
from schemas.codec import dumps, to_data
from schemas.setups import AgentSetup


def prepare(spec: AgentSpec, owner: int, setup: AgentSetup) -> None:
    """Make the agent's own directory and its user's and, for a new generation, write setup and token."""
    for directory in (spec.directory, spec.root):
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.parent.chmod(0o711)  # the agents' uids pass through, and see nothing
        directory.mkdir(mode=0o700, exist_ok=True)
    if owner != os.getuid():
        os.chown(spec.root, owner, owner)
        # jobd opens and chowns files in the agent's directory, so a user who could write there could lay links in
        # its way: the agent only passes through.
        os.chown(spec.directory, os.getuid(), owner)
        spec.directory.chmod(0o710)
    if spec.token:
        _write(spec.directory / "agent.json", dumps(to_data(setup)), owner)
        _write(spec.directory / "token", spec.token, owner)


def refused(error: OSError) -> BackendError:
    """What the disk has said, in our words."""
    where = f": {error.filename}" if error.filename else ""
    return BackendError(f"{error.strerror or error}{where}")


def uid_of(spec: AgentSpec, first: int, count: int) -> int:
    """The user's own uid out of the configured range; raises BackendError when all are taken."""
    if spec.user_number >= count:
        raise BackendError(f"all {count} uids of the configured range are taken")
    return first + spec.user_number


def _write(path: Path, text: str, owner: int) -> None:
    """A file that only its owner reads, replaced as a whole."""
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w") as file:
        file.write(text)
        os.fchown(file.fileno(), owner, owner)
    draft.rename(path)
