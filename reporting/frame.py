"""The frame of a chart: its two axes, grid and labels."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from .axis import Axis
from .chart import CHART_WIDTH

__all__ = ["Frame"]

# Drawing units; a digit is at most 8.5 wide.
_TOP, _RIGHT, _BOTTOM, _CHARACTER = 10, 14, 42, 8.5


@dataclass(frozen=True)
class Frame:
    """Axes of a chart.

    Attributes:
        x: Axis to the right.
        y: Axis upwards.
    """

    x: Axis
    y: Axis

    @classmethod
    def fit(
        cls,
        across: Sequence[float],
        up: Sequence[float],
        *,
        height: float,
        whole_x: bool = False,
        whole_y: bool = False,
        headroom: float = 0,
    ) -> Frame:
        """Return axes around values, with room for the labels.

        Args:
            across: Values that the x axis covers.
            up: Values that the y axis covers.
            height: Height of the chart, in drawing units.
            whole_x: Whether ticks of x are whole numbers only.
            whole_y: Whether ticks of y are whole numbers only.
            headroom: Free space above the y axis, in drawing units.
        """
        y = Axis.cover(up, height - _BOTTOM, _TOP + headroom, whole=whole_y, rounded=True)
        left = 14 + _CHARACTER * max(len(label) for _, label in y.ticks)
        # A mark at the edge needs room for its radius.
        return cls(Axis.cover(across, left + 6, CHART_WIDTH - _RIGHT, whole=whole_x), y)

    def draw(self, x_title: str) -> str:
        """Return the SVG of grid, axis, ticks and the title of x."""
        left, right, floor = self.x.start - 6, CHART_WIDTH - _RIGHT + 6, self.y.start
        parts = []
        for value, label in self.y.ticks:
            y = self.y.place(value)
            parts.append(f'<line class="grid" x1="{left:.1f}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="y" x="{left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
        parts.append(f'<line class="axis" x1="{left:.1f}" x2="{right}" y1="{floor:.1f}" y2="{floor:.1f}"/>')
        for value, label in self.x.ticks:
            x = self.x.place(value)
            anchor = "middle" if x + _CHARACTER * len(label) / 2 < CHART_WIDTH else "end"
            x = x if anchor == "middle" else CHART_WIDTH - 2
            parts.append(f'<text class="x" x="{x:.1f}" y="{floor + 17:.1f}" text-anchor="{anchor}">{label}</text>')
        middle = (left + right) / 2
        parts.append(f'<text x="{middle:.1f}" y="{floor + 35:.1f}" text-anchor="middle">{html.escape(x_title)}</text>')
        return "".join(parts)

    def draw_note(self, value: float, y: float, text: str) -> str:
        """Return the SVG of a vertical line at a value of x, with text on the side with more room."""
        x = self.x.place(min(max(value, self.x.low), self.x.high))
        anchor, offset = ("end", -6) if x > (self.x.start + self.x.end) / 2 else ("start", 6)
        return (
            f'<line class="note" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{self.y.start:.1f}"/>'
            f'<text class="note" x="{x + offset:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
        )
