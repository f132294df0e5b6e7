"""`python jobd-agent.pyz DIR`: one agent for one user, called into life by a backend. (`--relay FILE`:
relay.py; `--login`: login.py.)

The order matters: the lock, then the fork server, then trio. The fork server holds the lock too, so that a successor
begins only when nobody is left who could fork a run of the predecessor.
"""

import fcntl
import logging
import os
import socket
import sys
import time

from agents import disk, forkserver
from schemas import codec
from schemas.setups import AgentSetup

LOCK_WAIT_S_MAX = 3.0
SETUP_BYTES_MAX = 64 * 1024

log = logging.getLogger("agents")


def main() -> int:
    """Run the agent of the directory that the command line names."""
    if len(sys.argv) == 3 and sys.argv[1] == "--relay":
        from agents import relay  # noqa: PLC0415 - it brings trio

        return relay.run(sys.argv[2])
    if sys.argv[1:] == ["--login"]:
        from agents import login  # noqa: PLC0415 - only clusters need it

        return login.run()
    if len(sys.argv) != 2:
        print("usage: jobd-agent.pyz DIR, or jobd-agent.pyz --relay FILE, or jobd-agent.pyz --login", file=sys.stderr)
        return 64
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    os.umask(0o077)
    directory = os.path.abspath(sys.argv[1])
    try:
        with open(os.path.join(directory, "agent.json"), "rb") as file:
            setup: AgentSetup = codec.decode(file.read(), AgentSetup, SETUP_BYTES_MAX)
        own = disk.Tree(setup.root, setup.agent).own
        disk.make_directories(own)
        locked = _lock(os.path.join(own, "lock"))
    except (OSError, codec.CodecError) as error:
        log.error("cannot start: %s", error)
        return 1
    if locked is None:
        log.error("cannot start: another process of agent %s still runs", setup.agent)
        return 1
    log.info("agent %s, generation %d", setup.agent, setup.generation)
    fork_server, pid = forkserver.start()
    return _live(setup, directory, fork_server, pid)


def _lock(path: str) -> int | None:
    """Take the lock, waiting a little for a predecessor to end; it is never given back."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_WAIT_S_MAX
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return None
            time.sleep(0.02)
        else:
            return descriptor


def _live(setup: AgentSetup, directory: str, fork_server: socket.socket, pid: int) -> int:
    import trio  # noqa: PLC0415 - only now: the fork server must not carry it

    from agents.agent import Agent  # noqa: PLC0415
    from agents.dial import Doors  # noqa: PLC0415

    async def live() -> int:
        return await Agent(setup, Doors(directory, setup.doors or directory), fork_server).live(pid)

    return trio.run(live)


if __name__ == "__main__":
    sys.exit(main())
