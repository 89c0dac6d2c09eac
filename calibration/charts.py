"""Curves as SVG, written by hand: they stand in a page, or alone as a picture."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

__all__ = ["line_chart"]

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 640, 260, 58, 30, 12, 34
_COLOURS = ("#1f5fa8", "#c8562b", "#3a8a4d", "#7a4f9a", "#888888")

Points = Sequence[tuple[float, float]]


def line_chart(curves: Mapping[str, Points], *, title: str, across: str, up: str) -> str:
    """Return a chart as a whole SVG document.

    Args:
        curves: Points (across, up) by name; points that are not finite are left out.
        title: What is shown.
        across: What the horizontal axis is, with its unit.
        up: What the vertical axis is, with its unit.
    """
    kept = {name: [p for p in points if all(map(math.isfinite, p))] for name, points in curves.items()}
    every = [point for points in kept.values() for point in points] or [(0.0, 0.0)]
    (left, right), (low, high) = (_span([point[axis] for point in every]) for axis in (0, 1))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_LEFT, 18, title, size=13),
        f'<rect x="{_LEFT}" y="{_TOP}" width="{_WIDTH - _LEFT - _RIGHT}" height="{_HEIGHT - _TOP - _BOTTOM}" '
        'fill="none" stroke="#bbb"/>',
        _text(_WIDTH - _RIGHT, _HEIGHT - 6, across, anchor="end"),
        _text(4, _TOP - 6, up),
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = _place(left + share * (right - left), low + share * (high - low), left, right, low, high)
        parts += [
            _text(x, _HEIGHT - 20, f"{left + share * (right - left):.3g}", anchor="middle"),
            _text(_LEFT - 4, y + 4, f"{low + share * (high - low):.3g}", anchor="end"),
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#eee"/>',
        ]
    for place, (name, points) in enumerate(kept.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        placed = [_place(*point, left, right, low, high) for point in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in placed]
        parts.append(_text(_LEFT + 10, _TOP + 16 + 14 * place, name, colour=colour))
    return "\n".join([*parts, "</svg>"])


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _place(x: float, y: float, left: float, right: float, low: float, high: float) -> tuple[float, float]:
    across = _LEFT + (x - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)
    return across, _HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)


def _text(x: float, y: float, text: str, *, size: int = 11, anchor: str = "start", colour: str = "#222") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}">'
        f"{html.escape(text)}</text>"
    )
