"""How far a run has come, from the run commands that LAMMPS echoes and the steps that it shows.

Place: thermo.py feeds a `Pace` with what the log says; worker.py reports it as progress.

A `run N` command is echoed with its variables substituted before it is carried out, so the log tells the steps
of the runs that began; the deck, where it goes straight on, tells those of the runs to come.

Invariant: nothing is guessed. With a run command whose steps are unknown (in a loop, by an unknown variable, a
`rerun`) there is no fraction. Steps of `minimize` are shown and not counted: nobody knows how many there will be.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from growing import opened

DECK_NAME = "in.lammps"
DECK_BYTES_MAX = 4 << 20
DIGITS_MAX = 18

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w))")
_RUNS_INSIDE = re.compile(r"\b(run|jump)\b")


@dataclass
class Stretch:
    """The one run command that is being carried out."""

    steps: int | None = None
    upto: int | None = None  # `run N upto`: the step it ends at
    minimizes: bool = False
    looped: int = 0  # steps of its loops that ended; with `run N every M` there are many
    began_at: int | None = None  # the first step it showed
    loop_began_at: int | None = None

    def asked(self) -> int | None:
        """Return the steps this command makes, None if that is unknown."""
        if self.minimizes:
            return 0
        if self.upto is not None and self.began_at is not None:
            return max(0, self.upto - self.began_at)
        return self.steps


def run_command(words: list[str]) -> Stretch:
    """Return what a `run`, `minimize` or `rerun` command says about its steps."""
    if words[0] == "minimize":
        return Stretch(minimizes=True)
    if words[0] != "run" or len(words) < 2 or not words[1].isdecimal() or len(words[1]) > DIGITS_MAX:
        return Stretch()
    steps = int(words[1])
    return Stretch(upto=steps) if "upto" in words[2:] else Stretch(steps=steps)


class Pace:
    """The steps made and the steps asked for, command by command."""

    def __init__(self) -> None:
        self.begun = 0  # run commands
        self.step: int | None = None  # the last one shown
        self.finished = False
        self._stretch: Stretch | None = None
        self._past_made = 0
        self._past_asked: int | None = 0

    def command(self, words: list[str]) -> None:
        """LAMMPS echoed a command that makes steps."""
        self._end_stretch()
        self._stretch = run_command(words)
        self.begun += words[0] == "run"

    def _end_stretch(self) -> None:
        if self._stretch is not None:
            asked = self._stretch.asked()
            self._past_asked = None if asked is None or self._past_asked is None else self._past_asked + asked
            self._past_made += 0 if self._stretch.minimizes else self._stretch.looped
        self._stretch = None

    def loop_began(self) -> None:
        """A thermo table began; one without a command before it is of a command that we do not know."""
        self._stretch = self._stretch or Stretch()
        self._stretch.loop_began_at = None

    def shown(self, step: int) -> None:
        """A thermo row of this step was written."""
        self.step = step
        if self._stretch is not None:
            if self._stretch.began_at is None:
                self._stretch.began_at = step
            if self._stretch.loop_began_at is None:
                self._stretch.loop_began_at = step

    def loop_ended(self, steps: int) -> None:
        """LAMMPS reported the time of a loop of so many steps."""
        if self._stretch is not None:
            self._stretch.looped += steps
            self._stretch.loop_began_at = None

    def report(self, deck: Deck, dumped: tuple[int, int] | None) -> tuple[float | None, str, int | None]:
        """Return fraction, text and step; `dumped` is the first and the last step in the dump."""
        stretch = self._stretch or Stretch(steps=0)
        here = stretch.looped
        if stretch.loop_began_at is not None and self.step is not None:
            here += max(0, self.step - stretch.loop_began_at)
        total = self._total(stretch, deck.steps_after(self.begun))
        here, step = self._with_dump(stretch, here, total, dumped)
        made = self._past_made + (0 if stretch.minimizes else here)
        fraction = min(1.0, made / total) if total else None
        fraction = 1.0 if self.finished else fraction
        if total is None or stretch.minimizes:
            text = "no step yet" if step is None else f"step {step}"
        else:
            text = f"step {made} of {total}"
        return fraction, f"minimizing, {text}" if stretch.minimizes and not self.finished else text, step

    def _total(self, stretch: Stretch, to_come: int | None) -> int | None:
        asked = stretch.asked()
        if to_come is None or asked is None or self._past_asked is None:
            return None
        # 0 is a deck that only minimizes, or nothing known yet.
        return (self._past_asked + asked + to_come) or None

    def _with_dump(
        self, stretch: Stretch, here: int, total: int | None, dumped: tuple[int, int] | None
    ) -> tuple[int, int | None]:
        """Return the steps made here and the step, with the dump's word where the log is late by its buffer."""
        if dumped is None or stretch.minimizes:
            return here, self.step
        first, last = dumped
        if self.step is None:
            late = last - first
        elif stretch.loop_began_at is not None:
            late = last - self.step
        else:
            return here, self.step
        limit = total if self._stretch is None else stretch.asked()
        # More than was asked for: those steps were counted before a `reset_timestep`.
        if late < 0 or (limit is not None and here + late > limit):
            return here, self.step
        return here + late, last


class Deck:
    """The run commands in the user's deck, as far as they can be known without carrying it out."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._identity: tuple[int, int, int] | None = None
        self._steps: list[int | None] = []
        self._straight = True

    def steps_after(self, begun: int) -> int | None:
        """Return the sum of the steps of all run commands but the first `begun`; None if it is unknown."""
        try:
            with opened(self._run, DECK_NAME) as fd:
                found = os.fstat(fd)
                identity = (found.st_ino, found.st_size, found.st_mtime_ns)
                if identity != self._identity:
                    text = os.read(fd, DECK_BYTES_MAX).decode("utf-8", "replace")
                    self._steps, self._straight = deck_steps(text)
                    self._identity = identity
        except FileNotFoundError:
            return 0
        total = 0
        for steps in self._steps[begun:]:
            if steps is None:
                return None
            total += steps
        return total if self._straight else None


def deck_steps(text: str) -> tuple[list[int | None], bool]:
    """Return the steps of each run command of a deck, and whether the deck goes straight from top to end."""
    variables: dict[str, str] = {}
    steps: list[int | None] = []
    for line in re.sub(r"&[ \t]*\n", " ", text).splitlines():
        words = line.split("#")[0].split()
        if not words:
            continue
        if words[0] == "variable" and len(words) == 4 and words[2] in {"index", "equal", "string"}:
            # An index variable keeps its first value, the others take the new one.
            if words[2] != "index" or words[1] not in variables:
                variables[words[1]] = words[3]
        elif words[0] == "run":
            named = [_VARIABLE.sub(lambda found: variables.get(found[1] or found[2], "?"), word) for word in words]
            steps.append(run_command(named).steps)
        elif words[0] in {"jump", "next", "python"} or (words[0] == "if" and _RUNS_INSIDE.search(line)):
            return steps, False
    return steps, True
