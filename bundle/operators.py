"""Operators of a bundle's graphs: functions of the domain ``vdmrt``, and operators that every parser accepts.

Attentions and modulated norms are calls of model-local functions with bodies in standard operators, so that an engine
builder finds each by its name and replaces it by the form that its compiler handles best. Code that needs single
operators (costs, observed tensors, graphs for older parsers) inlines the functions first, with ``onnx.inliner``;
everything else keeps the calls. The operators and element types are those of TensorRT 8.5, the oldest release
supported.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["FUNCTION_DOMAIN", "OLDEST_PARSER_OPSET", "PARSED_TYPES", "find_unsupported"]

FUNCTION_DOMAIN = "vdmrt"

# The parser also reads 17, but lacks LayerNormalization, the only operator in use that came with it.
OLDEST_PARSER_OPSET = 16

_FLOAT = frozenset({"float32", "float16"})
_NUMBER = _FLOAT | {"int32", "int64"}
_ANY = _NUMBER | {"bool"}

# Operator → element types of its first input, from docs/operators.md of onnx-tensorrt at release/8.5-GA; later releases
# only add. int64 counts as int32, to which the parser casts it. Only operators that vdmrt's graphs use: look a new
# operator up there before adding it.
PARSED_TYPES: Mapping[str, frozenset[str]] = {
    "Add": _NUMBER,
    "Cast": _ANY,
    "Clip": _FLOAT,  # and int8, but no int32
    "Concat": _ANY,
    "Constant": _ANY,
    "Conv": _FLOAT,
    "Cos": _FLOAT,
    "DequantizeLinear": frozenset({"int8"}),
    "Div": _NUMBER,
    "Exp": _FLOAT,
    "Expand": _ANY,
    "Gather": _ANY,
    "Gemm": _FLOAT,
    "MatMul": _FLOAT,
    "Min": _NUMBER,
    "Mul": _NUMBER,
    "Neg": _NUMBER,
    "QuantizeLinear": frozenset({"float32"}),  # and float16 in the parser, but not in ONNX before opset 19
    "ReduceMean": _FLOAT,
    "Reshape": _ANY,
    "Sigmoid": _FLOAT,
    "Sin": _FLOAT,
    "Slice": _ANY,
    "Softmax": _FLOAT,
    "Split": _ANY,
    "Sqrt": _FLOAT,
    "Squeeze": _ANY,
    "Sub": _NUMBER,
    "Tanh": _FLOAT,
    "Transpose": _ANY,
    "Unsqueeze": _ANY,
}


def find_unsupported(operator: str, domain: str, dtype: str | None) -> str | None:
    """Return why the parser of TensorRT 8.5 rejects a node; None if it accepts it.

    Args:
        operator: The node's operator, as "MatMul".
        domain: The operator's domain; "" and "ai.onnx" are the standard one.
        dtype: Element type of the node's first input, as "float32"; None where it has none or it is not known.
    """
    accepted = PARSED_TYPES.get(operator) if domain in ("", "ai.onnx") else None
    if accepted is None:
        return f"{domain or 'ai.onnx'}.{operator} is not supported by the parser of TensorRT 8.5"
    if dtype is not None and dtype not in accepted:
        return f"{operator} reads {dtype}; the parser of TensorRT 8.5 accepts {', '.join(sorted(accepted))}"
    return None
