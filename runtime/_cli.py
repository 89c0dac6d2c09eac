"""The commands ``vdmrt run``, ``vdmrt demo`` and ``vdmrt doctor``."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, get_args

import click

from ..bundle import Precision
from ..console.progress import show_progress

__all__ = ["demo", "doctor", "run"]


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--image", type=click.Path(path_type=Path), help="Go on from a picture.")
@click.option("--video", type=click.Path(path_type=Path), help="Go on from the first pixel frames of a clip.")
@click.option("--latents", type=click.Path(path_type=Path), help="Go on from latents, .npy [n, c, h, w].")
@click.option("--given", type=int, help="Pixel frames taken of --video.  [default: a chunk and one]")
@click.option("--chunks", default=10, show_default=True, help="Autoregressive steps.")
@click.option("--steps", type=int, help="Denoising steps.  [default: the bundle's]")
@click.option("--sampler", help="iddpm, ddpm, ddim, dpm-solver++ or flow-euler.  [default: the bundle's]")
@click.option("--guidance", type=float, help="Scale of classifier-free guidance.  [default: the bundle's]")
@click.option("--text", type=click.Path(path_type=Path), help="Text embeddings, .npy [tokens, width].")
@click.option("--text-mask", type=click.Path(path_type=Path), help="1 for a token that counts, .npy [tokens].")
@click.option("--prefix-noise", type=int, help="Training timestep of the noise on cached frames.  [default: none]")
@click.option("--seed", type=int, help="Of all noise.  [default: random, and reported]")
@click.option("--fps", default=8.0, show_default=True, help="Pixel frames per second of the clip.")
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    metavar="PRECISION",
    help="fp32, fp16, or what vdmrt calibrate added, as int8.  [default: fp32 where the bundle has it]",
)
@click.option("--backend", default="auto", show_default=True, help="auto, tensorrt or onnxruntime.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--threads", type=int, help="Threads of the CPU provider.  [default: one for each CPU]")
@click.option(
    "--cuda-graph/--no-cuda-graph", default=True, show_default=True, help="Capture a denoising step and replay it."
)
@click.option("--trust-plans", is_flag=True, help="Load TensorRT plans that this user did not build: native code.")
@click.option(
    "--lean-runtime",
    type=click.Path(path_type=Path),
    help="TensorRT's libnvinfer_lean of the release that built version-compatible plans: native code.",
)
@click.option(
    "--engine/--no-engine",
    "use_engine",
    default=True,
    help="Run ONNX Runtime's graphs from an engine of the bundle that fits.  [default: engine]",
)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="OUT.mp4, OUT.gif or OUT.npy (latents).")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def run(bundle: Path, as_json: bool, **given: Any) -> None:
    """Generate from BUNDLE, chunk by chunk, and write a clip or latents.

    Ctrl-C ends after the denoising step and keeps what was made so far.
    """
    from .generation import Request, generate

    with show_progress("generating, denoising steps") as on_progress:
        summary = generate(Request(bundle=bundle, **given), on_progress=on_progress)
    click.echo(json.dumps(dataclasses.asdict(summary), indent=1) if as_json else summary.describe())
    if summary.interrupted:
        sys.exit(130)


@click.command()
@click.option(
    "--output",
    default="demo-out",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder for the clip and the contact sheet.",
)
@click.option("--sky", default=7, show_default=True, help="Seed of the sky and of all noise, below 1,000,000.")
@click.option("--chunks", default=10, show_default=True, help="Autoregressive steps of 8 pixel frames.")
@click.option("--steps", type=int, help="Denoising steps.  [default: the bundle's]")
def demo(output: Path, sky: int, chunks: int, steps: int | None) -> None:
    """Go on with a sky time-lapse that the shipped model has never seen; write a clip and a contact sheet."""
    from .demo import run_demo

    with show_progress("generating, denoising steps") as on_progress:
        summary, sheet = run_demo(output, sky=sky, chunks=chunks, steps=steps, on_progress=on_progress)
    click.echo(summary.describe())
    click.echo(f"{sheet}: every pixel frame, the given ones framed in orange")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Say what is installed, what is missing, what to install, and which backends will run."""
    from .doctor import examine, render

    report = examine()
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report), indent=1))
    else:
        render(report)
    sys.exit(1 if report.problems else 0)
