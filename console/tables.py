"""Text tables on standard output."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["make_table", "open_console"]

# Without a terminal nothing is wrapped or truncated: files and pipes have no width.
_UNLIMITED = 100_000


def open_console() -> Console:
    """Return a console on standard output, with the width of the terminal, of COLUMNS, or without limit."""
    from rich.console import Console

    is_limited = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if is_limited else _UNLIMITED)


def make_table(title: str, rows: Iterable[Sequence[str]], *, header: Sequence[str] = (), right: bool = False) -> Table:
    """Return a table of plain text cells: brackets are not markup, and long cells are wrapped.

    Args:
        title: Title above the table; empty for none.
        rows: Cells by row.
        header: Names of the columns; empty for none.
        right: Whether all columns but the first are aligned to the right, as numbers.
    """
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    table = Table(title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.show_header = bool(header)
    for column in range(max(map(len, [header, *rows]))):
        name = Text(header[column]) if column < len(header) else ""
        table.add_column(name, justify="right" if right and column else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table
