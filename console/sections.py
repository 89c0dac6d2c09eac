"""Help in sections: options that several commands share are grouped under a title."""

from __future__ import annotations

from typing import Any

import click

__all__ = ["SectionedCommand", "SharedOption"]

_OWN = "Options"


class SharedOption(click.Option):
    """An option that several commands have.

    Attributes:
        section: Title of its group in the help.
    """

    def __init__(self, *declarations: Any, section: str, **given: Any) -> None:
        super().__init__(*declarations, **given)
        self.section = section


class SectionedCommand(click.Command):
    """A command that lists its own options first in its help, then the shared ones by section."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options."""
        sections: dict[str, list[tuple[str, str]]] = {_OWN: []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                sections.setdefault(getattr(param, "section", _OWN), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)
