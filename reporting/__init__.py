"""HTML pages, SVG charts and tables of the reports: one style, self-contained, without network access."""

from __future__ import annotations

from .axis import Axis
from .chart import Chart
from .figures import Figure, Headline, judge_figures, tabulate_figures
from .histogram import draw_histogram
from .lines import Series, draw_lines
from .page import Page
from .picture import Picture
from .shares import draw_shares
from .table import Cell, Table
from .timeline import Bar, Timeline

__all__ = [
    "Axis",
    "Bar",
    "Cell",
    "Chart",
    "Figure",
    "Headline",
    "Page",
    "Picture",
    "Series",
    "Table",
    "Timeline",
    "draw_histogram",
    "draw_lines",
    "draw_shares",
    "judge_figures",
    "tabulate_figures",
]
