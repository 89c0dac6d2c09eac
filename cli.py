"""The command ``vdmrt``: composes what each folder brings, and turns errors into one paragraph."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from . import __version__
from .bundle import SamplerDefaults
from .engines._cli import inspect
from .errors import MediaError, VdmrtError
from .export._cli import explain_missing, export
from .runtime._cli import doctor, run

__all__ = ["main"]

_PICTURE = Path(__file__).parent / "examples" / "rocket.jpg"
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

    Results go to stdout, talk and progress to stderr. Exit status: 0 done, 1 failed, 2 misuse.
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


@click.command()
@click.option(
    "--output",
    default="demo-out",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder for all it makes.",
)
@click.option("--image", type=click.Path(path_type=Path), help="Your own picture instead of the one that ships.")
@click.option("--chunks", default=4, show_default=True, help="Autoregressive steps.")
@click.option("--steps", default=12, show_default=True, help="Denoising steps.")
def demo(output: Path, image: Path | None, chunks: int, steps: int) -> None:
    """Run the main job once: export a small model, go on from a picture, write a clip and a contact sheet.

    The model's weights are seeded random numbers, so the clip shows that everything runs, and noise.
    """
    with explain_missing():
        from .export import ExportOptions, export_bundle, load_config, random_model
    from .runtime.clip_writer import write_contact_sheet
    from .runtime.generation import Request, generate
    from .runtime.media import read_picture

    # First, so that a wrong number or picture is refused before minutes are spent.
    picture = image or _PICTURE
    read_picture(picture, height=1, width=1)
    request = Request(
        bundle=output / "bundle",
        output=output / "clip.mp4",
        image=picture,
        chunks=chunks,
        steps=steps,
        seed=7,
    )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"'{output}' cannot be made: {error.strerror}; give another --output") from error
    model = random_model(replace(load_config("CausalSTDiT2-S/2"), hidden_size=128, depth=4, heads=4), seed=7)
    log = logging.getLogger("vdmrt")
    log.info("exporting a small model with random weights")
    # Predicting v keeps untrained latents bounded, where epsilon would blow them up.
    export_bundle(
        model,
        request.bundle,
        ExportOptions(prediction="v", sampler=SamplerDefaults("ddim", steps)),
        name="demo",
        random_weights=True,
        provenance={"command": "vdmrt demo", "checkpoint": "none: random weights of seed 7"},
        replace=True,
        progress=lambda stage: log.info("tracing %s", stage),
    )
    sheet = output / "contact_sheet.png"
    summary = generate(
        request,
        on_clip=lambda pictures, given: write_contact_sheet(sheet, pictures, given=given),
    )
    click.echo(summary.describe())
    click.echo(f"{sheet}: every pixel frame, the given one framed in orange")
    click.echo("The weights are random: the clip shows that the whole way runs, and noise.")


for _command in (export, inspect, run, demo, doctor):
    main.add_command(_command)
