"""Style sheets of all pages and charts."""

from __future__ import annotations

from pathlib import Path

__all__ = ["PAGE_STYLE", "STANDALONE_STYLE"]

_COLORS, _CHARTS, _PAGE = (
    Path(__file__).with_name(f"{name}.css").read_text(encoding="utf-8") for name in ("colors", "charts", "page")
)

PAGE_STYLE = _COLORS + _CHARTS + _PAGE
# Style of a chart in a separate file.
STANDALONE_STYLE = _COLORS + _CHARTS
