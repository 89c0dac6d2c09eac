"""The command ``vdmrt export``."""

from __future__ import annotations

import logging
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from ..bundle import EXPORTED, FP32, ScheduleSpec, check_bundle_place
from ..console.options import Option, gather, options_of
from ..console.sections import SectionedCommand
from ..console.stages import show_stages
from ..errors import ExportError
from ..hosts import needs_extra
from .arguments import load_config, name_model
from .checkpoint_files import checkpoint_files, checkpoint_sha256
from .options import LARGEST_REQUESTS, ExportRequest, make_geometry

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


class Schedule(click.ParamType[Any]):
    """A noise schedule, by its name."""

    name = "SCHEDULE"
    _names = click.Choice(["linear", "cosine", "scaled_linear"])

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        """Return the names."""
        return self._names.get_metavar(param, ctx)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> ScheduleSpec:
        """Parse the option."""
        return ScheduleSpec(cast(Any, self._names.convert(value, param, ctx)))


@click.command(cls=SectionedCommand)
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@click.option("--config", required=True, help="A preset's name, or a JSON or YAML file of constructor arguments.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The bundle's folder.")
@options_of(
    ExportRequest,
    precisions=Option(
        "Types of weights and cache; give it twice for both.  [default: fp32]",
        click.Choice(EXPORTED),
        names=("--precision",),
        multiple=True,
        default=(str(FP32),),
    ),
    chunk_frames=Option("Latent frames of one autoregressive step.", click.IntRange(1)),
    slots=Option("Capacity of the KV cache in latent frames.", click.IntRange(1)),
    requests=Option("Requests in one run.", click.IntRange(1, LARGEST_REQUESTS)),
    max_steps=Option("Maximum number of denoising steps.", click.IntRange(1, ScheduleSpec().train_steps)),
    latent_size=Option("Instead of the configuration's.", LatentSize()),
    weights=Option(
        "Set of weights of a checkpoint with several.  [default: averaged ones, if any]", click.STRING, metavar="NAME"
    ),
    random_init=Option("Seeded random weights instead of a checkpoint.", click.IntRange(0, 2**63 - 1), metavar="SEED"),
    prediction=Option("What the network predicts.", click.Choice(["epsilon", "v", "flow"])),
    schedule=Option("Noise schedule that the model was trained with.", Schedule(), default=ScheduleSpec().name),
    stochastic=Option(
        "Whether the graphs take noise; without it, deterministic samplers only.  [default: stochastic]",
        names=("--stochastic/--deterministic",),
    ),
    guidance=Option("Null rows for a model with text.  [default: guidance]"),
    name=Option("The model's name.  [default: that of the preset, or of the file or folder of --config]", click.STRING),
    force=Option("Replace an existing bundle."),
)
@gather("request", ExportRequest)
def export(request: ExportRequest) -> None:
    """Split CHECKPOINT into cache fill and cached denoise, and write a bundle.

    CHECKPOINT is a .safetensors or .pth file, a sharded index, or a folder of them. Without one, --random-init.
    """
    with needs_extra("export", "vdmrt export", fail=ExportError):
        architecture = load_config(request.config, latent_size=request.latent_size)
        make_geometry(architecture, request)
        check_bundle_place(request.output, replace=request.force)
        if request.checkpoint is not None:
            checkpoint_files(request.checkpoint)
        from .exporter import export_bundle  # torch: imported after all checks that do not need it

        with show_stages() as progress:
            model, origin = _make_model(architecture, request, progress)
            command = shlex.join(["vdmrt", *sys.argv[1:]])
            bundle = export_bundle(
                model,
                request.output,
                request,
                name=request.name or name_model(request.config),
                random_weights=request.checkpoint is None,
                provenance={"command": command, "config": request.config, **origin},
                replace=request.force,
                progress=progress,
            )
    click.echo(bundle.path)


def _make_model(
    architecture: Architecture, request: ExportRequest, progress: Callable[[str], None]
) -> tuple[Any, dict[str, str]]:
    """Return the model, and the provenance of its weights."""
    from .checkpoint import load_model, read_checkpoint
    from .exporter import random_model

    checkpoint, seed = request.checkpoint, request.random_init
    if checkpoint is None:
        assert seed is not None
        model = random_model(architecture, seed)
        _log.warning("the weights are random: the model's output is noise")
        return model, {"checkpoint": f"none: random weights of seed {seed}"}
    progress(f"reading {checkpoint}")
    found = read_checkpoint(checkpoint, weights=request.weights)
    if len(found.sets) > 1:
        taken, names = found.weights or "those without a name", ", ".join(found.sets)
        _log.info("the checkpoint has weights named %s: using %s; choose others with --weights", names, taken)
    model = load_model(architecture, found)
    progress(f"hashing {checkpoint}")
    origin = {"checkpoint": str(checkpoint), "checkpoint_sha256": checkpoint_sha256(checkpoint)}
    return model, origin | ({} if found.weights is None else {"weights": found.weights})
