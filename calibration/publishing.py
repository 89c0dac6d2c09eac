"""Writer of quantized graphs as a further precision of a bundle: files, tensor table, costs and hashes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..bundle import FP8, CacheCopy
from ..errors import CalibrationError
from .graph.formats import FORMATS
from .graph.graph_file import save_graph

if TYPE_CHECKING:
    from ..bundle import Artifact, BundleWriter, EightBits, Graph, TensorSpec
    from .graph.graph_file import GraphFile, WeightsFile

__all__ = ["with_weights", "write_precision"]

_NBYTES = {"float32": 4, "float16": 2}
_EIGHT_BITS = [kind.dtype for kind in FORMATS.values()]


def write_precision(
    writer: BundleWriter,
    label: str,
    graphs: Mapping[str, GraphFile],
    sources: Mapping[str, tuple[Graph, GraphFile]],
    weights: WeightsFile,
    quantized: EightBits | None,
) -> dict[str, Graph]:
    """Write the graphs of a precision.

    Args:
        writer: Writer of the bundle.
        label: The precision's name.
        graphs: Graphs to write, by stage.
        sources: Source of each graph by stage, as in model.json and opened.
        weights: File for the weights, under ``graphs/`` of the bundle; may be shared with another precision.
        quantized: The 8 bit type of the linears.

    Returns:
        The graphs by stage; the caller records their weights after writing all precisions.

    Raises:
        CalibrationError: ONNX's checker refuses a graph.
    """
    written = {}
    for stage, graph in graphs.items():
        path = writer.path / "graphs" / f"{stage}.{label}.onnx"
        weights_nbytes = save_graph(graph, path, weights)
        _check(path)
        before, opened = sources[stage]
        inputs = tuple(_retyped(spec, graph) for spec in before.inputs)
        outputs = tuple(_retyped(spec, graph) for spec in before.outputs)
        copies = [
            copy for copy in before.cache_copies if copy.tensor not in {c.tensor for c in _dequantized(graph, inputs)}
        ]
        written[stage] = dataclasses.replace(
            before,
            file=writer.record(f"graphs/{path.name}"),
            weights=None,
            inputs=inputs,
            outputs=outputs,
            nbytes_moved=before.nbytes_moved
            + weights_nbytes
            - sum(data.nbytes for data in opened.weights.values())
            + sum(spec.nbytes for spec in (*inputs, *outputs))
            - sum(spec.nbytes for spec in (*before.inputs, *before.outputs)),
            cache_copies=(*copies, *_dequantized(graph, inputs)),
            quantized=quantized,
        )
    return written


def with_weights(graphs: Mapping[str, Graph], weights: Artifact) -> dict[str, Graph]:
    """Return graphs that refer to a weights file."""
    return {stage: dataclasses.replace(graph, weights=weights) for stage, graph in graphs.items()}


def _retyped(spec: TensorSpec, graph: GraphFile) -> TensorSpec:
    import onnx

    values = {value.name: value for value in (*graph.model.graph.input, *graph.model.graph.output)}
    kind = values[spec.name].type.tensor_type.elem_type
    fp8 = FORMATS[FP8]
    retyped: Any = fp8.dtype if kind == fp8.onnx_type else onnx.helper.tensor_dtype_to_np_dtype(kind).name
    return dataclasses.replace(spec, dtype=retyped)


def _dequantized(graph: GraphFile, inputs: tuple[TensorSpec, ...]) -> list[CacheCopy]:
    """Return a copy for each dequantization of an 8 bit cache: backends that do not fuse it write a copy."""
    specs = {spec.name: spec for spec in inputs if spec.dtype in _EIGHT_BITS}
    return [
        CacheCopy(
            node.name, node.op_type, node.input[0], math.prod(specs[node.input[0]].shape) * _scale_nbytes(graph, node)
        )
        for node in graph.nodes
        if node.op_type == "DequantizeLinear" and node.input[0] in specs
    ]


def _scale_nbytes(graph: GraphFile, node: Any) -> int:
    return _NBYTES[graph.weights[node.input[1]].dtype.name]


def _check(path: Any) -> None:
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CalibrationError(f"{path.name}: the checker refuses the graph: {error}") from error
