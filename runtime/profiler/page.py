"""A self-contained HTML page for every report: sections, figures, tables that sort; light and dark, no network."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Page", "Table"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #566173; --page: #fff; --card: #f5f7fa; --line: #d5dbe3;
  --a: #2563eb; --b: #d9480f; --c: #0f8a5f; --d: #9333c7; --e: #a87900; --f: #6b7789; --warn: #9a3b00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7ebf1; --soft: #a3afc0; --page: #11151b; --card: #1a2029;
  --line: #36404e; --a: #6ea0ff; --b: #ff9a5c; --c: #4fd1a0; --d: #cf9bff; --e: #e5bd4b; --f: #8f9bad; --warn: #ffb27d;
  } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 24px 20px 64px; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 4px; } h2 { font-size: 1.2rem; margin: 40px 0 8px; }
p { margin: 6px 0; } .soft { color: var(--soft); }
.warning { border-left: 4px solid var(--warn); background: var(--card); padding: 8px 12px; color: var(--warn); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(158px, 1fr)); gap: 10px; margin: 16px 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px; }
.card b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; } .card span { color: var(--soft);
  font-size: .85rem; }
.chart { overflow-x: auto; } .scroll { overflow: auto; max-height: 620px; margin: 12px 0; }
svg { display: block; width: 100%; min-width: 640px; height: auto; }
svg text { fill: var(--soft); font: 13px system-ui, "DejaVu Sans", sans-serif; } svg text.note { fill: var(--ink); }
.halo { paint-order: stroke; stroke: var(--page); stroke-width: 4px; stroke-linejoin: round; }
.grid { stroke: var(--line); stroke-width: 1; } .axis { stroke: var(--soft); } line.note { stroke: var(--ink);
  stroke-dasharray: 4 4; } .line { fill: none; stroke-width: 2; }
.mark.tone-a { fill: var(--a); } .mark.tone-b { fill: var(--b); } .mark.tone-c { fill: var(--c); }
.mark.tone-d { fill: var(--d); } .mark.tone-e { fill: var(--e); } .mark.tone-f { fill: var(--f); }
.line.tone-a { stroke: var(--a); } .line.tone-b { stroke: var(--b); } .line.tone-c { stroke: var(--c); }
.key { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px; }
.key.tone-a { background: var(--a); } .key.tone-b { background: var(--b); } .key.tone-c { background: var(--c); }
.key.tone-d { background: var(--d); } .key.tone-e { background: var(--e); } .key.tone-f { background: var(--f); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 0; margin: 8px 0; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, .words th, .words td { text-align: left; } .words td { white-space: normal; }
.words td:first-child { min-width: 10em; }
thead th { position: sticky; top: 0; background: var(--page); }
th button { all: unset; cursor: pointer; font-weight: 600; } th button:focus-visible { outline: 2px solid var(--a); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
svg.shares { min-width: 0; }
@media (max-width: 600px) { body { padding: 16px 12px 48px; } table { font-size: .8rem; } th, td { padding: 4px 6px; }
  td:first-child { min-width: 9em; max-width: 11em; white-space: normal; overflow-wrap: anywhere; }
  svg { min-width: 560px; } svg.shares { min-width: 0; height: 44px; } .words td:first-child { min-width: 7em; } }
"""
# Sorts by the cell's data-value where there is one: numbers as numbers, and back again at the second click.
_SCRIPT = """
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const head = button.parentElement, table = head.closest("table"), body = table.tBodies[0];
  const column = [...head.parentElement.children].indexOf(head);
  const up = head.getAttribute("aria-sort") === "descending";
  for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const numeric = [...body.rows].every(row => key(row) !== "" && !isNaN(key(row)));
  const order = (a, b) => numeric ? key(a) - key(b) : key(a).localeCompare(key(b));
  body.append(...[...body.rows].sort((a, b) => up ? order(a, b) : order(b, a)));
});
"""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        head: Names of the columns.
        rows: Cells; a number is shown with four digits and sorts as one.
        sorts: Whether a click on a column's name sorts.
        words: Whether cells are text, which wraps.
        name: For links and tests.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str | float | int]]
    sorts: bool = False
    words: bool = False
    name: str = "table"

    def render(self) -> str:
        """Return it as HTML."""
        heads = "".join(f"<th>{self._head(name)}</th>" for name in self.head)
        rows = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in self.rows)
        kind = ' class="words"' if self.words else ""
        return (
            f'<div class="scroll"><table id="{html.escape(self.name)}"{kind}><thead><tr>{heads}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"
        )

    def _head(self, name: str) -> str:
        return f'<button type="button">{html.escape(name)}</button>' if self.sorts else html.escape(name)


@dataclass
class Page:
    """A page under construction; ``render`` returns it whole.

    Attributes:
        title: In one line.
        subtitle: What was measured on what.
        warnings: What makes it doubtful, on top.
    """

    title: str
    subtitle: Sequence[str] = ()
    warnings: Sequence[str] = ()
    _parts: list[str] = field(default_factory=list)

    def add_cards(self, cards: Sequence[tuple[str, str]]) -> None:
        """Add the figures that matter most: each a value and what it is."""
        shown = "".join(
            f'<div class="card"><b>{html.escape(value)}</b><span>{html.escape(what)}</span></div>'
            for value, what in cards
        )
        self._parts.append(f'<div class="cards">{shown}</div>')

    def add_section(self, title: str, *figures: str | Table, text: str = "") -> None:
        """Add a section of charts, as SVG, and tables."""
        shown = "".join(figure.render() if isinstance(figure, Table) else figure for figure in figures)
        said = f'<p class="soft">{html.escape(text)}</p>' if text else ""
        self._parts.append(f"<section><h2>{html.escape(title)}</h2>{said}{shown}</section>")

    def render(self) -> str:
        """Return the page."""
        lines = "".join(f'<p class="soft">{html.escape(line)}</p>' for line in self.subtitle)
        warnings = "".join(f'<p class="warning">{html.escape(line)}</p>' for line in self.warnings)
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
            f"<title>{html.escape(self.title)}</title><style>{_STYLE}</style></head><body>"
            f"<header><h1>{html.escape(self.title)}</h1>{lines}</header>{warnings}{''.join(self._parts)}"
            f"<script>{_SCRIPT}</script></body></html>\n"
        )


def _cell(value: str | float | int) -> str:
    if isinstance(value, str):
        return f"<td>{html.escape(value)}</td>"
    return f'<td data-value="{value!r}">{value if isinstance(value, int) else f"{value:.4g}"}</td>'
