import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "agents"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tls"))

from certificates import Certificate
from loginnode import Sshd, User, install


@pytest.fixture(scope="session")
def bed() -> Iterator[Path]:
    """A directory that users may pass through."""
    if os.getuid() != 0:
        words = "an sshd with users of its own needs root"
        pytest.fail(words) if os.environ.get("JOBD_REAL") == "all" else pytest.skip(words)
    install()
    path = Path(tempfile.mkdtemp(prefix="jobd-ssh-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def user(bed: Path) -> Iterator[User]:
    user = User(bed)
    yield user
    user.remove()


@pytest.fixture(scope="module")
def make_sshd(bed: Path, user: User) -> Iterator[Callable[..., Sshd]]:
    """Starts servers; each ends with the module."""
    with ExitStack() as stack:

        def make(pam: str = "password", **options: Any) -> Sshd:
            sshd = Sshd(user, bed, pam, **options)
            stack.callback(sshd.end)
            return sshd.start()

        yield make


@pytest.fixture(scope="module")
def sshd(make_sshd: Callable[..., Sshd]) -> Sshd:
    """One that asks for a password, or a key."""
    return make_sshd()


@pytest.fixture(scope="session")
def certificate() -> Certificate:
    return Certificate()
