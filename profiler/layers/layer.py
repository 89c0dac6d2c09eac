"""Layer times of the graphs from the backend's profiler, grouped by transformer block."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ...bundle import Stage, read_fields
from ..report.report import Layer

if TYPE_CHECKING:
    from ...bundle import Bundle, Graph, Precision
    from ...runtime.backends.layer_times import LayerTime

__all__ = ["describe_layers", "find_blocks", "group_layers", "name_layers"]

# Fields of onnx.proto: ModelProto.graph, GraphProto.node and .initializer, NodeProto, TensorProto.name.
_GRAPH, _NODE, _INITIALIZER, _INPUT, _OUTPUT, _NAME, _TENSOR_NAME = 7, 1, 5, 1, 2, 3, 8
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


def find_blocks(bundle: Bundle, graph: Graph) -> dict[str, int]:
    """Return the transformer block of every node and of every node's outputs, by name; -1 outside the blocks.

    A node that reads a weight, or the cache, of a block belongs to that block; nodes between two such nodes belong to
    the later one, because norms and modulations precede the products they serve.

    Raises:
        BundleError: The graph's file is missing.
    """
    anchors = _Anchors(bundle, graph)
    content = memoryview(bundle.locate(graph.file).read_bytes())
    (body,) = (content for field, content in read_fields(content) if field == _GRAPH)
    fields = list(read_fields(body))
    weights = {_text(content, _TENSOR_NAME) for field, content in fields if field == _INITIALIZER}
    blocks: dict[str, int] = {}
    waiting: list[str] = []
    for field, content in fields:
        if field != _NODE:
            continue
        parts = [(part, bytes(value).decode()) for part, value in read_fields(content) if part in (1, 2, 3)]
        waiting += [name for part, name in parts if part in (_NAME, _OUTPUT)]
        anchor = anchors.find([name for part, name in parts if part in (_INPUT, _OUTPUT)], weights)
        if anchor is not None:
            blocks |= dict.fromkeys(waiting, anchor)
            waiting.clear()
    return blocks | dict.fromkeys(waiting, -1)


def group_layers(stage: str, layers: Sequence[LayerTime], blocks: Mapping[str, int]) -> Iterator[Layer]:
    """Yield the layers of a graph, each in the block of most of its nodes, the later of two if equal.

    A layer that an optimizer created is in the block of the preceding layer; one that spans blocks is in none.

    Args:
        stage: "denoise" or "fill".
        layers: Layers in order of execution.
        blocks: Result of :func:`find_blocks`.
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
    if layers and backend == "tensorrt":
        yield (
            "layers were timed by TensorRT's profiler with a wait after each run, outside the captured CUDA graph: "
            "together they take longer than a step"
        )
    opaque = [layer for layer in layers if layer.name.startswith(_RANGE)]
    if opaque:
        share = max(
            sum(layer.share for layer in opaque if layer.stage == stage) for stage in (Stage.DENOISE, Stage.FILL)
        )
        which = "layers are whole subgraphs without details from TensorRT"
        yield f"{len(opaque)} {which}, up to {100 * share:.0f} % of a graph"


class _Anchors:
    """Tensors that belong to a block: its parameters, and its keys and values among the graph's inputs and outputs."""

    def __init__(self, bundle: Bundle, graph: Graph) -> None:
        before, after = bundle.manifest.parameters.block.split("{layer}")
        self._block = re.compile(rf"(?:^|\.){re.escape(before)}(\d+){re.escape(after)}")
        self._layers = {spec.name: spec.layer for spec in (*graph.inputs, *graph.outputs) if spec.layer is not None}

    def find(self, names: Sequence[str], weights: set[str]) -> int | None:
        """Return the block of the names, -1 for a weight outside the blocks, None if no name belongs to a block."""
        for name in names:
            found = self._block.search(name)
            if name in self._layers or found:
                return int(found[1]) if found else self._layers[name]
        return -1 if any(name in weights and name.endswith((".weight", ".bias")) for name in names) else None


def _text(message: memoryview, wanted: int) -> str:
    return next((bytes(content).decode() for field, content in read_fields(message) if field == wanted), "")
