"""The command ``vdmrt export``."""

from __future__ import annotations

import logging
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from ..bundle import ScheduleSpec
from ..errors import ExportError
from ..hosts import needs_extra

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
    type=click.Choice(["fp32", "fp16"]),
    help="Types of weights and cache; give it twice for both.  [default: fp32]",
)
@click.option("--chunk-frames", default=8, show_default=True, help="Latent frames of one autoregressive step.")
@click.option("--slots", default=25, show_default=True, help="Capacity of the KV cache in latent frames.")
@click.option("--requests", default=1, show_default=True, help="Requests that one run carries.")
@click.option("--max-steps", default=100, show_default=True, help="Most denoising steps.")
@click.option("--latent-size", type=LatentSize(), help="Instead of the configuration's.")
@click.option("--random-init", type=int, metavar="SEED", help="Seeded random weights instead of a checkpoint.")
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
    help="Noise schedule of its training.",
)
@click.option("--deterministic", is_flag=True, help="Leave the noise input out: deterministic samplers only.")
@click.option("--guidance/--no-guidance", default=True, help="Null rows for a model with text.  [default: on]")
@click.option("--name", help="The model's name.  [default: the configuration's]")
@click.option("--force", is_flag=True, help="Replace a bundle that is there.")
def export(checkpoint: Path | None, config: str, output: Path, random_init: int | None, **given: Any) -> None:
    """Split CHECKPOINT into cache fill and cached denoise, and write a bundle.

    CHECKPOINT is a .safetensors or .pth file, a sharded index, or a folder of them. Without one, --random-init.
    """
    if (checkpoint is None) == (random_init is None):
        raise click.UsageError("give either CHECKPOINT or --random-init SEED")
    with needs_extra("export", "vdmrt export", fail=ExportError):
        from .checkpoint import checkpoint_sha256, load_model
        from .config import PRESETS, load_config
        from .exporter import ExportOptions, export_bundle, random_model

        architecture = load_config(config, latent_size=given["latent_size"])
    options = ExportOptions(
        precisions=given["precisions"] or ("fp32",),
        chunk_frames=given["chunk_frames"],
        slots=given["slots"],
        requests=given["requests"],
        max_steps=given["max_steps"],
        guidance=given["guidance"],
        stochastic=not given["deterministic"],
        prediction=given["prediction"],
        schedule=ScheduleSpec(given["schedule"]),
    )
    provenance = {"command": shlex.join(["vdmrt", *sys.argv[1:]]), "config": config}
    if checkpoint is None:
        assert random_init is not None
        model = random_model(architecture, random_init)
        provenance["checkpoint"] = f"none: random weights of seed {random_init}"
        _log.warning("the weights are random: whatever the model makes means nothing")
    else:
        _log.info("reading %s", checkpoint)
        model = load_model(architecture, checkpoint)
        provenance["checkpoint"] = str(checkpoint)
        provenance["checkpoint_sha256"] = checkpoint_sha256(checkpoint)
    bundle = export_bundle(
        model,
        output,
        options,
        name=given["name"] or (config if config in PRESETS else Path(config).stem),
        random_weights=checkpoint is None,
        provenance=provenance,
        replace=given["force"],
        progress=lambda stage: _log.info("tracing %s", stage),
    )
    click.echo(bundle.path)
