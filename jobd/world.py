"""What the daemon touches and a simulation replaces: time, chance and threads.

Everything else that reaches outside sits behind the Backend and the store's Disk. With a virtual clock a thread is
poison (0.3 s in one let a 100 s deadline fire at once), so every thread hop goes through `hop`, which a simulation
makes inline.
"""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import trio

from schemas.ids import new_id, new_token
from schemas.records import Instant

T = TypeVar("T")

THREADS_MAX = 16


class World(Protocol):
    """Time, chance and threads."""

    def now(self) -> Instant:
        """This moment."""

    async def hop(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a blocking function off the loop."""

    def new_id(self, kind: str) -> str:
        """A fresh id of this kind."""

    def new_token(self) -> str:
        """A fresh secret."""

    def jitter(self) -> float:
        """A number in [0, 1), to spread retries."""


class RealWorld:
    """The machine's clock, its randomness, and a bounded number of threads."""

    def __init__(self) -> None:
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self._threads = trio.CapacityLimiter(THREADS_MAX)

    def now(self) -> Instant:
        """This moment."""
        return Instant(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), self._boot)

    async def hop(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a blocking function in a thread; cancellation waits for it, so its effect is never in doubt."""
        return await trio.to_thread.run_sync(function, *arguments, limiter=self._threads)

    def new_id(self, kind: str) -> str:
        """A fresh id of this kind."""
        return new_id(kind)

    def new_token(self) -> str:
        """A fresh secret."""
        return new_token()

    def jitter(self) -> float:
        """A number in [0, 1), to spread retries."""
        return random.random()  # noqa: S311 - spreads retries, guards nothing


def elapsed_s(since: Instant, now: Instant) -> float:
    """Seconds from `since` to `now`: by boot time within one boot, otherwise by wall time, never negative."""
    if since.boot == now.boot:
        return max(0.0, now.boot_s - since.boot_s)
    return max(0.0, now.wall_s - since.wall_s)


def backoff(failures: int, first_s: float, most_s: float) -> float:
    """Seconds to wait after so many failures in a row, at least one: twice as long after each, up to the most."""
    return min(most_s, first_s * 2.0 ** min(failures - 1, 20))
