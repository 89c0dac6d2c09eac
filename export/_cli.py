"""The command ``vdmrt export``."""

from __future__ import annotations

import logging
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..bundle import EXPORTED, FP32, ScheduleSpec, check_bundle_place
from ..console.stages import show_stages
from ..errors import ExportError
from ..hosts import needs_extra
from .arguments import load_config, name_model
from .checkpoint_files import checkpoint_files, checkpoint_sha256
from .options import LARGEST_REQUESTS, ExportOptions, make_geometry

if TYPE_CHECKING:
    from .families.family import Architecture

__all__ = ["export"]

_log = logging.getLogger("vdmrt")


class LatentSize(click.ParamType[Any]):
    """Height and width as ``32x32``, or one number for both."""

    name = "HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Parse the option."""
        if isinstance(value, tuple):
            return value[0], value[1]
        sides = re.fullmatch(r"(\d+)(?:[xX](\d+))?", str(value))
        if sides is None:
            self.fail(f"wanted HEIGHTxWIDTH like 32x32, got {value!r}", param, ctx)
        return int(sides[1]), int(sides[2] or sides[1])


@click.command()
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@click.option("--config", required=True, help="A preset's name, or a JSON or YAML file of constructor arguments.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The bundle's folder.")
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(EXPORTED),
    help="Types of weights and cache; give it twice for both.  [default: fp32]",
)
@click.option(
    "--chunk-frames",
    default=8,
    show_default=True,
    type=click.IntRange(1),
    help="Latent frames of one autoregressive step.",
)
@click.option(
    "--slots", default=25, show_default=True, type=click.IntRange(1), help="Capacity of the KV cache in latent frames."
)
@click.option(
    "--requests",
    default=1,
    show_default=True,
    type=click.IntRange(1, LARGEST_REQUESTS),
    help="Requests in one run.",
)
@click.option(
    "--max-steps",
    default=100,
    show_default=True,
    type=click.IntRange(1, ScheduleSpec().train_steps),
    help="Maximum number of denoising steps.",
)
@click.option("--latent-size", type=LatentSize(), help="Latent height and width instead of the configuration's.")
@click.option("--weights", metavar="NAME", help="Set of weights of a checkpoint with several.  [default: ema, if any]")
@click.option(
    "--random-init",
    type=click.IntRange(0, 2**63 - 1),
    metavar="SEED",
    help="Seeded random weights instead of a checkpoint.",
)
@click.option(
    "--prediction",
    default="epsilon",
    show_default=True,
    type=click.Choice(["epsilon", "v", "flow"]),
    help="What the network predicts.",
)
@click.option(
    "--schedule",
    default="linear",
    show_default=True,
    type=click.Choice(["linear", "cosine", "scaled_linear"]),
    help="Noise schedule that the model was trained with.",
)
@click.option("--deterministic", is_flag=True, help="Omit the noise input: deterministic samplers only.")
@click.option("--guidance/--no-guidance", default=True, help="Null rows for a model with text.  [default: on]")
@click.option("--name", help="The model's name.  [default: that of the preset, or of the file or folder of --config]")
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
def export(checkpoint: Path | None, config: str, output: Path, random_init: int | None, **given: Any) -> None:
    """Split CHECKPOINT into cache fill and cached denoise, and write a bundle.

    CHECKPOINT is a .safetensors or .pth file, a sharded index, or a folder of them. Without one, --random-init.
    """
    if (checkpoint is None) == (random_init is None):
        raise click.UsageError("give either CHECKPOINT or --random-init SEED")
    if checkpoint is None and given["weights"] is not None:
        raise click.UsageError("--weights selects a set of CHECKPOINT; omit it with --random-init")
    options = _options(given)
    with needs_extra("export", "vdmrt export", fail=ExportError):
        architecture = load_config(config, latent_size=given["latent_size"])
        make_geometry(architecture, options)
        check_bundle_place(output, replace=given["force"])
        if checkpoint is not None:
            checkpoint_files(checkpoint)
        from .exporter import export_bundle  # torch: imported after all checks that do not need it

        with show_stages() as progress:
            model, origin = _make_model(architecture, checkpoint, given["weights"], random_init, progress)
            bundle = export_bundle(
                model,
                output,
                options,
                name=given["name"] or name_model(config),
                random_weights=checkpoint is None,
                provenance={"command": shlex.join(["vdmrt", *sys.argv[1:]]), "config": config, **origin},
                replace=given["force"],
                progress=progress,
            )
    click.echo(bundle.path)


def _options(given: dict[str, Any]) -> ExportOptions:
    return ExportOptions(
        precisions=given["precisions"] or (FP32,),
        chunk_frames=given["chunk_frames"],
        slots=given["slots"],
        requests=given["requests"],
        max_steps=given["max_steps"],
        guidance=given["guidance"],
        stochastic=not given["deterministic"],
        prediction=given["prediction"],
        schedule=ScheduleSpec(given["schedule"]),
    )


def _make_model(
    architecture: Architecture,
    checkpoint: Path | None,
    weights: str | None,
    seed: int | None,
    progress: Callable[[str], None],
) -> tuple[Any, dict[str, str]]:
    """Return the model, and the provenance of its weights."""
    from .checkpoint import load_model, read_checkpoint
    from .exporter import random_model

    if checkpoint is None:
        assert seed is not None
        model = random_model(architecture, seed)
        _log.warning("the weights are random: the model's output is noise")
        return model, {"checkpoint": f"none: random weights of seed {seed}"}
    progress(f"reading {checkpoint}")
    found = read_checkpoint(checkpoint, weights=weights)
    if len(found.sets) > 1:
        taken, names = found.weights or "those without a name", ", ".join(found.sets)
        _log.info("the checkpoint has weights named %s: using %s; choose others with --weights", names, taken)
    model = load_model(architecture, found)
    progress(f"hashing {checkpoint}")
    origin = {"checkpoint": str(checkpoint), "checkpoint_sha256": checkpoint_sha256(checkpoint)}
    return model, origin | ({} if found.weights is None else {"weights": found.weights})
