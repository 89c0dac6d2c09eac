"""The command ``vdmrt inspect``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..bundle import open_bundle

__all__ = ["inspect"]


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--verify", is_flag=True, help="Check every file's SHA-256 too.")
def inspect(bundle: Path, as_json: bool, verify: bool) -> None:
    """Show what BUNDLE is: geometry, tensors, cache bytes, FLOPs, weights, nodes that copy the cache."""
    from .inspection import inspect_bundle, render_inspection

    opened = open_bundle(bundle)
    if verify:
        opened.verify()
    if as_json:
        click.echo(json.dumps(inspect_bundle(opened), indent=1))
        return
    from rich.console import Console

    render_inspection(opened, Console())
