"""Timelines: intervals in lanes."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..bundle import format_count
from .axis import Axis
from .chart import render_legend

__all__ = ["Bar", "Timeline"]

_WIDTH, _HEIGHT = 1000, 20


@dataclass(frozen=True)
class Bar:
    """An interval in a lane: its begin and end, the CSS class of its color, and its title."""

    begin: float
    end: float
    tone: str
    title: str


@dataclass(frozen=True)
class Timeline:
    """Lanes over a common time that starts at 0.

    Names and ticks are HTML, so that their size does not change with the width; the drawings are stretched.

    Attributes:
        title: The timeline's title.
        unit: Unit of the time.
        lanes: Bars by the name of their lane, from top to bottom.
        legend: The CSS class of each color, and its meaning.
    """

    title: str
    unit: str
    lanes: Mapping[str, Sequence[Bar]]
    legend: tuple[tuple[str, str], ...] = ()

    def render(self) -> str:
        """Return the timeline as HTML."""
        ends = [bar.end for bars in self.lanes.values() for bar in bars]
        axis = Axis.cover([0.0, *ends], 0, _WIDTH)
        lanes = "".join(self._render_lane(axis, name, bars) for name, bars in self.lanes.items())
        ticks = "".join(f'<span style="left:{v / axis.high:.2%}">{label}</span>' for v, label in axis.ticks)
        return (
            f'<figure class="timeline wide"><figcaption>{html.escape(self.title)}</figcaption>'
            f'{render_legend(self.legend)}<div class="lanes">{lanes}<div class="ticks">{ticks}</div>'
            f'<div class="unit">{html.escape(self.unit)}</div></div></figure>'
        )

    def _render_lane(self, axis: Axis, name: str, bars: Sequence[Bar]) -> str:
        title = f"{self.title}: {name}, {format_count(len(bars), 'bar')}"
        drawn = "".join(
            f'<rect class="mark {bar.tone}" x="{axis.place(bar.begin):.2f}" y="0" '
            f'width="{max(1.0, axis.place(bar.end) - axis.place(bar.begin) - 0.5):.2f}" height="{_HEIGHT}">'
            f"<title>{html.escape(bar.title)}: {bar.end - bar.begin:.4g} {html.escape(self.unit)}</title></rect>"
            for bar in bars
        )
        return (
            f'<span>{html.escape(name)}</span><svg class="timeline" role="img" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
            f'preserveAspectRatio="none"><title>{html.escape(title)}</title>'
            f"{drawn}</svg>"
        )
