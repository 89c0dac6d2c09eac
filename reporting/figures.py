"""Figures with limits, and the verdict on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..bundle import format_count
from .table import Table, format_number

__all__ = ["Figure", "Headline", "judge_figures", "tabulate_figures"]


class Figure(NamedTuple):
    """What was measured, and what was wanted.

    Attributes:
        name: Of the figure.
        value: What was measured.
        limit: What was wanted, in words, such as "at least 35"; None for a figure without a limit.
        passed: Whether the limit was met; None without one.
        unit: Of the value and of the limit.
        meaning: What the figure says.
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
        """Say figure and limit in a line."""
        wanted = "no limit" if self.limit is None else f"limit: {self.limit} {self.unit}".rstrip()
        return f"{self.name}: {self.measured}, {wanted}"


@dataclass(frozen=True)
class Headline:
    """What a page says first.

    Attributes:
        headline: In one line.
        passed: Whether what was wanted was reached; None where nothing was.
        details: Further lines.
    """

    headline: str
    passed: bool | None = None
    details: Sequence[str] = ()


def judge_figures(figures: Sequence[Figure]) -> Headline:
    """Return the verdict on figures: a pass if every limit was met."""
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
