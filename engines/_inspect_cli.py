"""The command ``vdmrt inspect``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..bundle import (
    PORTABLE_TARGETS,
    Stage,
    format_count,
    format_flops,
    format_nbytes,
    list_engines,
    open_bundle,
    read_measured,
    verify_engine,
)
from ..console.sections import SectionedCommand
from ..console.tables import make_table, open_console
from ._kernels_cli import check_request, kernel_options, print_kernels
from .forms import describe_forms
from .inspection import cache_nbytes, inspect_bundle, scatter_nbytes, weights_nbytes

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ..bundle import (
        Accuracy,
        Bundle,
        Engine,
        EngineManifest,
        Graph,
        Manifest,
        Plan,
        Speed,
    )
    from ..console.composition import Composition
    from .kernels.request import KernelRequest

__all__ = ["inspect"]

_FIGURES = ("plan", "scratch", "built in", "layers", "layers by type", "products", "8 bit products", "cache copies")


@click.command(cls=SectionedCommand)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--verify", is_flag=True, help="Check every file's SHA-256 too, the engines' included.")
@click.option(
    "--polygraphy",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Print Polygraphy commands that inspect and compare graphs and plans, and write their inputs, taken from a "
    "short rollout past a full cache, into FOLDER.",
)
@kernel_options
def inspect(bundle: Path, as_json: bool, verify: bool, polygraphy: Path | None, request: KernelRequest) -> None:
    """Show BUNDLE's geometry, tensors, cache bytes, FLOPs, weights, nodes that copy the cache, and engines.

    With --kernels, show what TensorRT made of the graphs instead; exit status 3 where a limit is exceeded.
    """
    check_request(request, polygraphy)
    opened = open_bundle(bundle)
    if verify:
        opened.verify()
        for engine in list_engines(opened):
            verify_engine(engine)
    if polygraphy is not None:
        composed: Composition = click.get_current_context().obj
        click.echo("\n".join(composed.write_polygraphy(opened, polygraphy)))
        return
    if request.kernels:
        print_kernels(opened, request, as_json)
        return
    if as_json:
        click.echo(json.dumps(inspect_bundle(opened), indent=1))
        return
    _print_bundle(opened, open_console())


def _print_bundle(bundle: Bundle, console: Console) -> None:
    """Print a bundle as tables.

    Raises:
        EngineError: An engine's manifest is damaged.
    """
    m = bundle.manifest
    _print_line(console, f"{m.name} ({m.family}, predicts {m.prediction}) at {bundle.path}", style="bold")
    if m.random_weights:
        _print_line(console, "random weights: the output is meaningless", style="yellow")
    console.print(make_table("", _model_rows(m)))
    _print_table(console, _cost_table(bundle))
    measured = read_measured(bundle)
    results: list[Accuracy | Speed] = [*measured.accuracy, *measured.speeds]
    for result in results:
        _print_line(console, result.describe())
    for precision, graphs in m.graphs.items():
        for stage, graph in graphs.items():
            _print_copies(console, f"{stage}.{precision}", graph)
    tensors = _tensor_rows(next(iter(m.graphs.values())))
    _print_table(console, make_table("tensors", tensors, header=("graph", "", "name", "dtype", "shape")))
    for engine in list_engines(bundle):
        _print_engine(console, engine, bundle)
    _print_table(console, make_table("provenance", m.provenance.items()))


def _print_line(console: Console, line: str, *, style: str | None = None) -> None:
    """Print a line without rich's markup and wrapping: it may contain brackets and paths."""
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def _print_table(console: Console, table: Table) -> None:
    console.print()
    console.print(table)


def _model_rows(m: Manifest) -> Iterator[tuple[str, str]]:
    g, sampler = m.geometry, m.sampler
    yield "latent", f"{g.latent_channels} channels, {g.latent_height} × {g.latent_width}, {g.tokens_per_frame} tokens"
    yield "transformer", f"{format_count(g.layers, 'layer')}, {format_count(g.heads, 'head')} of {g.head_size}"
    steps = format_count(g.max_steps, "denoising step")
    yield "chunk", f"{format_count(g.chunk_frames, 'latent frame')}, at most {steps}"
    requests, rows = format_count(g.requests, "request"), format_count(g.rows_per_request, "row")
    sinks = f" with {format_count(g.policy.sinks, 'sink')}" if g.policy.sinks else ""
    yield "KV cache", f"{g.layout}, {format_count(g.slots, 'slot')}{sinks}, {requests} × {rows}"
    yield "positions", f"{g.positions.kind}, table of {g.positions.count}" if g.positions.count else "none"
    yield "context", f"{g.context} {format_count(g.context_frames, 'latent frame')}" if g.context else "none"
    yield "text", f"{format_count(g.text_tokens, 'token')} of {g.text_width}" if g.text_width else "none"
    yield "sampler", f"{sampler.name}, {format_count(sampler.steps, 'step')}, guidance {sampler.guidance:g}"
    yield "codec", f"{m.codec}, pictures {' × '.join(map(str, m.picture_size))}" if m.picture_size else "none"


def _cost_table(bundle: Bundle) -> Table:
    """Return the memory of a lane and the cost of a run, a column for each precision."""
    graphs = bundle.manifest.graphs
    fill, denoise = ([stages[stage] for stages in graphs.values()] for stage in (Stage.FILL, Stage.DENOISE))
    figures = {
        "KV cache": [format_nbytes(cache_nbytes(bundle, precision)) for precision in graphs],
        "cache written per chunk": [format_nbytes(scatter_nbytes(bundle, precision)) for precision in graphs],
        "cache copied per step": [format_nbytes(sum(copy.nbytes for copy in graph.cache_copies)) for graph in denoise],
        "weights": [format_nbytes(weights_nbytes(graph)) for graph in denoise],
        "cache fill": [format_flops(graph.flops) for graph in fill],
        "denoising step": [format_flops(graph.flops) for graph in denoise],
    }
    rows = [(name, *values) for name, values in figures.items()]
    return make_table("cost", rows, header=("", *map(str, graphs)), right=True)


def _print_copies(console: Console, stage: str, graph: Graph) -> None:
    for copy in graph.cache_copies:
        line = f"{stage}: {copy.operator} '{copy.node}' copies {format_nbytes(copy.nbytes)} of '{copy.tensor}' a run"
        _print_line(console, line)


def _tensor_rows(graphs: Mapping[str, Graph]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each tensor; of tensors that every layer has, only the first layer's."""
    for stage, graph in graphs.items():
        for side, specs in (("in", graph.inputs), ("out", graph.outputs)):
            for spec in specs:
                if spec.layer in (None, 0):
                    name = spec.name if spec.layer is None else f"{spec.name} …"
                    yield stage, side, name, spec.dtype, ", ".join(map(str, spec.shape))


def _print_engine(console: Console, engine: Engine, bundle: Bundle) -> None:
    manifest = engine.manifest
    console.print()
    _print_line(console, f"engine {manifest.key}", style="bold")
    _print_line(console, f"{_describe_machine(manifest)}, built {manifest.created}")
    console.print(_plan_table(manifest.plans))
    graphs = bundle.manifest.graphs.get(manifest.precision, {})
    for stage, plan in manifest.plans.items():
        wanted = sum(copy.nbytes for copy in graphs[stage].cache_copies) if stage in graphs else 0
        found = sum(copy.nbytes for copy in plan.audit.cache_copies) if plan.audit else 0
        if found or wanted:
            line = (
                f"{stage}: the plan copies {format_nbytes(found)} of the cache a run, the graph {format_nbytes(wanted)}"
            )
            _print_line(console, line)
        for form in describe_forms(plan.forms or {}):
            _print_line(console, f"{stage}: {form}")
    for check in manifest.checks:
        style = None if check.passed else "yellow"
        _print_line(console, f"{check.name}: {'yes' if check.passed else 'no'}, {check.detail}", style=style)


def _describe_machine(manifest: EngineManifest) -> str:
    machine = manifest.machine
    if machine.backend == "onnxruntime":
        bound = f"ONNX Runtime {machine.onnxruntime}, {machine.provider}"
        return f"{bound}, on a CPU with {machine.cpu}" if machine.cpu else bound
    if machine.backend == "tensorrt-rtx":
        gpus = ", ".join(manifest.targets or PORTABLE_TARGETS)
        return f"TensorRT for RTX {machine.tensorrt_rtx} for GPUs of compute capability {gpus}"
    return (
        f"TensorRT {machine.tensorrt} on {machine.gpu} (compute capability {machine.compute_capability}, driver "
        f"{machine.driver or 'not known'} for CUDA {machine.cuda})"
    )


def _plan_table(plans: Mapping[str, Plan]) -> Table:
    """Return the figures of the plans, a column for each stage."""
    figures = [_plan_figures(plan) for plan in plans.values()]
    rows = [(name, *(each.get(name, "") for each in figures)) for name in _FIGURES if any(name in e for e in figures)]
    return make_table("", rows, header=("", *plans))


def _plan_figures(plan: Plan) -> dict[str, str]:
    figures = {
        "plan": format_nbytes(plan.file.nbytes),
        "scratch": format_nbytes(plan.scratch_nbytes),
        "built in": f"{plan.build_seconds:.1f} s",
    }
    if plan.audit is None:
        return figures
    audit, products = plan.audit, dict(plan.audit.products)
    if audit.unknown_products:
        products["unknown"] = audit.unknown_products
    if audit.quantized_weights:
        figures["8 bit products"] = f"{audit.quantized_products} of {format_count(audit.quantized_weights, 'weight')}"
    return figures | {
        "layers": str(audit.layers),
        "layers by type": _describe_counts(audit.precisions),
        "products": _describe_counts(products),
        "cache copies": format_nbytes(sum(copy.nbytes for copy in audit.cache_copies)),
    }


def _describe_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
