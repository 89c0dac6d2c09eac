"""The command ``vdmrt doctor``."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys

import click

from ..console.tables import open_console

__all__ = ["doctor", "find_core"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Report what is installed, what is missing, what to install, and which backends can run."""
    from ..hosts.doctor import examine, render

    report = examine(find_core)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report), indent=1))
    else:
        render(report, open_console())
    sys.exit(1 if report.problems else 0)


def find_core() -> str:
    """Load the C core and return its path.

    Raises:
        ImportError: The C core was not built, or does not load.
    """
    return str(importlib.import_module("._core", __package__).__file__)
