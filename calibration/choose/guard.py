"""FP16 range guard: tensors of the FP16 graphs whose values in float32 rollouts come near FP16's maximum, 65,504."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...bundle import FP16, Stage
from ..gates import SAFE
from ..graph.graph_file import (
    WeightsFile,
    load_graph,
    save_graph,
)
from ..graph.linears import find_linears
from ..graph.widening import half_tensors, widen
from ..observe.instrument import open_session

if TYPE_CHECKING:
    from ...bundle import Bundle, Precision
    from ..graph.graph_file import (
        GraphFile,
    )

__all__ = ["Guard", "Large", "layers_of"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Large:
    """A tensor with values too large to be safe in FP16.

    Attributes:
        stage: "fill" or "denoise".
        tensor: Its name in the graph.
        layer: The linear that writes it, or the last one before it.
        largest: Its largest absolute value.
    """

    stage: str
    tensor: str
    layer: str
    largest: float

    def describe(self) -> str:
        """Return a description in one line."""
        return (
            f"{self.layer} ({self.stage}, tensor '{self.tensor}') reaches {self.largest:.4g}; FP16's maximum is 65,504"
        )


class Guard:
    """Float32 copies of the FP16 graphs that report the largest value of every FP16 tensor.

    A quantized precision has the same FP16 tensors where it does not quantize, so the FP16 graphs cover it.

    Attributes:
        largest: Largest absolute value by stage and tensor.
    """

    def __init__(self, bundle: Bundle, precision: Precision, folder: Path) -> None:
        """Write and load the copies.

        Args:
            bundle: Bundle with the graphs.
            precision: Precision to watch; one without FP16 tensors is not watched.
            folder: Folder for the files; the caller keeps it for the lifetime of this object.
        """
        self.largest: dict[tuple[str, str], float] = {}
        self._sessions: dict[str, Any] = {}
        self._layers: dict[tuple[str, str], str] = {}
        known = bundle.manifest.graphs
        for stage in (Stage.FILL, Stage.DENOISE):
            if FP16 not in known or not half_tensors(load_graph(bundle, known[precision][stage])):
                continue
            graph = load_graph(bundle, known[FP16][stage]).inlined()
            watched = _watched(graph)
            if watched:
                path = folder / f"guard.{stage}.onnx"
                save_graph(_with_largest(widen(graph), watched), path, WeightsFile(path.with_suffix(".bin")))
                self._sessions[stage] = open_session(path)
                self._layers |= {(stage, name): layer for name, layer in layers_of(graph).items()}

    def follow(self, stage: str, tensors: Mapping[str, Array]) -> None:
        """Run the copies on the inputs of a float32 reference's run; usable as a tap."""
        if stage not in self._sessions:
            return
        session = self._sessions[stage]
        feeds = {value.name: tensors[value.name] for value in session.get_inputs()}
        names = [value.name for value in session.get_outputs()]
        for name, value in zip(names, session.run(names, feeds), strict=True):
            key = stage, name.removeprefix("largest:")
            # NaN counts as larger than anything, so that the tensor is reported.
            self.largest[key] = max(self.largest.get(key, 0.0), float(value) if np.isfinite(value) else np.inf)

    def over(self, bound: float = SAFE) -> list[Large]:
        """Return the tensors with values above ``bound``, the largest first."""
        found = [
            Large(stage, name, self._layers[stage, name], value)
            for (stage, name), value in self.largest.items()
            if value > bound
        ]
        return sorted(found, key=lambda one: -one.largest)

    @property
    def highest(self) -> float:
        """Largest absolute value of all tensors; 0 where none is FP16."""
        return max(self.largest.values(), default=0.0)


def _watched(graph: GraphFile) -> list[str]:
    """Return the FP16 tensors to watch: without those that only move values, and without masks."""
    computed = {name for node in graph.nodes for name in node.output if node.op_type in _COMPUTING}
    masks = {name for node in graph.nodes if node.op_type == "Mul" for name in node.output if _is_mask(graph, node)}
    return [name for name in half_tensors(graph) if name in computed - masks]


# Scores have the mask added and reach -30,000 by design; the inputs of that sum are watched, not the sum.
_COMPUTING = ("Gemm", "MatMul", "Mul", "Div", "Sub", "LayerNormalization")


def _is_mask(graph: GraphFile, node: Any) -> bool:
    constants = [np.asarray(graph.weights[name]) for name in node.input if name in graph.weights]
    return any(one.size == 1 and abs(float(one.reshape(-1)[0])) >= SAFE for one in constants)


def layers_of(graph: GraphFile) -> dict[str, str]:
    """Return for each tensor the linear that writes it, or the last one before it."""
    names = {linear.node: linear.name for linear in find_linears(graph)}
    last = "the input"
    layers: dict[str, str] = {}
    for node in graph.nodes:
        last = names.get(node.name, last)
        layers |= dict.fromkeys(node.output, last)
    return layers


def _with_largest(graph: GraphFile, watched: list[str]) -> GraphFile:
    """Return the graph with the largest absolute value of each watched tensor as its only outputs."""
    import onnx
    from onnx.helper import make_node, make_tensor_value_info

    watching = graph.copy()
    written = {name for node in watching.nodes for name in node.output}
    del watching.model.graph.output[:]
    for name in watched:
        if name not in written:  # a Cast that float32 does not need
            continue
        watching.model.graph.node.extend(
            [
                make_node("Abs", [name], [f"absolute:{name}"]),
                make_node("ReduceMax", [f"absolute:{name}"], [f"largest:{name}"], keepdims=0),
            ]
        )
        watching.model.graph.output.append(make_tensor_value_info(f"largest:{name}", onnx.TensorProto.FLOAT, None))
    return watching
