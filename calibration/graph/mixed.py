"""Mixed precision: FP16 graphs with some layers in float32, for layers that lose accuracy in FP16.

The kept layers read and write float32, with Casts at their borders and the float32 weights of the bundle; inputs and
outputs of the graphs keep their types, so that the runtime needs no change.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...bundle import (
    FP16,
    FP16_MIXED,
    FP32,
    amended_bundle,
    check_amendable,
    format_nbytes,
    open_bundle,
)
from ...errors import CalibrationError
from ...hosts import need_packages
from ..choose.guard import layers_of
from ..publishing import with_weights, write_precision
from .graph_file import WeightsFile, load_graph
from .linears import find_linears
from .widening import half_tensors, tensor_types

if TYPE_CHECKING:
    from ...bundle import (
        Bundle,
        Precision,
    )
    from .graph_file import GraphFile

__all__ = ["MixedRequest", "MixedSummary", "half_layers", "keep_layers", "mix_precisions"]

_WIDE = ".float32"


@dataclass(frozen=True)
class MixedRequest:
    """Options of ``vdmrt calibrate --precision fp16``.

    Attributes:
        bundle: The bundle's folder.
        keep: Patterns of layers to compute in float32, such as ``blocks.0.mlp.*``.
    """

    bundle: Path
    keep: tuple[str, ...]


@dataclass(frozen=True)
class MixedSummary:
    """Result of adding mixed graphs to a bundle.

    Attributes:
        bundle: The bundle's folder.
        precisions: Precisions that were added or replaced.
        kept: Layers that are computed in float32.
        exact: Whether their weights are the bundle's float32 ones; otherwise they are widened from FP16.
        weights_nbytes: Additional bytes of weights compared with FP16.
    """

    bundle: str
    precisions: tuple[Precision, ...]
    kept: tuple[str, ...]
    exact: bool
    weights_nbytes: int

    def describe(self) -> str:
        """Return a summary in a few lines."""
        origin = "" if self.exact else ", widened from FP16: the bundle has no fp32 graphs"
        return (
            f"{self.bundle}: now has {', '.join(map(str, self.precisions))}\n"
            f"computed in float32: {', '.join(self.kept)}\n"
            f"{format_nbytes(self.weights_nbytes)} more of weights{origin}"
        )


def mix_precisions(request: MixedRequest) -> MixedSummary:
    """Add ``fp16-mixed`` to a bundle: its FP16 graphs with some layers in float32.

    A layer is a linear and the operators that follow until the next one, as in ``vdmrt verify --bisect``.
    The patterns are stored under ``fp16-mixed`` in the bundle's provenance.

    Raises:
        CalibrationError: The bundle lacks FP16 graphs, or a pattern matches no layer that they compute in FP16.
        BundleError: The bundle is altered or cannot be written.
    """
    need_packages("calibrate", "vdmrt calibrate", "onnx", fail=CalibrationError)
    bundle = open_bundle(request.bundle)
    check_amendable(bundle)
    bundle.verify()
    known = bundle.manifest.graphs
    if FP16 not in known:
        raise CalibrationError(
            f"{bundle.path}: has {', '.join(map(str, known))}, not fp16; export it again with --precision fp16"
        )
    half = {stage: load_graph(bundle, graph) for stage, graph in known[FP16].items()}
    exact = {stage: load_graph(bundle, graph) for stage, graph in known.get(FP32, {}).items()}
    kept = _choose_layers(half_layers(half.values()), request.keep)
    mixed = {stage: keep_layers(graph, kept, exact.get(stage)) for stage, graph in half.items()}
    _publish(bundle, half, mixed, shlex.join(part for pattern in request.keep for part in ("--keep", pattern)))
    return MixedSummary(str(bundle.path), (FP16_MIXED,), kept, bool(exact), _grown(half, mixed))


def half_layers(graphs: Iterable[GraphFile]) -> list[str]:
    """Return the layers that compute something in FP16, in order."""
    found: dict[str, None] = {}
    for graph in graphs:
        layers = layers_of(graph)
        found |= dict.fromkeys(layers[name] for name in half_tensors(graph))
    return list(found)


def keep_layers(graph: GraphFile, kept: Collection[str], exact: GraphFile | None) -> GraphFile:
    """Return an FP16 graph that computes some layers in float32.

    Args:
        graph: Graph with FP16 tensors; it is not changed.
        kept: Names of layers.
        exact: The same graph in float32, for the weights of kept linears; None widens the weights of ``graph``.
    """
    mixed = graph.copy()
    writer = _Writer(mixed, kept, exact)
    mixed.replace_nodes(_without_unread(mixed, [made for node in mixed.nodes for made in writer.rewrite(node)]))
    return mixed


class _Writer:
    """Writer of the nodes of a graph with kept layers. Tensors keep their type; float32 copies get new names."""

    def __init__(self, graph: GraphFile, kept: Collection[str], exact: GraphFile | None) -> None:
        self._graph, self._kept = graph, kept
        self._layers, self._types = layers_of(graph), tensor_types(graph)
        self._outputs = {value.name for value in graph.model.graph.output}
        self._widen_linears(exact or graph)
        # Float32 copy of each FP16 tensor, and the tensor to read in place of a removed Cast to float32.
        self._wide: dict[str, str] = {}
        self._renamed: dict[str, str] = {}

    def _widen_linears(self, exact: GraphFile) -> None:
        """Give the kept linears float32 weights under the same names: nothing else reads them."""
        from onnx import TensorProto

        own = [one for one in find_linears(self._graph) if one.name in self._kept]
        for name in (name for one in own for name in (one.weight, one.bias) if name):
            self._graph.weights[name] = np.asarray(exact.weights[name], np.float32)
            self._types[name] = TensorProto.FLOAT

    def rewrite(self, node: Any) -> list[Any]:
        """Return the replacement of a node; it may contain nodes with unused outputs."""
        node.input[:] = [self._renamed.get(name, name) for name in node.input]
        kept = any(self._layers[name] in self._kept for name in node.output)
        if node.op_type == "Cast":
            return self._rewrite_cast(node, kept)
        return self._widened(node) if kept else [node]

    def _rewrite_cast(self, node: Any, kept: bool) -> list[Any]:
        source, output = node.input[0], node.output[0]
        if self._is_single(source) and self._is_half(output):
            # Kept layers read the float32 input of this Cast.
            self._wide[output] = source
        elif self._is_half(source) and self._is_single(output) and (kept or self._layers.get(source) in self._kept):
            before, wide = self._widen(source)
            if output in self._outputs:
                node.input[0] = wide
                return [*before, node]
            self._renamed[output] = wide
            return before
        return [node]

    def _widened(self, node: Any) -> list[Any]:
        from onnx import TensorProto

        before: list[Any] = []
        for place, name in enumerate(node.input):
            if self._is_half(name):
                casts, node.input[place] = self._widen(name)
                before += casts
        after = []
        for place, name in enumerate(node.output):
            if self._is_half(name):
                node.output[place] = self._wide[name] = f"{name}{_WIDE}"
                after.append(_cast(f"{name}{_WIDE}", name, TensorProto.FLOAT16))
        return [*before, node, *after]

    def _widen(self, name: str) -> tuple[list[Any], str]:
        """Return the nodes that compute a tensor's float32 copy, and its name."""
        from onnx import TensorProto

        if name in self._wide:
            return [], self._wide[name]
        wide = self._wide[name] = self._graph.fresh_name(f"{name}{_WIDE}")
        if name not in self._graph.weights:
            return [_cast(name, wide, TensorProto.FLOAT)], wide
        self._graph.weights[wide] = np.asarray(self._graph.weights[name], np.float32)
        return [], wide

    def _is_half(self, name: str) -> bool:
        from onnx import TensorProto

        return self._types.get(name) == TensorProto.FLOAT16

    def _is_single(self, name: str) -> bool:
        from onnx import TensorProto

        return self._types.get(name, TensorProto.FLOAT) == TensorProto.FLOAT  # float32 copies have no entry


def _cast(source: str, output: str, kind: int) -> Any:
    from onnx.helper import make_node

    return make_node("Cast", [source], [output], name=f"{output}.cast", to=kind)


def _without_unread(graph: GraphFile, nodes: Sequence[Any]) -> list[Any]:
    """Return the nodes with an output that is read or is an output of the graph."""
    read = {value.name for value in graph.model.graph.output}
    used = []
    for node in reversed(nodes):
        if read & set(node.output):
            read |= set(node.input)
            used.append(node)
    return used[::-1]


def _choose_layers(layers: Sequence[str], patterns: Sequence[str]) -> tuple[str, ...]:
    for pattern in patterns:
        if not fnmatch.filter(layers, pattern):
            raise CalibrationError(
                f"--keep {pattern!r} matches no layer in FP16; the names are {', '.join(layers[:6])} and so on"
            )
    return tuple(layer for layer in layers if any(fnmatch.fnmatchcase(layer, pattern) for pattern in patterns))


def _publish(bundle: Bundle, half: Mapping[str, GraphFile], mixed: Mapping[str, GraphFile], patterns: str) -> None:
    manifest = bundle.manifest
    name = f"graphs/weights.{FP16_MIXED}.bin"
    with amended_bundle(bundle, without={name, *(f"graphs/{stage}.{FP16_MIXED}.onnx" for stage in mixed)}) as writer:
        weights = WeightsFile(writer.path / name)
        sources = {stage: (manifest.graphs[FP16][stage], graph) for stage, graph in half.items()}
        written = write_precision(writer, str(FP16_MIXED), mixed, sources, weights, None)
        writer.finish(
            dataclasses.replace(
                manifest,
                graphs={**manifest.graphs, FP16_MIXED: with_weights(written, writer.record(name))},
                provenance={**manifest.provenance, str(FP16_MIXED): patterns},
            )
        )


def _grown(half: Mapping[str, GraphFile], mixed: Mapping[str, GraphFile]) -> int:
    """Return the additional bytes of weights, each counted once for all graphs."""
    return _read_nbytes(mixed.values()) - _read_nbytes(half.values())


def _read_nbytes(graphs: Iterable[GraphFile]) -> int:
    read: dict[str, int] = {}
    for graph in graphs:
        names = {name for node in graph.nodes for name in node.input}
        read |= {name: int(data.nbytes) for name, data in graph.weights.items() if name in names}
    return sum(read.values())
