"""The network that the recorder's parser reads: one layer for each ONNX node, types and shapes from the file."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .plans import ONNX_TYPES

__all__ = ["Node", "ParsedGraph", "Tensor", "Unsupported", "is_supported", "kind_of", "layer_type_of", "parse_graph"]

_ELEMENTWISE = {"Add", "And", "Div", "Equal", "Greater", "Less", "Max", "Min", "Mul", "Or", "Pow", "Sub"}
_UNARY = {"Abs", "Cos", "Erf", "Exp", "Floor", "Log", "Neg", "Not", "Reciprocal", "Sin", "Sqrt"}
_ACTIVATION = {"Clip", "Relu", "Sigmoid", "Softplus", "Tanh"}
_SHUFFLE = {"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
_LAYERS = {
    "Concat": "CONCATENATION", "Constant": "CONSTANT", "Conv": "CONVOLUTION", "DequantizeLinear": "DEQUANTIZE",
    "Expand": "SLICE", "Gather": "GATHER", "Gemm": "MATRIX_MULTIPLY", "Identity": "IDENTITY",
    "MatMul": "MATRIX_MULTIPLY", "QuantizeLinear": "QUANTIZE", "Shape": "SHAPE", "Slice": "SLICE", "Softmax": "SOFTMAX",
    "Split": "SLICE", "Where": "SELECT",
}  # fmt: skip
# Operators that older parsers lack, and the first release that has them.
_SINCE = {
    "LayerNormalization": (8, 6), "GroupNormalization": (10, 0), "Gelu": (10, 0), "Attention": (10, 14),
    "RMSNormalization": (10, 15), "RotaryEmbedding": (10, 15), "TensorScatter": (10, 15), "Swish": (10, 15),
}  # fmt: skip
_NEWEST_OPSET = {(8, 5): 17, (10, 3): 20, (10, 16): 24, (11, 4): 24}


@dataclass
class Tensor:
    """A tensor of the graph; the shape is empty if the file does not have it."""

    name: str
    dtype: str
    shape: list[int]


@dataclass
class Node:
    """A node: its operator, inputs and outputs."""

    name: str
    operator: str
    inputs: list[Tensor]
    outputs: list[Tensor]


@dataclass
class ParsedGraph:
    """The content of an ONNX file."""

    name: str
    inputs: list[Tensor]
    outputs: list[Tensor]
    nodes: list[Node]
    weights_nbytes: int


class Unsupported(ValueError):
    """The parser rejects a node; has the node and the reason."""

    def __init__(self, index: int, name: str, operator: str, code: str, text: str) -> None:
        super().__init__(text)
        self.index, self.name, self.operator, self.code = index, name, operator, code


def parse_graph(data: bytes, folder: Path | None, release: tuple[int, int], lacking: set[str]) -> ParsedGraph:
    """Read an ONNX file.

    Args:
        data: The file.
        folder: Folder of its external data, or None if the caller did not pass it.
        release: Release of the parser.
        lacking: Further operators that the parser lacks.

    Raises:
        Unsupported: The data is not an ONNX file, its weights are missing, or a node is not supported.
    """
    import onnx

    try:
        model = onnx.load(io.BytesIO(data), load_external_data=False)
    except Exception as error:
        raise Unsupported(-1, "", "", "MODEL_DESERIALIZE_FAILED", "Failed to parse ONNX model") from error
    opset = max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0)
    if opset > _NEWEST_OPSET[release]:
        raise Unsupported(-1, "", "", "UNSUPPORTED_GRAPH", f"opset {opset} is newer than the parser supports")
    known = {tensor.name: tensor for tensor in _typed(model.graph)}
    graph = model.graph
    nbytes = sum(_check_weights(item, folder) for item in graph.initializer)
    nodes = list(_nodes(graph, known, release, lacking))
    weights = {item.name for item in graph.initializer}
    return ParsedGraph(
        graph.name,
        [known[item.name] for item in graph.input if item.name not in weights],
        [known[item.name] for item in graph.output],
        nodes,
        nbytes,
    )


def is_supported(operator: str, release: tuple[int, int], lacking: set[str]) -> bool:
    """Whether the parser of a release has an operator."""
    return operator not in lacking and _SINCE.get(operator, (0, 0)) <= release


def layer_type_of(operator: str, release: tuple[int, int]) -> str:
    """Return the LayerType that a parser creates for an operator."""
    if operator == "Cast":
        return "CAST" if release >= (8, 6) else "IDENTITY"
    if operator == "LayerNormalization":
        return "NORMALIZATION"
    for kind, operators in (
        ("ELEMENTWISE", _ELEMENTWISE), ("UNARY", _UNARY), ("ACTIVATION", _ACTIVATION), ("SHUFFLE", _SHUFFLE),
    ):  # fmt: skip
        if operator in operators:
            return kind
    return _LAYERS.get(operator, "REDUCE" if operator.startswith("Reduce") else "IDENTITY")


def kind_of(operator: str, major: int) -> str:
    """Return the LayerType that the engine inspector shows for an operator."""
    if operator in ("MatMul", "Gemm"):
        return "MatrixMultiply" if major < 10 else "gemm"
    if operator == "Conv":
        return "CaskConvolution"
    if operator in ("Concat", "Transpose"):
        return "Reformat" if major < 10 else "kgen"
    return {"Constant": "Constant", "Reshape": "NoOp"}.get(operator, "PointWiseV2" if major < 10 else "kgen")


def _typed(graph: Any) -> Iterator[Tensor]:
    for item in graph.initializer:
        yield Tensor(item.name, ONNX_TYPES.get(item.data_type, str(item.data_type)), list(item.dims))
    for item in (*graph.value_info, *graph.input, *graph.output):
        tensor = item.type.tensor_type
        shape = [side.dim_value if side.HasField("dim_value") else -1 for side in tensor.shape.dim]
        yield Tensor(item.name, ONNX_TYPES.get(tensor.elem_type, str(tensor.elem_type)), shape)


def _nodes(graph: Any, known: dict[str, Tensor], release: tuple[int, int], lacking: set[str]) -> Iterator[Node]:
    for item in graph.initializer:
        yield Node(item.name, "Constant", [], [known[item.name]])
    for index, node in enumerate(graph.node):
        if not is_supported(node.op_type, release, lacking):
            text = "No importer registered for op: " + node.op_type
            raise Unsupported(index, node.name, node.op_type, "UNSUPPORTED_NODE", text)
        inputs = [known.get(name) or Tensor(name, "float32", []) for name in node.input if name]
        for name in node.output:
            # Without a type in the file, an output has the type of the first input.
            known.setdefault(name, Tensor(name, inputs[0].dtype if inputs else "float32", []))
        yield Node(node.name, node.op_type, inputs, [known[name] for name in node.output])


def _check_weights(item: Any, folder: Path | None) -> int:
    if item.data_location != 1:
        return len(item.raw_data)
    entries = {entry.key: entry.value for entry in item.external_data}
    path = (folder or Path(os.curdir)) / entries["location"]
    if not path.is_file():
        text = f"Failed to open file: {path}"
        raise Unsupported(-1, item.name, "", "INVALID_GRAPH", text)
    end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
    if path.stat().st_size < end:
        raise Unsupported(-1, item.name, "", "INVALID_GRAPH", f"Failed to load weights from external file: {path}")
    return int(entries.get("length", 0))
