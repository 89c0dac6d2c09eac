"""Histograms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..bundle import format_count
from .chart import Chart
from .frame import Frame

__all__ = ["draw_histogram"]

_HEIGHT, _NOTE_ROW = 250, 18


def draw_histogram(
    values: Sequence[float],
    *,
    title: str,
    x_title: str,
    marks: Mapping[float, str] | None = None,
    bins: int | None = None,
) -> Chart:
    """Draw a histogram.

    Args:
        values: At least one.
        title: The chart's title.
        x_title: The quantity on the x axis, with its unit.
        marks: Texts of vertical lines, by their value of x.
        bins: Number of bins; None for twice the square root of the count, 5 to 40.
    """
    notes = marks or {}
    low, high = min(values), max(values)
    if high <= low:
        low, high = low * 0.95 - 1e-9, high * 1.05 + 1e-9
    counts = _count(values, low, high, bins or max(5, min(40, math.isqrt(len(values)) * 2)))
    frame = Frame.fit(
        [low, high], [0, max(counts)], height=_HEIGHT, whole_y=True, headroom=_NOTE_ROW * len(notes)
    )  # fmt: skip
    body = [frame.draw(x_title), *_draw_columns(frame, counts)]
    body += [frame.draw_note(place, 10 + _NOTE_ROW * row + 12, text) for row, (place, text) in enumerate(notes.items())]
    description = f"{format_count(len(values), 'value')} from {min(values):.4g} to {max(values):.4g}, {x_title}."
    return Chart("histogram", title, _HEIGHT, "".join(body), description=description)


def _count(values: Sequence[float], low: float, high: float, bins: int) -> list[int]:
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((value - low) / (high - low) * bins))] += 1
    return counts


def _draw_columns(frame: Frame, counts: Sequence[int]) -> list[str]:
    low, step = frame.x.low, (frame.x.high - frame.x.low) / len(counts)
    columns = []
    for number, count in enumerate(counts):
        begin, end = low + number * step, low + (number + 1) * step
        left, right, top = frame.x.place(begin), frame.x.place(end), frame.y.place(count)
        columns.append(
            f'<rect class="mark tone-a" x="{left + 1:.1f}" y="{top:.1f}" width="{max(1.0, right - left - 2):.1f}" '
            f'height="{frame.y.start - top:.1f}"><title>{count} between {begin:.4g} and {end:.4g}</title></rect>'
        )
    return columns
