"""Named instants at which a test may kill the process that reaches them.

Every durable step of the agent, its fork server and a run's parent is followed by one, so that the tests can prove
what a crash between any two steps leads to. In production the environment names none and a failpoint does nothing.
"""

import os
import signal

_FATAL = os.environ.get("JOBD_FAILPOINT", "")


def failpoint(name: str) -> None:
    """Die here by SIGKILL if JOBD_FAILPOINT names this instant."""
    if name == _FATAL:
        os.kill(os.getpid(), signal.SIGKILL)
