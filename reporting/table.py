"""HTML tables."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Cell", "Table", "format_number"]

# True and False show a limit that was met or missed; None an empty cell.
Cell = str | float | bool | None

# With more rows than this, a table scrolls separately.
_LONG = 20


@dataclass(frozen=True)
class Table:
    """A table; its first column names the rows.

    Attributes:
        head: Names of the columns.
        rows: Cells; a number is shown with four digits and sorts numerically, True is "pass" and False "fail".
        sorts: Whether a click on a column's name sorts.
        words: Whether cells are text, which wraps.
        is_wide: Whether it has the page's whole width; otherwise the width of a chart.
        name: Its id, for links and tests.
        title: Description for screen readers.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    sorts: bool = False
    words: bool = False
    is_wide: bool = True
    name: str = "table"
    title: str = ""

    def render(self) -> str:
        """Return the table as HTML."""
        rows = "".join(f"<tr>{_row_head(row[0])}{''.join(map(_cell, row[1:]))}</tr>" for row in self.rows)
        kind = ' class="words"' if self.words else ""
        box = f"scroll{' wide' if self.is_wide else ''}{' long' if len(self.rows) > _LONG else ''}"
        title = html.escape(self.title or self.name)
        return (
            f'<div class="{box}" tabindex="0" role="region" aria-label="{title}">'
            f'<table id="{html.escape(self.name)}"{kind} aria-label="{title}">{self._render_head()}'
            f"<tbody>{rows}</tbody></table></div>"
        )

    def _render_head(self) -> str:
        if not any(self.head):
            return ""
        button = '<button type="button">{}</button>' if self.sorts else "{}"
        heads = "".join(f'<th scope="col">{button.format(html.escape(name))}</th>' for name in self.head)
        return f"<thead><tr>{heads}</tr></thead>"


def format_number(value: float) -> str:
    """Return a number with at least four digits: integer parts in full, and six digits just below 1."""
    if isinstance(value, int) or 1e4 <= abs(value) < 1e9:
        return f"{value:.0f}"
    return f"{value:.6g}" if 0.999 <= value < 1 else f"{value:.4g}"


def _row_head(value: Cell) -> str:
    return _cell(value).replace("<td", '<th scope="row"', 1).removesuffix("</td>") + "</th>"


def _cell(value: Cell) -> str:
    if value is None:
        return "<td></td>"
    if isinstance(value, bool):
        return '<td class="pass">✓ pass</td>' if value else '<td class="fail">✗ fail</td>'
    if isinstance(value, str):
        return f"<td>{html.escape(value)}</td>"
    return f'<td data-value="{value!r}">{format_number(value)}</td>'
