"""A chart as SVG, inside a page or as a separate file."""

from __future__ import annotations

import html
from dataclasses import dataclass

from .style import STANDALONE_STYLE

__all__ = ["CHART_WIDTH", "Chart", "render_legend"]

# Drawing units. On a page a chart is 340 to 600 pixels wide, and its text 9 to 13 pixels high.
CHART_WIDTH = 480
_LEGEND_ROW = 20


@dataclass(frozen=True)
class Chart:
    """A chart, :data:`CHART_WIDTH` drawing units wide.

    Attributes:
        kind: CSS class.
        title: The quantity shown, with its unit.
        height: In drawing units.
        body: SVG elements.
        legend: The CSS class of each color, and its meaning.
        description: Text alternative for screen readers.
        is_wide: Whether it has the page's whole width; then it contains no text, and is stretched.
    """

    kind: str
    title: str
    height: float
    body: str
    legend: tuple[tuple[str, str], ...] = ()
    description: str = ""
    is_wide: bool = False

    def render(self) -> str:
        """Return the chart as HTML."""
        stretch = ' preserveAspectRatio="none"' if self.is_wide else ""
        return (
            f'<figure class="chart{" wide" if self.is_wide else ""}"><figcaption>{html.escape(self.title)}</figcaption>'
            f'{render_legend(self.legend)}<svg class="{self.kind}" viewBox="0 0 {CHART_WIDTH} {self.height:g}"{stretch}'
            f' role="img">{self._inside()}</svg></figure>'
        )

    def to_svg(self) -> str:
        """Return the chart as an SVG document with its title and legend inside."""
        top = _LEGEND_ROW * (len(self.legend) + 1)
        rows = [f'<text class="title" x="8" y="{16 - top}">{html.escape(self.title)}</text>']
        for row, (tone, text) in enumerate(self.legend, start=1):
            y = _LEGEND_ROW * row - top
            rows.append(f'<rect class="mark {tone}" x="8" y="{y + 5}" width="12" height="12" rx="2"/>')
            rows.append(f'<text x="26" y="{y + 16}">{html.escape(text)}</text>')
        box = f'x="0" y="{-top}" width="{CHART_WIDTH}" height="{self.height + top:g}"'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 {-top} {CHART_WIDTH} {self.height + top:g}"'
            f' width="{2 * CHART_WIDTH}"><style>{STANDALONE_STYLE}</style>'
            f'<rect class="ground" {box}/>{"".join(rows)}{self._inside()}</svg>\n'
        )

    def _inside(self) -> str:
        description = f"<desc>{html.escape(self.description)}</desc>" if self.description else ""
        return f"<title>{html.escape(self.title)}</title>{description}{self.body}"


def render_legend(legend: tuple[tuple[str, str], ...]) -> str:
    """Return the legend as HTML."""
    keys = "".join(f'<li><span class="key {tone}"></span>{html.escape(text)}</li>' for tone, text in legend)
    return f'<ul class="legend">{keys}</ul>' if keys else ""
