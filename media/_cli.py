"""The commands ``vdmrt run`` and ``vdmrt demo``."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from pathlib import Path
from typing import Any

import click

from ..console.parameters import Number, OutputFile
from ..console.progress import show_progress
from ..console.sections import SectionedCommand
from ..runtime._options_cli import load_options, sampling_options, seed_option
from ..runtime.backends.load_options import LoadOptions

__all__ = ["demo", "run"]


_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(cls=SectionedCommand)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--image", type=_FILE, help="Go on from a picture.")
@click.option("--video", type=_FILE, help="Go on from the first pixel frames of a clip.")
@click.option("--latents", type=_FILE, help="Go on from latents, .npy [n, c, h, w].")
@click.option("--given", type=click.IntRange(1), help="Pixel frames taken of --video.  [default: a chunk and one]")
@click.option("--chunks", default=10, show_default=True, type=click.IntRange(1), help="Autoregressive steps.")
@seed_option(None, "Seed of all noise, below 2**64.  [default: random, and reported]")
@click.option("--fps", default=8.0, show_default=True, type=Number(above=0), help="Pixel frames a second of the clip.")
@click.option(
    "--output",
    required=True,
    type=OutputFile((".mp4", ".gif", ".npy")),
    help="OUT.mp4, OUT.gif or OUT.npy (latents).",
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
@sampling_options
@load_options
def run(bundle: Path, as_json: bool, **given: Any) -> None:
    """Generate from BUNDLE, chunk by chunk, and write a clip or latents.

    Ctrl-C and SIGTERM end it after the denoising step and keep what was made so far.
    """
    from .generation import Request, generate

    with show_progress("generating, denoising steps") as on_progress:
        summary = generate(Request(bundle=bundle, **given), on_progress=on_progress)
    click.echo(json.dumps(dataclasses.asdict(summary), indent=1) if as_json else summary.describe())
    if summary.interrupted is not None:
        sys.exit(128 + signal.Signals[summary.interrupted])


@click.command(cls=SectionedCommand)
@click.option(
    "--output",
    default="demo-out",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder for the clip and the contact sheet; those of an earlier demo are replaced.",
)
@click.option(
    "--sky",
    default=7,
    show_default=True,
    type=click.IntRange(0, 999_999),
    metavar="SEED",
    help="Seed of the sky and of all noise, below 1,000,000.",
)
@click.option(
    "--chunks", default=10, show_default=True, type=click.IntRange(1), help="Autoregressive steps of 8 pixel frames."
)
@click.option("--steps", type=click.IntRange(1), help="Denoising steps of a chunk.  [default: the bundle's]")
@load_options
def demo(output: Path, sky: int, chunks: int, steps: int | None, **given: Any) -> None:
    """Go on with a sky time-lapse that the shipped model has never seen; write a clip and a contact sheet."""
    from .demo import run_demo

    with show_progress("generating, denoising steps") as on_progress:
        summary, sheet = run_demo(
            output, sky=sky, chunks=chunks, steps=steps, loading=LoadOptions(**given), on_progress=on_progress
        )
    click.echo(summary.describe())
    click.echo(f"{sheet}: every pixel frame, the given ones framed in orange")
    if summary.interrupted is not None:
        sys.exit(128 + signal.Signals[summary.interrupted])
