"""The self-contained HTML page of a report: verdict, figures and pictures, for light, dark and print media."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .style import PAGE_STYLE

if TYPE_CHECKING:
    from .figures import Headline

__all__ = ["Page"]

_SCRIPT = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
_SIGNS = {True: ("pass", "✓ "), False: ("fail", "✗ "), None: ("open", "")}


class _Part(Protocol):
    def render(self) -> str: ...


@dataclass
class Page:
    """A page under construction; ``render`` returns the complete page.

    Attributes:
        title: Title in one line.
        subtitle: Lines on what was measured, and on which machine.
        verdict: The result at the top of the page.
        warnings: Reasons to doubt the result, shown after the verdict.
    """

    title: str
    subtitle: Sequence[str] = ()
    verdict: Headline | None = None
    warnings: Sequence[str] = ()
    _parts: list[str] = field(default_factory=list)

    def add_cards(self, cards: Sequence[tuple[str, str]]) -> None:
        """Add the main figures, as pairs of value and label."""
        shown = "".join(
            f'<div class="card"><dt>{html.escape(what)}</dt><dd>{html.escape(value)}</dd></div>'
            for value, what in cards
        )
        self._parts.append(f'<dl class="cards">{shown}</dl>')

    def add_section(self, title: str, *parts: _Part, text: str = "") -> None:
        """Add a section of charts, tables and pictures."""
        said = f'<p class="soft">{html.escape(text)}</p>' if text else ""
        shown = "".join(part.render() for part in parts)
        self._parts.append(f'<section><h2>{html.escape(title)}</h2>{said}<div class="parts">{shown}</div></section>')

    def render(self) -> str:
        """Return the page."""
        title = html.escape(self.title)
        lines = "".join(f'<p class="soft">{html.escape(line)}</p>' for line in self.subtitle)
        warnings = "".join(f'<p class="warning">{html.escape(line)}</p>' for line in self.warnings)
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
            f"<title>{title}</title><style>{PAGE_STYLE}</style></head><body>"
            f"<header><h1>{title}</h1>{lines}</header><main>{self._render_verdict()}{warnings}"
            f"{''.join(self._parts)}</main><script>{_SCRIPT}</script></body></html>\n"
        )

    def _render_verdict(self) -> str:
        if self.verdict is None:
            return ""
        kind, sign = _SIGNS[self.verdict.passed]
        details = "".join(f"<p>{html.escape(line)}</p>" for line in self.verdict.details)
        return (
            f'<section class="verdict {kind}" aria-label="Verdict"><p class="headline">'
            f'<span aria-hidden="true">{sign}</span>{html.escape(self.verdict.headline)}</p>{details}</section>'
        )
