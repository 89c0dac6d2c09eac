"""What exported graphs may consist of: operators that TensorRT's ONNX parser takes, the same in every opset in use."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from ..errors import ExportError

__all__ = ["OPSET", "check_operators"]

OPSET = 18

_FLOAT = frozenset({"FLOAT", "FLOAT16"})
_INDEX = frozenset({"INT32", "INT64"})
_ANY = _FLOAT | _INDEX | {"BOOL"}

# Operator → element types of its first input that TensorRT's parser takes, from operators.md of onnx-tensorrt
# (release/8.5-GA; later releases only add). Every one means the same from opset 16 to 18, except that
# LayerNormalization came with 17 and is expanded from its own function body for parsers of opset 16.
SUPPORTED: dict[str, frozenset[str]] = {
    "Add": _FLOAT | _INDEX,
    "Cast": _ANY,
    "Clip": _FLOAT | {"INT32"},
    "Concat": _ANY,
    "Conv": _FLOAT,
    "Cos": _FLOAT,
    "Div": _FLOAT | _INDEX,
    "Exp": _FLOAT,
    "Expand": _ANY,
    "Gather": _ANY,
    "Gemm": _FLOAT,
    "LayerNormalization": _FLOAT,
    "MatMul": _FLOAT,
    "Min": _FLOAT | _INDEX,
    "Mul": _FLOAT | _INDEX,
    "Neg": _FLOAT,
    "Reshape": _ANY,
    "Sigmoid": _FLOAT,
    "Sin": _FLOAT,
    "Slice": _ANY,
    "Softmax": _FLOAT,
    "Split": _ANY,
    "Squeeze": _ANY,
    "Sub": _FLOAT | _INDEX,
    "Tanh": _FLOAT,
    "Transpose": _ANY,
    "Unsqueeze": _ANY,
}


def check_operators(nodes: Iterable[ir.Node]) -> None:
    """Look every node up in the table.

    Raises:
        ExportError: An operator, its element type or an attribute is not one that TensorRT's parser takes.
    """
    for node in nodes:
        accepted = SUPPORTED.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if accepted is None:
            raise ExportError(
                f"node '{node.name}' is {node.domain or 'ai.onnx'}.{node.op_type}, which TensorRT's parser may not "
                f"take; supported are {', '.join(SUPPORTED)}"
            )
        first = node.inputs[0] if node.inputs else None
        if first is not None and first.dtype is not None and first.dtype.name not in accepted:
            raise ExportError(
                f"node '{node.name}' ({node.op_type}) reads {first.dtype.name}; TensorRT's parser takes "
                f"{', '.join(sorted(accepted))}"
            )
        if node.op_type == "Split" and "num_outputs" in node.attributes:
            raise ExportError(f"node '{node.name}' splits by num_outputs, which opset 16 does not know")
