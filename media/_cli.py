"""The commands ``vdmrt run`` and ``vdmrt demo``."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import click

from ..bundle import encode
from ..console.options import Option, gather, options_of
from ..console.parameters import Number, OutputFile
from ..console.progress import show_progress
from ..console.sections import SectionedCommand
from ..runtime._options_cli import SEED, load_options, sampling_options
from ..runtime.backends.load_options import LoadOptions
from .request import Request

__all__ = ["demo", "run"]


_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(cls=SectionedCommand)
@click.argument("bundle", type=click.Path(path_type=Path))
@options_of(
    Request,
    image=Option("Continue from a picture.", _FILE),
    video=Option("Continue from the first pixel frames of a clip.", _FILE),
    latents=Option("Continue from latents, .npy [n, c, h, w].", _FILE),
    given=Option("Pixel frames to read from --video.  [default: a chunk and one]", click.IntRange(1)),
    chunks=Option("Autoregressive steps.", click.IntRange(1)),
    seed=Option("Seed of all noise, below 2**64.  [default: random, and reported]", SEED),
    fps=Option("Pixel frames a second of the clip.", Number(above=0)),
)
@click.option(
    "--output",
    required=True,
    type=OutputFile((".mp4", ".gif", ".npy")),
    help="OUT.mp4, OUT.gif or OUT.npy (latents).",
)
@options_of(Request, force=Option("Replace an existing file."))
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON.")
@sampling_options
@load_options
@gather("request", Request)
def run(request: Request, as_json: bool) -> None:
    """Generate from BUNDLE, chunk by chunk, and write a clip or latents.

    Ctrl-C and SIGTERM end it after the current denoising step and keep the finished chunks.
    """
    from .generation import generate

    with show_progress("generating, denoising steps") as on_progress:
        summary = generate(request, on_progress=on_progress)
    click.echo(json.dumps(encode(summary), indent=1) if as_json else summary.describe())
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
@gather("loading", LoadOptions)
def demo(output: Path, sky: int, chunks: int, steps: int | None, loading: LoadOptions) -> None:
    """Continue a sky time-lapse that is not in the bundled model's training set; write a clip and a contact sheet."""
    from .clip_writer import write_contact_sheet
    from .demo import demo_request
    from .generation import generate

    request = demo_request(output, sky=sky, chunks=chunks, steps=steps, loading=loading)
    sheet = output / "sky.png"
    with show_progress("generating, denoising steps") as on_progress:
        summary = generate(
            request,
            on_clip=lambda clip, given: write_contact_sheet(sheet, clip, given=given),
            on_progress=on_progress,
        )
    click.echo(summary.describe())
    click.echo(f"{sheet}: every pixel frame, the given ones framed in orange")
    if summary.interrupted is not None:
        sys.exit(128 + signal.Signals[summary.interrupted])
