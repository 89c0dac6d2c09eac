"""What a bundle is, what a run of it costs, and what its engines are, from its ``model.json`` and their manifests."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..bundle import Bundle, Engine, Graph, Machine, Plan, format_nbytes, list_engines

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["cache_nbytes", "inspect_bundle", "render_inspection"]


def inspect_bundle(bundle: Bundle) -> dict[str, Any]:
    """Return the manifest with derived figures, ready for JSON.

    Adds, for each precision, the cache's bytes, the bytes one autoregressive step writes to it, the bytes of weights,
    and the FLOPs of an autoregressive step at the default number of denoising steps; and the engines' manifests.

    Raises:
        EngineError: An engine's manifest is damaged.
    """
    document = dataclasses.asdict(bundle.manifest)
    steps = bundle.manifest.sampler.steps
    document["path"] = str(bundle.path)
    document["derived"] = {
        precision: {
            "cache_nbytes": cache_nbytes(bundle, precision),
            "scatter_nbytes": _scatter_nbytes(bundle, precision),
            "weights_nbytes": _weights_nbytes(graphs["denoise"]),
            "flops_per_chunk": graphs["fill"].flops + steps * graphs["denoise"].flops,
            "cache_copies_nbytes_per_step": sum(copy.nbytes for copy in graphs["denoise"].cache_copies),
        }
        for precision, graphs in bundle.manifest.graphs.items()
    }
    document["engines"] = [
        {"path": str(engine.path), **dataclasses.asdict(engine.manifest)} for engine in list_engines(bundle)
    ]
    return document


def cache_nbytes(bundle: Bundle, precision: str) -> int:
    """Return the bytes of the KV cache of one lane: 2·L·K·B·S·C elements."""
    return bundle.manifest.geometry.cache_elements * _element_nbytes(bundle, precision)


def render_inspection(bundle: Bundle, console: Console) -> None:
    """Print a bundle for people."""
    m = bundle.manifest
    g = m.geometry
    _print_line(console, f"{m.name} ({m.family}, predicts {m.prediction}) at {bundle.path}", style="bold")
    if m.random_weights:
        _print_line(console, "random weights: whatever it makes means nothing", style="yellow")
    rows = [
        (
            "latent",
            f"{g.latent_channels} channels, {g.latent_height} × {g.latent_width}, {g.tokens_per_frame} tokens",
        ),
        ("transformer", f"{g.layers} layers, {g.heads} heads of {g.head_size}"),
        ("chunk", f"{g.chunk_frames} latent frames, at most {g.max_steps} denoising steps"),
        ("KV cache", f"{g.slots} slots, {g.requests} requests × {g.rows_per_request} rows"),
        ("positions", f"{g.positions}, table of {g.position_count}"),
        ("context", f"{g.context} {g.context_frames} latent frames" if g.context else "none"),
        ("text", f"{g.text_tokens} tokens of {g.text_width}" if g.text_width else "none"),
        ("sampler", f"{m.sampler.name}, {m.sampler.steps} steps, guidance {m.sampler.guidance:g}"),
        (
            "codec",
            f"{m.codec.kind}, pictures {m.codec.picture_size[0]} × {m.codec.picture_size[1]}" if m.codec else "none",
        ),
    ]
    console.print(_table("", rows))
    console.print(_cost_table(bundle))
    for precision in m.graphs:
        for told in (m.accuracy_of(precision), m.speed_of(precision)):
            if told is not None:
                _print_line(console, told.describe())
    for precision, graphs in m.graphs.items():
        for stage, graph in graphs.items():
            _print_copies(console, f"{stage}.{precision}", graph)
    console.print(_tensor_table(next(iter(m.graphs.values()))))
    for engine in list_engines(bundle):
        _print_engine(console, engine, bundle)
    console.print(_table("provenance", list(m.provenance.items())))


def _element_nbytes(bundle: Bundle, precision: str) -> int:
    """Return the bytes of one element of the cache."""
    spec = next(s for s in bundle.manifest.graphs[precision]["fill"].outputs if s.name == "present_k.0")
    return spec.nbytes // math.prod(spec.shape)


def _scatter_nbytes(bundle: Bundle, precision: str) -> int:
    g = bundle.manifest.geometry
    return g.cache_elements // g.slots * g.chunk_frames * _element_nbytes(bundle, precision)


def _weights_nbytes(graph: Graph) -> int:
    return graph.weights.nbytes if graph.weights else 0


def _print_line(console: Console, line: str, *, style: str | None = None) -> None:
    """Print what may hold brackets, which rich would take for markup, and paths, which it would break."""
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def _table(title: str, rows: list[tuple[str, str]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, show_header=False, box=None, title_justify="left", pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _cost_table(bundle: Bundle) -> Any:
    from rich.table import Table

    table = Table(title="cost", title_justify="left")
    table.add_column("precision", no_wrap=True)
    for column in ("cache", "written per chunk", "weights", "fill", "denoising step", "cache copies"):
        table.add_column(column, justify="right")
    for precision, graphs in bundle.manifest.graphs.items():
        copied = sum(copy.nbytes for copy in graphs["denoise"].cache_copies)
        table.add_row(
            precision,
            format_nbytes(cache_nbytes(bundle, precision)),
            format_nbytes(_scatter_nbytes(bundle, precision)),
            format_nbytes(_weights_nbytes(graphs["denoise"])),
            f"{graphs['fill'].flops / 1e9:.3g} GFLOP",
            f"{graphs['denoise'].flops / 1e9:.3g} GFLOP",
            f"{format_nbytes(copied)} a step",
        )
    return table


def _print_copies(console: Console, stage: str, graph: Graph) -> None:
    for copy in graph.cache_copies:
        line = f"{stage}: {copy.operator} '{copy.node}' copies {format_nbytes(copy.nbytes)} of '{copy.tensor}' a run"
        _print_line(console, line)


def _print_engine(console: Console, engine: Engine, bundle: Bundle) -> None:
    from rich.table import Table
    from rich.text import Text

    manifest = engine.manifest
    machine = manifest.machine
    _print_line(console, f"engine {manifest.key}", style="bold")
    _print_line(console, f"{_say_machine(machine)}, built {manifest.created}")
    table = Table(title_justify="left")
    for column in ("stage", "plan", "scratch", "built in", "layers", "layers by type", "products", "cache copies"):
        table.add_column(column, justify="left" if column in ("stage", "layers by type", "products") else "right")
    for stage, plan in manifest.plans.items():
        table.add_row(*(Text(cell) for cell in (stage, *_plan_cells(plan))))
    console.print(table)
    graphs = bundle.manifest.graphs.get(manifest.precision, {})
    for stage, plan in manifest.plans.items():
        wanted = sum(copy.nbytes for copy in graphs[stage].cache_copies) if stage in graphs else 0
        found = sum(copy.nbytes for copy in plan.audit.cache_copies) if plan.audit else 0
        if found or wanted:
            line = (
                f"{stage}: the plan copies {format_nbytes(found)} of the cache a run, the graph {format_nbytes(wanted)}"
            )
            _print_line(console, line)
    for check in manifest.checks:
        style = None if check.passed else "yellow"
        _print_line(console, f"{check.name}: {'yes' if check.passed else 'no'}, {check.detail}", style=style)


def _say_machine(machine: Machine) -> str:
    if machine.backend == "onnxruntime":
        return f"ONNX Runtime {machine.onnxruntime}, {machine.provider}, on a CPU with {machine.cpu}"
    return (
        f"TensorRT {machine.tensorrt} on {machine.gpu} (compute capability {machine.compute_capability}, driver "
        f"{machine.driver or 'not known'} for CUDA {machine.cuda})"
    )


def _plan_cells(plan: Plan) -> tuple[str, ...]:
    sizes = (format_nbytes(plan.file.nbytes), format_nbytes(plan.scratch_nbytes), f"{plan.build_seconds:.1f} s")
    if plan.audit is None:
        return (*sizes, "", "", "", "")
    audit = plan.audit
    products = dict(audit.products)
    if audit.unknown_products:
        products["out of sight"] = audit.unknown_products
    return (
        *sizes,
        str(audit.layers),
        _counted(audit.precisions),
        _counted(products),
        format_nbytes(sum(copy.nbytes for copy in audit.cache_copies)),
    )


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def _tensor_table(graphs: Any) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="tensors", title_justify="left")
    for column in ("graph", "", "name", "dtype", "shape"):
        table.add_column(column)
    for stage, graph in graphs.items():
        for side, specs in (("in", graph.inputs), ("out", graph.outputs)):
            for spec in specs:
                stem, _, layer = spec.name.partition(".")
                if layer not in ("", "0"):
                    continue
                name = f"{stem}.0 …" if layer else stem
                cells = (stage, side, name, spec.dtype, ", ".join(map(str, spec.shape)))
                table.add_row(*(Text(cell) for cell in cells))
    return table
