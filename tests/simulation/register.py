"""What a name may be said to stand for, when its changes and its readers overlap: the rule of a register.

A change takes effect at some moment between the asking and the answer; one that was never answered may still come, or
never. So a reader may be told a value if its change was asked for before the reader was answered, and if no later
change was both asked for after that one's answer and answered before the reader asked.
"""

from collections.abc import Hashable
from math import inf

import trio
from attrs import define, field


@define(eq=False)
class Change:
    """One change, perhaps not answered."""

    value: Hashable
    asked: float
    answered: float = inf


@define(eq=False)
class Register:
    """One name."""

    first: Hashable = None
    changes: list[Change] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.changes = [Change(self.first, -inf, -inf)]

    def change(self, value: Hashable) -> Change:
        """Somebody asks for this value."""
        self.changes.append(Change(value, trio.current_time()))
        return self.changes[-1]

    def answered(self, change: Change) -> None:
        """It was said to be done."""
        change.answered = trio.current_time()

    def possible(self, since: float) -> set[Hashable]:
        """What may be told now to somebody who asked at `since`."""
        settled = max((each.asked for each in self.changes if each.answered < since), default=-inf)
        return {each.value for each in self.changes if not each.answered < settled}
