"""Tables for people, on standard output."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["make_table", "open_console"]

# Without a terminal nothing is wrapped or cut: a file and a pipe have no width.
_UNLIMITED = 100_000


def open_console() -> Console:
    """Return a console on standard output, as wide as the terminal, or as COLUMNS says, or without limit."""
    from rich.console import Console

    is_limited = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if is_limited else _UNLIMITED)


def make_table(title: str, rows: Iterable[Sequence[str]], *, header: Sequence[str] = (), right: bool = False) -> Table:
    """Return a table whose cells are plain text: brackets are no markup, and words that do not fit are wrapped.

    Args:
        title: Stands above it; empty for none.
        rows: Cells by row.
        header: Names of the columns; none are shown without.
        right: Whether all columns but the first are numbers, which are aligned to the right.
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
