"""Line charts."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .chart import Chart
from .frame import Frame

if TYPE_CHECKING:
    from .axis import Axis

__all__ = ["Series", "draw_lines"]

_HEIGHT = 250
# With more points than this, marks are small so that they do not hide the line.
_MANY = 40


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        name: Its name in the legend.
        tone: CSS class of its color, "tone-a" to "tone-f".
        values: The y of each x; values that are not finite are left out.
    """

    name: str
    tone: str
    values: Sequence[float]


def draw_lines(
    series: Sequence[Series],
    *,
    x: Sequence[float],
    title: str,
    x_title: str,
    marks: Mapping[float, str] | None = None,
    from_zero: bool = True,
) -> Chart:
    """Draw lines with a mark at each point.

    Args:
        series: The lines, each as long as ``x``.
        x: Positions of the points.
        title: The quantity on the y axis, with its unit.
        x_title: The quantity on the x axis, with its unit.
        marks: Texts of vertical lines, by their value of x.
        from_zero: Whether the y axis starts at 0; otherwise it starts near the lowest value.
    """
    points = [_finite_points(x, one.values) for one in series]
    heights = [y for of_one in points for _, y in of_one]
    whole = all(place == int(place) for place in x)
    frame = Frame.fit(x, [0.0, *heights] if from_zero else heights, height=_HEIGHT, whole_x=whole)
    body = [frame.draw(x_title)]
    body += [frame.draw_note(place, _HEIGHT - 56, text) for place, text in (marks or {}).items()]
    body += [_draw_line(frame.x, frame.y, one, of_one) for one, of_one in zip(series, points, strict=True)]
    legend = tuple((one.tone, one.name) for one in series)
    said = [_describe(one.name, of_one) for one, of_one in zip(series, points, strict=True)]
    description = " ".join([f"Over {x_title}.", *said])
    return Chart("lines", title, _HEIGHT, "".join(body), legend, description)


def _finite_points(x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
    return [point for point in zip(x, y, strict=True) if all(map(math.isfinite, point))]


def _draw_line(x: Axis, y: Axis, series: Series, points: Sequence[tuple[float, float]]) -> str:
    placed = [(x.place(px), y.place(py)) for px, py in points]
    line = " ".join(f"{px:.1f},{py:.1f}" for px, py in placed)
    radius = 3 if len(points) <= _MANY else 1.5
    marks = [
        f'<circle class="mark {series.tone}" cx="{cx:.1f}" cy="{cy:.1f}" r="{radius}"><title>{html.escape(series.name)}'
        f": {py:.4g} at {px:g}</title></circle>"
        for (cx, cy), (px, py) in zip(placed, points, strict=True)
    ]
    return f'<polyline class="line {series.tone}" points="{line}"/>{"".join(marks)}'


def _describe(name: str, points: Sequence[tuple[float, float]]) -> str:
    if not points:
        return f"{name}: no values."
    values = [y for _, y in points]
    return f"{name}: {values[0]:.4g} first, {values[-1]:.4g} last, {min(values):.4g} to {max(values):.4g}."
