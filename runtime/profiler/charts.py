"""Charts as inline SVG: no library, no network, colours from the page's style, readable when the page is narrow."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Bar", "Series", "draw_histogram", "draw_lines", "draw_lanes", "draw_shares"]

# Drawing units: a chart is scaled to the page's width down to 640 and scrolls sideways below that.
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 920, 64, 16, 12, 44


@dataclass(frozen=True)
class Series:
    """One line: its name, the class of its colour, and y for each x."""

    name: str
    tone: str
    values: Sequence[float]


@dataclass(frozen=True)
class Bar:
    """A stretch in a lane: from, to, the class of its colour, and what it is."""

    begin: float
    end: float
    tone: str
    title: str


def draw_lines(
    series: Sequence[Series],
    *,
    x: Sequence[float],
    x_title: str,
    y_title: str,
    marks: Mapping[float, str] | None = None,
) -> str:
    """Draw lines with a mark at each point; the y axis begins at 0.

    Args:
        series: The lines, each as long as ``x``.
        x: Positions of the points.
        x_title: What x is, with its unit.
        y_title: What y is, with its unit.
        marks: Vertical lines by their x, with what they say.
    """
    height = 320
    frame = _Frame(min(x), max(x), max((max(s.values) for s in series), default=1.0), height)
    body = [frame.axes(x_title, counts=False)]
    for place, text in (marks or {}).items():
        body.append(_note(frame.x(place), height, height - _BOTTOM - 8, text))
    for one in series:
        points = [(frame.x(px), frame.y(py), px, py) for px, py in zip(x, one.values, strict=True)]
        line = " ".join(f"{px:.1f},{py:.1f}" for px, py, _, _ in points)
        body.append(f'<polyline class="line {one.tone}" points="{line}"/>')
        body += [
            f'<circle class="mark {one.tone}" cx="{cx:.1f}" cy="{cy:.1f}" r="4"><title>{_safe(one.name)}: '
            f"{py:.4g} at {px:g}</title></circle>"
            for cx, cy, px, py in points
        ]
    return _figure("lines", height, body, [(s.tone, s.name) for s in series], y_title)


def draw_histogram(
    values: Sequence[float], *, x_title: str, marks: Mapping[float, str] | None = None, bins: int | None = None
) -> str:
    """Draw how often values fall between equally spaced limits.

    Args:
        values: At least one.
        x_title: What they are, with their unit.
        marks: Vertical lines by their value, with what they say.
        bins: How many columns; None takes the square root of the count, 5 to 40.
    """
    height = 280
    low, high = min(values), max(values)
    if high <= low:
        low, high = low * 0.95 - 1e-9, high * 1.05 + 1e-9
    count = bins or max(5, min(40, math.isqrt(len(values)) * 2))
    columns = [0] * count
    for value in values:
        columns[min(count - 1, int((value - low) / (high - low) * count))] += 1
    frame = _Frame(low, high, max(columns), height)
    body = [frame.axes(x_title, counts=True)]
    step = (high - low) / count
    for number, n in enumerate(columns):
        left, right = frame.x(low + number * step), frame.x(low + (number + 1) * step)
        said = f"{n} between {low + number * step:.4g} and {low + (number + 1) * step:.4g}"
        body.append(
            f'<rect class="mark tone-a" x="{left + 1:.1f}" y="{frame.y(n):.1f}" '
            f'width="{max(1.0, right - left - 2):.1f}" height="{max(0.0, height - _BOTTOM - frame.y(n)):.1f}">'
            f"<title>{said}</title></rect>"
        )
    for row, (place, text) in enumerate((marks or {}).items()):
        body.append(_note(frame.x(min(max(place, low), high)), height, _TOP + 14 + 18 * row, text))
    return _figure("histogram", height, body, [], x_title)


def draw_shares(shares: Mapping[str, tuple[float, str]], *, title: str) -> str:
    """Draw one bar that is split among its parts, with a legend that says each part.

    Args:
        shares: By name: a size, and the class of its colour; sizes are not negative.
        title: What the whole is.
    """
    height, top = 74, 12
    whole = sum(size for size, _ in shares.values()) or 1.0
    body, at = [], 0.0
    for name, (size, tone) in shares.items():
        width = size / whole * _WIDTH
        body.append(
            f'<rect class="mark {tone}" x="{at:.2f}" y="{top}" width="{width:.2f}" height="50">'
            f"<title>{_safe(name)}: {size:.4g} ms, {100 * size / whole:.1f} %</title></rect>"
        )
        at += width
    legend = [(tone, f"{name} {100 * size / whole:.1f} %") for name, (size, tone) in shares.items()]
    return _figure("shares", height, body, legend, title)


def draw_lanes(lanes: Mapping[str, Sequence[Bar]], *, x_title: str) -> str:
    """Draw stretches of time, one lane under the other.

    Args:
        lanes: By name, from the top.
        x_title: What x is, with its unit.
    """
    row, left = 44, 96
    height = _TOP + row * len(lanes) + _BOTTOM
    end = max((bar.end for bars in lanes.values() for bar in bars), default=1.0)
    scale = (_WIDTH - left - _RIGHT) / (end or 1.0)
    body = []
    for tick in _ticks(0.0, end):
        at = left + tick * scale
        body.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{height - _BOTTOM}"/>')
        body.append(f'<text x="{at:.1f}" y="{height - _BOTTOM + 18}" text-anchor="middle">{tick:g}</text>')
    body.append(f'<text x="{(_WIDTH + left) / 2:.0f}" y="{height - 6}" text-anchor="middle">{_safe(x_title)}</text>')
    for number, (name, bars) in enumerate(lanes.items()):
        y = _TOP + row * number
        body.append(f'<text x="{left - 10}" y="{y + 27}" text-anchor="end">{_safe(name)}</text>')
        body += [
            f'<rect class="mark {bar.tone}" x="{left + bar.begin * scale:.2f}" y="{y + 6}" '
            f'width="{max(1.0, (bar.end - bar.begin) * scale - 0.5):.2f}" height="{row - 14}" rx="2">'
            f"<title>{_safe(bar.title)}: {bar.end - bar.begin:.4g} ms</title></rect>"
            for bar in bars
        ]
    return _figure("timeline", height, body, [], x_title)


class _Frame:
    """Where values lie on the drawing."""

    def __init__(self, low: float, high: float, top: float, height: int) -> None:
        self._low, self._high = low, high if high > low else low + 1
        self._top, self._height = (top or 1.0) * 1.15, height

    def x(self, value: float) -> float:
        return _LEFT + (value - self._low) / (self._high - self._low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return self._height - _BOTTOM - value / self._top * (self._height - _TOP - _BOTTOM)

    def axes(self, x_title: str, *, counts: bool) -> str:
        floor = self._height - _BOTTOM
        parts = [f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{floor}" y2="{floor}"/>']
        for tick in _ticks(0.0, self._top):
            if counts and tick != int(tick):
                continue
            y = self.y(tick)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{_LEFT - 8}" y="{y + 5:.1f}" text-anchor="end">{tick:g}</text>')
        for tick in _ticks(self._low, self._high):
            if counts or tick == int(tick):
                text = f'<text x="{self.x(tick):.1f}" y="{floor + 18}" text-anchor="middle">{tick:g}</text>'
                parts.append(text)
        parts.append(
            f'<text x="{(_WIDTH + _LEFT) / 2:.0f}" y="{self._height - 6}" text-anchor="middle">{_safe(x_title)}</text>'
        )
        return "".join(parts)


def _note(x: float, height: int, y: float, text: str) -> str:
    """Return a vertical line with text on the side where there is room."""
    anchor, offset = ("end", -6) if x > _WIDTH * 0.6 else ("start", 6)
    return (
        f'<line class="note" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{height - _BOTTOM}"/>'
        f'<text class="note halo" x="{x + offset:.1f}" y="{y}" text-anchor="{anchor}">{_safe(text)}</text>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Return four to ten round numbers between two."""
    span = (high - low) or 1.0
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 8)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _figure(kind: str, height: int, body: Sequence[str], legend: Sequence[tuple[str, str]], title: str) -> str:
    keys = "".join(f'<li><span class="key {tone}"></span>{_safe(text)}</li>' for tone, text in legend)
    listed = f'<ul class="legend">{keys}</ul>' if keys else ""
    # A bar without text may be squeezed; all else keeps its shape.
    fit = ' preserveAspectRatio="none"' if kind == "shares" else ""
    return (
        f'{listed}<div class="chart"><svg class="{kind}" viewBox="0 0 {_WIDTH} {height}"{fit} role="img" '
        f'aria-label="{_safe(title)}">{"".join(body)}</svg></div>'
    )


def _safe(text: str) -> str:
    return html.escape(text)
