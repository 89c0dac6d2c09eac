"""Rewrites of a graph's calls of functions into operators that a provider of ONNX Runtime has fast kernels for.

A call is replaced according to its function's name. The arithmetic is the same except for the order of sums.
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass
from onnx_ir.tape import Tape

from ...bundle import FUNCTION_DOMAIN
from ...errors import BuildError
from ..forms import AS_EXPORTED
from .operands import DOMAIN

if TYPE_CHECKING:
    from ..forms import Forms as Counts
    from .operands import Forms

__all__ = ["SPLIT", "rewrite"]

SPLIT = "SplitProjection"


def rewrite(model: ir.Model, forms: Forms) -> Counts:
    """Replace every call of a function in place.

    Args:
        model: A graph of a bundle, with static shapes; its weights may be external.
        forms: The provider's form of each function.

    Returns:
        Number of calls replaced by each form, by the function's name. ``AS_EXPORTED`` calls are kept, with their body.

    Raises:
        BuildError: A function has no form.
    """
    ShapeInferencePass()(model)  # a quantized graph lacks the shapes of inner tensors
    counts: dict[str, collections.Counter[str]] = {}
    calls = [node for node in model.graph if node.domain == FUNCTION_DOMAIN]
    for node in calls:
        if node.op_type != SPLIT:
            counts.setdefault(node.op_type, collections.Counter())[_replace(model, node, forms)] += 1
    RemoveUnusedNodesPass()(model)
    _count_splits(model, calls, counts)
    model.opset_imports[DOMAIN] = 1
    return {function: dict(found) for function, found in counts.items()}


def _replace(model: ir.Model, node: ir.Node, forms: Forms) -> str:
    """Replace a call, unless its form keeps it; return the form's name."""
    if node.op_type not in forms:
        known = ", ".join(sorted({*forms, SPLIT}))
        raise BuildError(f"ONNX Runtime has no form of '{FUNCTION_DOMAIN}.{node.op_type}', only of {known}")
    tape = Tape()
    operands = [value for value in node.inputs if value is not None]
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    form, replaced = forms[node.op_type](tape, *operands, **attributes)
    if replaced is not None:
        (output,) = node.outputs
        replaced.name, replaced.type, replaced.shape = output.name, output.type, output.shape
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], tape.nodes, [output], [replaced])
    return form


def _count_splits(model: ir.Model, calls: list[ir.Node], counts: dict[str, collections.Counter[str]]) -> None:
    """Count the projections' splits: those that are no longer read were merged into the attention."""
    splits = sum(node.op_type == SPLIT for node in calls)
    if splits:
        left = sum(node.op_type == SPLIT for node in model.graph)
        found = {AS_EXPORTED: left, f"part of {DOMAIN}.Attention": splits - left}
        counts[SPLIT] = collections.Counter({form: count for form, count in found.items() if count})
