"""Conversion of FP16 graphs to float32, for the CPU and as the reference of lower precision."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

    from .graph_file import GraphFile

__all__ = ["half_tensors", "infer_values", "tensor_types", "widen"]


def widen(graph: GraphFile, *, idle_casts: bool = False) -> GraphFile:
    """Return the same graph with every FP16 tensor in float32; the weights keep their values exactly.

    Args:
        graph: Graph with FP16 tensors.
        idle_casts: Whether Casts that become float32 to float32 stay.
    """
    import onnx

    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    model = type(graph.model)()
    model.CopyFrom(graph.model)
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == half:
            value.type.tensor_type.elem_type = single
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == half:
                attribute.i = single
    weights = {n: data.astype(np.float32) if data.dtype == np.float16 else data for n, data in graph.weights.items()}
    widened = replace(graph, model=model, weights=weights, float8=set(graph.float8))
    if not idle_casts:
        _drop_idle_casts(widened)
    return widened


def half_tensors(graph: GraphFile) -> list[str]:
    """Return the names of the FP16 tensors that the graph's nodes write, in order."""
    import onnx

    types = tensor_types(graph)
    return [name for node in graph.nodes for name in node.output if types.get(name) == onnx.TensorProto.FLOAT16]


def _drop_idle_casts(graph: GraphFile) -> None:
    """Remove Casts from float32 to float32, except those that write an output of the graph."""
    import onnx

    types = tensor_types(graph)
    outputs = {value.name for value in graph.model.graph.output}
    origin: dict[str, str] = {}
    kept = []
    for node in graph.nodes:
        for place, name in enumerate(node.input):
            node.input[place] = origin.get(name, name)
        if node.op_type == "Cast" and types[node.input[0]] == types[node.output[0]] == onnx.TensorProto.FLOAT:
            if node.output[0] not in outputs:
                origin[node.output[0]] = node.input[0]
                continue
        kept.append(node)
    graph.replace_nodes(kept)


def tensor_types(graph: GraphFile) -> dict[str, int]:
    """Return the element type of every tensor, ONNX's number, by name."""
    import onnx

    types = {name: value.type.tensor_type.elem_type for name, value in infer_values(graph).items()}
    for name, data in graph.weights.items():
        types[name] = onnx.helper.np_dtype_to_tensor_dtype(data.dtype)
    return types


def infer_values(graph: GraphFile) -> dict[str, onnx.ValueInfoProto]:
    """Return type and shape of every tensor that shape inference finds, by name."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(_with_described_weights(graph))
    return {v.name: v for v in (*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info)}


def _with_described_weights(graph: GraphFile) -> onnx.ModelProto:
    """Return the model with its weights as inputs, so that shape inference gets their types without their data."""
    import onnx

    model = type(graph.model)()
    model.CopyFrom(graph.model)
    for name, data in graph.weights.items():
        if data.nbytes < 1024:  # inference needs the values of shapes and axes
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(data), name))
        else:
            kind = onnx.helper.np_dtype_to_tensor_dtype(data.dtype)
            model.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, data.shape))
    return model
