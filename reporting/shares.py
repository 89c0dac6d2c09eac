"""Bar charts of the shares of a whole."""

from __future__ import annotations

import html
from collections.abc import Mapping

from .chart import CHART_WIDTH, Chart

__all__ = ["draw_shares"]

_HEIGHT = 50


def draw_shares(shares: Mapping[str, tuple[float, str]], *, title: str, unit: str) -> Chart:
    """Draw one bar that is split into shares, with a legend of their sizes.

    Args:
        shares: Size, not negative, and CSS class of the color, by name.
        title: The quantity of the whole.
        unit: Unit of the sizes.
    """
    whole = sum(size for size, _ in shares.values()) or 1.0
    body, at = [], 0.0
    for name, (size, tone) in shares.items():
        width = size / whole * CHART_WIDTH
        said = f"{html.escape(name)}: {size:.4g} {unit}, {100 * size / whole:.1f} %"
        body.append(
            f'<rect class="mark {tone}" x="{at:.2f}" y="0" width="{width:.2f}" height="{_HEIGHT}">'
            f"<title>{said}</title></rect>"
        )
        at += width
    legend = tuple(
        (tone, f"{name} {size:.4g} {unit}, {100 * size / whole:.1f} %") for name, (size, tone) in shares.items()
    )
    return Chart("shares", title, _HEIGHT, "".join(body), legend, "; ".join(t for _, t in legend), is_wide=True)
