"""Check of the operators in exported graphs: every supported ONNX parser accepts them with the same meaning."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx_ir as ir

from ..bundle import OLDEST_PARSER_OPSET, find_unsupported
from ..errors import ExportError

__all__ = ["OPSET", "check_operators"]

OPSET = 18

# Decomposed into supported operators when an engine is built for the oldest parser.
_LOWERED = frozenset({"LayerNormalization"})


def check_operators(nodes: Iterable[ir.Node]) -> None:
    """Check every node against the operators of the oldest parser.

    Raises:
        ExportError: An operator, its element type or an attribute is not one that the parser accepts.
    """
    for node in nodes:
        if node.op_type in _LOWERED:
            continue
        dtype = node.inputs[0].dtype if node.inputs and node.inputs[0] is not None else None
        reason = find_unsupported(node.op_type, node.domain, dtype.numpy().name if dtype is not None else None)
        if reason is not None:
            raise ExportError(f"node '{node.name}': {reason}")
        _check_meaning(node)


def _check_meaning(node: ir.Node) -> None:
    """Check that an operator has the same meaning in the oldest parser's opset."""
    if node.op_type == "Split":
        if "num_outputs" in node.attributes:  # the only change in opset 18
            raise ExportError(f"node '{node.name}' (Split) has num_outputs, which opset {OLDEST_PARSER_OPSET} lacks")
        return
    since = onnx.defs.get_schema(node.op_type, OPSET).since_version
    if since > OLDEST_PARSER_OPSET:
        raise ExportError(f"node '{node.name}' ({node.op_type}) changed in opset {since}, after {OLDEST_PARSER_OPSET}")
