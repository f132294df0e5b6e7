"""A figure: what was measured, beside its baseline of the same run, and the floor that it must reach."""

import json
from collections.abc import Sequence
from pathlib import Path

from attrs import asdict, frozen
from rich.console import Console
from rich.table import Table


@frozen
class Figure:
    """`floor` is the limit in the figure's unit; `lower` whether less is better. `baseline` says what was measured
    beside it, in words with its value."""

    name: str
    value: float
    unit: str
    baseline: str
    floor: float
    lower: bool = True

    @property
    def met(self) -> bool:
        """Whether it reaches its floor."""
        return self.value <= self.floor if self.lower else self.value >= self.floor


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def show(figures: Sequence[Figure]) -> None:
    """As a table."""
    table = Table("figure", "value", "floor", "met", "baseline")
    for each in figures:
        sign = "≤" if each.lower else "≥"
        met = "[green]yes[/]" if each.met else "[red]no[/]"
        table.add_row(each.name, f"{each.value:.3g} {each.unit}", f"{sign} {each.floor:.3g}", met, each.baseline)
    Console().print(table)


def save(figures: Sequence[Figure], path: Path) -> None:
    """As JSON: a list with name, value, unit, baseline, floor and met."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps([{**asdict(each), "met": each.met} for each in figures], indent=1) + "\n")
