"""What everything in a simulation shares: chance, time, the trace, the climate, and the first violation."""

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager

import trio
from attrs import define, field
from trio._core import _run as trio_run

from schemas.records import Instant

BOOT_S = 1000.0  # the machine's boot clock when a universe begins

SICK = 0.25  # of all universes have a user whose agents never work, or no more from some moment on
SICKNESSES = ("stillborn", "half-open", "stalled")


@contextmanager
def seeded_scheduler(seed: int) -> Generator[None, None, None]:
    """Trio decides by this seed which task goes first. Private parts of trio, used here only."""
    assert hasattr(trio_run, "_r"), "trio has changed: its scheduler has no `_r` to seed"
    assert hasattr(trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING"), "trio has changed: no deterministic scheduling"
    before = trio_run._r, trio_run._ALLOW_DETERMINISTIC_SCHEDULING
    trio_run._r, trio_run._ALLOW_DETERMINISTIC_SCHEDULING = random.Random(seed), True  # type: ignore[misc]
    try:
        yield
    finally:
        trio_run._r, trio_run._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]


class Violation(Exception):
    """The contract was broken."""


@define
class Climate:
    """How likely what is; each seed has a climate of its own, so that rare things meet."""

    commit_s: float = 0.0  # the longest that a commit takes
    read_s: float = 0.0
    commit_fails: float = 0.0  # probability
    deed_s: float = 0.0  # the longest that a backend's deed takes
    deed_fails: float = 0.0
    latency_s: float = 0.0  # of a wire
    journal_s: float = 0.0  # the agents' disk
    lies: float = 0.0
    duplicates: float = 0.0
    removal_fails: float = 0.0
    stubborn: float = 0.0  # runs that ignore SIGTERM
    tick_s: float = 0.0  # every time is a multiple of this, so that much happens at the same moment
    pause_s: float = 20.0  # between two deeds of a client, on average
    fault_s: float = 25.0  # between two faults, on average


def climate(chance: random.Random) -> Climate:
    """The climate of a seed."""

    def now_and_then(probability: float, value: float) -> float:
        return value * chance.random() if chance.random() < probability else 0.0

    return Climate(
        commit_s=now_and_then(0.7, chance.choice([0.01, 0.5, 3.0])),
        read_s=now_and_then(0.5, chance.choice([0.01, 2.0])),
        commit_fails=now_and_then(0.4, 0.3),
        deed_s=now_and_then(0.7, chance.choice([0.1, 2.0, 12.0])),
        deed_fails=now_and_then(0.4, 0.4),
        latency_s=now_and_then(0.7, chance.choice([0.01, 0.5, 3.0])),
        journal_s=now_and_then(0.7, chance.choice([0.01, 1.0])),
        lies=now_and_then(0.3, 0.3),
        duplicates=now_and_then(0.4, 0.5),
        removal_fails=now_and_then(0.3, 0.5),
        stubborn=chance.choice([0.0, 0.3, 1.0]),
        tick_s=chance.choice([0.0, 0.25, 1.0]),
        pause_s=chance.choice([3.0, 10.0, 25.0]),
        fault_s=chance.choice([6.0, 15.0, 40.0]),
    )


@define(eq=False)
class Universe:
    """One seed's world."""

    seed: int
    trace_to: list[str] | None = None
    chance: random.Random = field(init=False)
    climate: Climate = field(init=False)
    calm: bool = False  # nothing goes wrong any more, but for the sick:
    sick: dict[str, str] = field(factory=dict)  # users whose agents work no more, by name, and how they fail
    sick_from: float = 0.0
    healed: dict[str, float] = field(factory=dict)  # when the sick were healed, by name
    violation: str = ""
    wall_offset_s: float = 0.0
    _wall_s_max: float = 0.0
    boots: int = 1
    counts: Counter[str] = field(factory=Counter)
    root: trio.CancelScope = field(factory=trio.CancelScope)
    _hash: "hashlib._Hash" = field(factory=hashlib.sha256)

    def __attrs_post_init__(self) -> None:
        self.chance = random.Random(f"universe {self.seed}")
        self.climate = climate(self.chance)
        if self.chance.random() < SICK:
            self.sick["user0"] = self.chance.choice(SICKNESSES)
            self.sick_from = self.chance.choice([0.0, 100.0 * self.chance.random()])

    @property
    def boot(self) -> str:
        """The machine's boot id."""
        return f"boot-{self.boots}"

    def now(self) -> Instant:
        """This moment, by clocks that may jump."""
        time = trio.current_time()
        return Instant(1.7e9 + time + self.wall_offset_s, BOOT_S + time, self.boot)

    @property
    def wall_s_max(self) -> float:
        """The latest wall time that any clock ever told."""
        return max(self._wall_s_max, self.now().wall_s)

    def set_clock(self, by_s: float) -> None:
        """The wall clock jumps."""
        self._wall_s_max = self.wall_s_max
        self.wall_offset_s += by_s

    def trace(self, text: str) -> None:
        """Note what happened; the hash of all notes is the seed's trace."""
        line = f"{trio.current_time():.6f} {text}"
        self._hash.update(line.encode())
        if self.trace_to is not None:
            self.trace_to.append(line)

    @property
    def trace_hash(self) -> str:
        """The same seed has the same."""
        return self._hash.hexdigest()

    def violate(self, text: str) -> None:
        """The contract is broken: everything ends; the first violation is told."""
        if not self.violation:
            self.violation = f"{trio.current_time():.3f} s: {text}"
            self.trace(f"VIOLATION {text}")
            self.root.cancel(reason="violation")

    def check(self, holds: bool, text: Callable[[], str]) -> None:
        """Violate unless it holds."""
        if not holds:
            self.violate(text())

    def heal(self) -> None:
        """All are well from now on; the connections that they have stay as they are until they are given up."""
        self.healed = dict.fromkeys(self.sick, trio.current_time())
        self.sick.clear()

    def happens(self, probability: float) -> bool:
        """Whether something of this probability goes wrong now."""
        return probability > 0 and not self.calm and self.chance.random() < probability

    def up_to(self, seconds: float, exponent: int = 3) -> float:
        """A time that something takes, at most `seconds`; with a larger exponent mostly much less."""
        return self._tick(seconds * self.chance.random() ** exponent) if seconds else 0.0

    def about(self, seconds: float) -> float:
        """A pause of `seconds` on average."""
        return self._tick(self.chance.expovariate(1 / seconds))

    def _tick(self, seconds: float) -> float:
        return round(seconds / self.climate.tick_s) * self.climate.tick_s if self.climate.tick_s else seconds

    def count(self, what: str) -> None:
        """For the report."""
        self.counts[what] += 1
