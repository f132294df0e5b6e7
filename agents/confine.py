"""What is done to a run's main process between fork and exec: the kernel's own limits, and to be killed first."""

import resource

from agents.memory import offer_to_oom_killer
from schemas.link import RunLimits


def confine(limits: RunLimits) -> None:
    """In the child. A hard limit that is lower already stays; what is None is held by the run's container."""
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, limits.output_bytes),
        (resource.RLIMIT_NPROC, limits.processes),
        (resource.RLIMIT_AS, limits.memory_bytes),
    ):
        if value is None:
            continue
        hard = resource.getrlimit(kind)[1]
        limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (limit, limit))
    offer_to_oom_killer()
