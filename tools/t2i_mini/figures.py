"""Measured numbers beside what they should be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Figure(NamedTuple):
    """One measured number, from 0 to 1, and what is asked of it.

    :ivar target: the least that it must be (0: no demand); the most, where less is better.
    :ivar less_is_better: a share of errors.
    :ivar known: a value that misses the target, is known, and written down with its reason. The target
        stays; the number counts as bad when it is beyond this.
    """

    name: str
    value: float
    target: float
    less_is_better: bool = False
    known: float | None = None

    @property
    def is_met(self) -> bool:
        """Whether the number is what is asked of it."""
        return self.value <= self.target if self.less_is_better else self.value >= self.target

    @property
    def is_bad(self) -> bool:
        """Whether the target is missed, and by more than is known."""
        if self.is_met or self.known is None:
            return not self.is_met
        return self.value > self.known if self.less_is_better else self.value < self.known


def table_of(figures: Sequence[Figure]) -> str:
    """The figures as lines of text."""
    width = max(len(figure.name) for figure in figures)
    lines = [f"{'':<{width}}{'value':>8}{'target':>9}"]
    for figure in figures:
        bound = f"{'<=' if figure.less_is_better else '>='} {figure.target:.2f}" if figure.target else ""
        missed = "" if figure.is_met else "  missed" if figure.is_bad else "  missed, as is known"
        lines.append(f"{figure.name:<{width}}{figure.value:8.3f} {bound:>8}{missed}".rstrip())
    return "\n".join(lines)
