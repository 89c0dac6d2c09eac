"""Measured figures, their limits, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..bundle import format_count
from .table import Table, format_number

__all__ = ["Figure", "Headline", "judge_figures", "tabulate_figures"]


class Figure(NamedTuple):
    """A measured value and its limit.

    Attributes:
        name: The figure's name.
        value: The measured value.
        limit: The limit in words, such as "at least 35"; None for a figure without a limit.
        passed: Whether the limit was met; None without a limit.
        unit: Unit of the value and of the limit.
        meaning: Explanation of the figure.
    """

    name: str
    value: float
    limit: str | None = None
    passed: bool | None = None
    unit: str = ""
    meaning: str = ""

    @property
    def measured(self) -> str:
        """The value with its unit."""
        return f"{format_number(self.value)} {self.unit}".rstrip()

    def describe(self) -> str:
        """Return the figure and its limit in one line."""
        wanted = "no limit" if self.limit is None else f"limit: {self.limit} {self.unit}".rstrip()
        return f"{self.name}: {self.measured}, {wanted}"


@dataclass(frozen=True)
class Headline:
    """The result at the top of a page.

    Attributes:
        headline: The result in one line.
        passed: Whether all limits were met; None without limits.
        details: Further lines.
    """

    headline: str
    passed: bool | None = None
    details: Sequence[str] = ()


def judge_figures(figures: Sequence[Figure]) -> Headline:
    """Return the verdict on figures: passed if every limit was met."""
    judged = [figure for figure in figures if figure.passed is not None]
    failed = [figure.describe() for figure in judged if not figure.passed]
    if not judged:
        return Headline("No limits were set: figures only")
    if failed:
        return Headline(f"FAIL: {len(failed)} of {format_count(len(judged), 'limit')} missed", False, failed)
    return Headline(f"PASS: {format_count(len(judged), 'limit')} met", True)


def tabulate_figures(figures: Sequence[Figure]) -> Table:
    """Return the table of figures, those with limits first."""
    ordered = sorted(figures, key=lambda figure: (figure.passed is None, figure.passed))
    rows = [[one.name, one.measured, _limit(one), one.passed, one.meaning] for one in ordered]
    head = ["figure", "value", "limit", "result", "meaning"]
    return Table(head, rows, words=True, name="figures", title="Figures and their limits")


def _limit(figure: Figure) -> str:
    return "–" if figure.limit is None else f"{figure.limit} {figure.unit}".rstrip()
