"""Layer times of the graphs from the backend's profiler, grouped by transformer block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ...bundle import BACKENDS, Stage, find_blocks
from ..report.report import Layer

if TYPE_CHECKING:
    from ...bundle import Bundle, Precision
    from ...runtime.backends.layer_times import LayerTime

__all__ = ["describe_layers", "group_layers", "name_layers"]

# A whole subgraph of TensorRT's compiler, named after its first and its last node.
_RANGE = "{ForeignNode["


def name_layers(bundle: Bundle, precision: Precision, times: Mapping[str, Sequence[LayerTime]]) -> tuple[Layer, ...]:
    """Return every layer's time with the transformer block that it belongs to.

    Args:
        bundle: Of the graphs.
        precision: Of the graphs.
        times: By stage, as :func:`~vdmrt.profiler.layers.timing.time_layers` returns them.
    """
    graphs = bundle.graphs(precision)
    return tuple(
        layer
        for stage, layers in times.items()
        for layer in group_layers(stage, layers, find_blocks(bundle, graphs[Stage(stage)]))
    )


def group_layers(stage: str, layers: Sequence[LayerTime], blocks: Mapping[str, int]) -> Iterator[Layer]:
    """Yield the layers of a graph, each in the block of most of its nodes, the later of two if equal.

    A layer that an optimizer created is in the block of the preceding layer; one that spans blocks is in none.

    Args:
        stage: "denoise" or "fill".
        layers: Layers in order of execution.
        blocks: Result of :func:`~vdmrt.bundle.find_blocks`.
    """
    whole = sum(layer.milliseconds for layer in layers) or 1.0
    block = -1
    for layer in layers:
        found = Counter(blocks[node] for node in layer.nodes if node in blocks)
        spans = layer.name.startswith(_RANGE) and len(found) > 1
        if found:
            block = max(found, key=lambda number: (found[number], number))
        yield Layer(
            stage, -1 if spans else block, layer.name, layer.operator, layer.milliseconds, layer.milliseconds / whole
        )


def describe_layers(layers: Sequence[Layer], backend: str) -> Iterator[str]:
    """Yield notes on how to interpret layer times.

    Args:
        layers: Layers of a report.
        backend: Name of the backend.
    """
    traits = BACKENDS.get(backend)
    if layers and traits is not None and traits.is_native:
        yield (
            f"layers were timed by {traits.title}'s profiler with a wait after each run, outside the captured CUDA "
            "graph: together they take longer than a step"
        )
    opaque = [layer for layer in layers if layer.name.startswith(_RANGE)]
    if opaque:
        share = max(
            sum(layer.share for layer in opaque if layer.stage == stage) for stage in (Stage.DENOISE, Stage.FILL)
        )
        which = "layers are whole subgraphs without details from TensorRT"
        yield f"{len(opaque)} {which}, up to {100 * share:.0f} % of a graph"
