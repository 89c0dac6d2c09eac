"""The command ``vdmrt``: composes what each folder brings, and turns errors into one paragraph."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from . import __version__
from .engines._cli import inspect
from .errors import VdmrtError
from .export._cli import export
from .runtime._cli import demo, doctor, run
from .runtime._profile_cli import profile

__all__ = ["main"]

_FAILED, _MISUSED, _INTERRUPTED = 1, 2, 130


class _Group(click.Group):
    """Prints what a caller can mend without a traceback: exit 1 for an error of ours, 2 for misuse."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (VdmrtError, ValueError, TypeError) as error:
            if ctx.params.get("traceback"):
                raise
            click.echo(f"Error: {error}", err=True)
            ctx.exit(_FAILED if isinstance(error, VdmrtError) else _MISUSED)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(_INTERRUPTED)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="vdmrt")
@click.option("--traceback", is_flag=True, help="Show the traceback of an error.")
@click.option("--quiet", is_flag=True, help="Only warnings and errors on stderr.")
def main(traceback: bool, quiet: bool) -> None:
    """Deploy causal video diffusion models: export, build, run and measure them.

    Results go to stdout, talk and progress to stderr. Exit status: 0 done, 1 failed, 2 misuse, 3 a gate was missed.
    """
    click.get_current_context().with_resource(_talking(logging.WARNING if quiet else logging.INFO))


@contextmanager
def _talking(level: int) -> Iterator[None]:
    """Send what the library logs to stderr, as long as the command runs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Letter("[%(letter)s] %(message)s"))
    logger = logging.getLogger("vdmrt")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class _Letter(logging.Formatter):
    """Prefixes that this field reads without thinking: [I], [W], [E]."""

    def format(self, record: logging.LogRecord) -> str:
        record.letter = record.levelname[0]
        return super().format(record)


for _command in (export, inspect, run, profile, demo, doctor):
    main.add_command(_command)
