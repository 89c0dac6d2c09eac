"""The command ``vdmrt build``."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..bundle import BACKENDS, PRECISIONS, PROVIDERS, choose_precision, open_bundle, parse_target
from ..console.options import Option, gather, options_of
from ..console.sections import SectionedCommand
from ..errors import BackendError, EngineError
from ._kernels_cli import echo_report
from .request import BuildRequest
from .tensorrt.options import BuildOptions

if TYPE_CHECKING:
    from ..bundle import Bundle, Engine, Precision
    from ..console.composition import Composition

__all__ = ["build"]

_log = logging.getLogger("vdmrt")
_GATE_MISSED = 3
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


class Target(click.ParamType[Any]):
    """A GPU that TensorRT for RTX builds for, such as ``sm89`` or ``8.9``."""

    name = "TARGET"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Parse the option."""
        try:
            return parse_target(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Size(click.ParamType[Any]):
    """A number of bytes such as ``4GiB``, ``512M`` or ``1073741824``."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the option."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?", str(value).lower())
        nbytes = int(float(found[1]) * _UNITS[found[2]]) if found else 0
        if not 1 <= nbytes < 2**63:
            self.fail(f"wanted a size like 4GiB or 512MiB, got {value!r}", param, ctx)
        return nbytes


def _make_options(**given: Any) -> BuildOptions:
    try:
        return BuildOptions(**given)
    except ValueError as error:
        raise click.UsageError(str(error), click.get_current_context()) from error


@click.command(cls=SectionedCommand)
@click.argument("bundle", type=click.Path(path_type=Path))
@options_of(
    BuildRequest,
    backend=Option(
        "Backend that runs the engine: on this machine's GPU, on any GPU of TensorRT for RTX, or in ONNX Runtime.",
        click.Choice(tuple(BACKENDS)),
    ),
    provider=Option(
        "Execution provider of ONNX Runtime that runs the engine: on this CPU, or on any NVIDIA GPU.",
        click.Choice(tuple(PROVIDERS)),
    ),
    precision=Option(
        "Precision of the graphs.  [default: for TensorRT fp16, for ONNX Runtime fp32, where the bundle has it]",
        click.Choice(PRECISIONS),
        metavar="PRECISION",
    ),
    gpu=Option("Index of the GPU, in the driver's order.", click.IntRange(0)),
)
@options_of(
    BuildOptions,
    targets=Option(
        "GPU to build for with TensorRT for RTX, such as sm89; repeatable.  [default: this machine's, else portable]",
        Target(),
        names=("--target",),
        multiple=True,
    ),
    portable=Option("Build for every GPU of TensorRT for RTX from Ampere on, even where this machine has one."),
    optimization_level=Option(
        "How long to search for faster kernels.", click.IntRange(0, 5), names=("--builder-optimization-level",)
    ),
    workspace_nbytes=Option("Most scratch memory that a layer may use, such as 4GiB.", Size(), names=("--workspace",)),
    timing_cache=Option("File of kernel timings, reused by later builds.", click.Path(path_type=Path)),
    hardware_compatibility=Option(
        "Other GPUs on which the plans run.", click.Choice(["none", "ampere_plus", "same_compute_capability"])
    ),
    version_compatible=Option("Newer TensorRT, up to the next major, may run the plans with a lean runtime."),
    strip_weights=Option("Leave the weights out of the plans; loading restores them."),
    refit=Option("Weights may be replaced in the plans."),
    weight_streaming_fill=Option("The weights of the cache fill may be kept in host memory."),
    tf32=Option("Float32 products may be rounded to TF32."),
    external_tactics=Option("Use cuBLAS and cuDNN (before TensorRT 11)."),
    precision_constraints=Option(
        "How strictly a TensorRT before 10 keeps the graph's types.", click.Choice(["obey", "prefer", "none"])
    ),
)
@options_of(
    BuildRequest,
    check=Option(
        "Check that the built engine runs, agrees with ONNX Runtime and is faster; auto skips long checks.",
        click.Choice(["auto", "full", "off"]),
    ),
)
@click.option("--dry-run", is_flag=True, help="Print what would be built, and the closest trtexec commands.")
@options_of(BuildRequest, force=Option("Build an engine that exists already, or does not seem to fit."))
@click.option(
    "--accept-slower", is_flag=True, help="Exit with 0 even where a quantized engine is not shown to be faster."
)
@click.option("--report", is_flag=True, help="Print what TensorRT made of the graphs, like vdmrt inspect --kernels.")
@click.option("--json", "as_json", is_flag=True, help="Print the engine's manifest as JSON, with --report its stages.")
@gather("options", BuildOptions, _make_options)
@gather("request", BuildRequest)
def build(
    bundle: Path,
    request: BuildRequest,
    options: BuildOptions,
    dry_run: bool,
    accept_slower: bool,
    report: bool,
    as_json: bool,
) -> None:
    """Build an engine of BUNDLE: TensorRT's for this GPU, TensorRT for RTX's for any GPUs, ONNX Runtime's for this CPU.

    TensorRT for RTX, and ONNX Runtime with --provider cuda, need neither a GPU nor a driver to build.
    Prints its folder. An engine that exists already is not built again. Ctrl-C leaves no half-built engine; during the
    check it leaves an engine without the check, which the next build completes.
    A quantized engine is timed against a floating point one of this bundle; exit status 3 where it is not
    shown to be faster.
    """
    if request.backend == "onnxruntime":
        _refuse({"targets", "portable"}, "TensorRT for RTX", request)
        _refuse({"gpu", "report", *(field.name for field in dataclasses.fields(BuildOptions))}, "TensorRT", request)
    else:
        _refuse({"provider"}, "ONNX Runtime", request)
    opened = open_bundle(bundle)
    if dry_run:
        _print_dry_run(opened, request, options)
        return
    composed: Composition = click.get_current_context().obj
    engine = composed.build(opened, request, options)
    _print_engine(opened, engine, report, as_json)
    slow = [one for one in engine.manifest.checks if one.is_of_speed and not one.passed]
    for one in slow:
        click.echo(
            f"{one.detail}; the engine was built and stays in {engine.path}: delete that folder, or accept it with "
            "--accept-slower",
            err=True,
        )
    if slow and not accept_slower:
        sys.exit(_GATE_MISSED)


def _print_engine(bundle: Bundle, engine: Engine, report: bool, as_json: bool) -> None:
    """Print an engine's folder or its manifest, and the report of its kernels if wanted."""
    manifest = (engine.path / "manifest.json").read_text(encoding="utf-8").rstrip()
    if not (report and as_json):
        click.echo(manifest if as_json else engine.path)
    if report:
        from .kernels.report import read_report

        found = read_report(engine, bundle)
        if as_json:
            click.echo(json.dumps(json.loads(manifest) | {"stages": found.to_json()["stages"]}, indent=1))
        else:
            echo_report(found)


def _refuse(own: set[str], owner: str, request: BuildRequest) -> None:
    """Refuse another library's options, which would have no effect."""
    context = click.get_current_context()
    for param in context.command.params:
        source = context.get_parameter_source(param.name or "")
        if param.name in own and source is not None and source.name != "DEFAULT":
            message = f"{param.opts[0]} is for {owner}; leave it out with --backend {request.backend}"
            raise click.UsageError(message, context)


def _print_dry_run(bundle: Bundle, request: BuildRequest, options: BuildOptions) -> None:
    if request.backend == "onnxruntime":
        _print_models(bundle, request)
    else:
        _print_plan(bundle, request, options)


def _print_models(bundle: Bundle, request: BuildRequest) -> None:
    """Print the plan of an ONNX Runtime build."""
    from ..bundle import ENGINES_FOLDER, format_nbytes
    from ..hosts.onnxruntime import describe_machine
    from .onnxruntime.models import ModelOptions, load_onnxruntime, model_key
    from .planner import plan_engine

    chosen = choose_precision(bundle, request.precision, "onnxruntime")
    options = ModelOptions(provider=request.provider)
    machine = describe_machine(load_onnxruntime(), request.provider)
    plan = plan_engine(bundle, chosen, None)
    click.echo(f"weights         {format_nbytes(plan.weights_nbytes)}, where they are, and what the optimizer changes")
    click.echo(f"KV cache        {format_nbytes(plan.cache_nbytes)} a lane")
    key = model_key(bundle, chosen, machine, options)
    if machine.cpu:
        click.echo(f"CPU             {machine.cpu}")
    click.echo(f"engine          {bundle.path / ENGINES_FOLDER / key}")


def _print_plan(bundle: Bundle, request: BuildRequest, options: BuildOptions) -> None:
    """Print the plan of a build; lines that depend on a GPU or on the library only where they are available."""
    from ..bundle import ENGINES_FOLDER, stage_graphs
    from .building import describe_options, describe_targets, fit_options, open_builder
    from .keys import engine_key
    from .planner import plan_engine

    library = None
    try:
        library, options = open_builder(request.backend, request.gpu, options)
    except BackendError as error:
        _log.warning("%s", error)
    chosen = choose_precision(bundle, request.precision, request.backend)
    graphs = stage_graphs(bundle, chosen)
    for line in plan_engine(bundle, chosen, library.gpu if library else None).lines():
        click.echo(line)
    if library is not None:
        options = fit_options(library, options, graphs)
        key = engine_key(chosen, graphs, library.machine, describe_options(options, library))
        click.echo(f"engine          {bundle.path / ENGINES_FOLDER / key}")
    if request.backend == "tensorrt":
        _print_trtexec_lines(bundle, chosen, options, library.version if library else None)
    else:
        click.echo(describe_targets(options))


def _print_trtexec_lines(bundle: Bundle, precision: Precision, options: BuildOptions, version: str | None) -> None:
    """Print a command for each stage that builds the closest plan."""
    from ..bundle import stage_graphs
    from .building import trtexec_line
    from .tensorrt.lowering import find_source

    for stage, graph in stage_graphs(bundle, precision).items():
        source = bundle.locate(graph.file)
        if version is not None:
            try:
                source = find_source(bundle, graph, version).path
            except EngineError as error:  # not lowered yet; a build does that first
                _log.info("%s", error)
        click.echo(trtexec_line(source, stage, precision, options, version))
