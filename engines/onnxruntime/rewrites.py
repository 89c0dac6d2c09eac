"""Rewrites of a graph's functions for ONNX Runtime's CPU provider, in operators specific to it.

A call is replaced according to its function's name, together with the projection that only it reads, where that is
faster. The arithmetic is the same except for the order of sums.

Denoising steps of CausalSTDiT2-S/2 in float32, alternating with the exported graph (AMD EPYC, 2 threads, 2026-11-25,
ONNX Runtime 1.32.0): modulated norms alone 1.03 times as fast, spatial attention 1.045, cross-frame attention 1.015,
attention over the cache 1.02, all together 1.06.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass
from onnx_ir.tape import Tape

from ...bundle import FUNCTION_DOMAIN
from ...errors import BuildError
from ..forms import AS_EXPORTED

if TYPE_CHECKING:
    from ..forms import Forms

__all__ = ["rewrite"]

_DOMAIN = "com.microsoft"
_ATTENTION, _MULTI_HEAD, _FUSED = (f"{_DOMAIN}.{name}" for name in ("Attention", "MultiHeadAttention", "FusedMatMul"))
_NORM = "LayerNormalization"
_SPLIT = "SplitProjection"


def rewrite(model: ir.Model) -> Forms:
    """Replace every call of a function in place.

    Args:
        model: A graph of a bundle, with static shapes; its weights may be external.

    Returns:
        Number of calls replaced by each form, by the function's name. ``AS_EXPORTED`` calls are kept, with their body.

    Raises:
        BuildError: A function has no form here.
    """
    ShapeInferencePass()(model)  # a quantized graph lacks the shapes of inner tensors
    forms: dict[str, collections.Counter[str]] = {}
    calls = [node for node in model.graph if node.domain == FUNCTION_DOMAIN]
    for node in calls:
        if node.op_type == _SPLIT:
            continue
        if node.op_type not in _FORMS:
            known = ", ".join(sorted({*_FORMS, _SPLIT}))
            raise BuildError(f"ONNX Runtime has no form of '{FUNCTION_DOMAIN}.{node.op_type}', only of {known}")
        tape = Tape()
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        form, replaced = _FORMS[node.op_type](tape, *_operands(node), **attributes)
        forms.setdefault(node.op_type, collections.Counter())[form] += 1
        if replaced is not None:
            replaced.name, replaced.type, replaced.shape = (
                node.outputs[0].name,
                node.outputs[0].type,
                node.outputs[0].shape,
            )
            ir.convenience.replace_nodes_and_values(model.graph, node, [node], tape.nodes, node.outputs, [replaced])
    RemoveUnusedNodesPass()(model)
    _count_splits(model, calls, forms)
    model.opset_imports[_DOMAIN] = 1
    return {function: dict(found) for function, found in forms.items()}


def _count_splits(model: ir.Model, calls: list[ir.Node], forms: dict[str, collections.Counter[str]]) -> None:
    """Count the projections' splits: those that are no longer read were merged into the attention."""
    splits = sum(node.op_type == _SPLIT for node in calls)
    if splits:
        left = sum(node.op_type == _SPLIT for node in model.graph)
        counts = {AS_EXPORTED: left, f"part of {_ATTENTION}": splits - left}
        forms[_SPLIT] = collections.Counter({form: count for form, count in counts.items() if count})


# A form, and the value that replaces the call's output; None where the call is kept.
_Made = tuple[str, ir.Value | None]


def _attention(tape: Tape, query: ir.Value, key: ir.Value, value: ir.Value, scale: ir.Value) -> _Made:
    """Return projection and attention fused in one node, which also splits q, k and v, or attention alone."""
    batch, tokens, heads, size = _shape(query)
    attributes = {"num_heads": heads, "scale": _number(scale)}
    projection = _projection_of(query, key, value)
    if projection is None:
        rows = [_reshape(tape, part, (*_shape(part)[:2], heads * size)) for part in (query, key, value)]
        attended = tape.op("MultiHeadAttention", rows, attributes, domain=_DOMAIN)
        return _MULTI_HEAD, _reshape(tape, attended, _shape(query))
    x, weight, bias = projection.inputs
    assert x is not None
    tokens_of_x = _reshape(tape, x, (batch, tokens, heads * size))
    turned = tape.op("Transpose", [weight], {"perm": [1, 0]})
    attended = tape.op("Attention", [tokens_of_x, turned, bias], attributes, domain=_DOMAIN)
    return _ATTENTION, _reshape(tape, attended, _shape(query))


def _context_attention(tape: Tape, query: ir.Value, key: ir.Value, value: ir.Value, scale: ir.Value) -> _Made:
    """Return fused attention to keys and values in heads-first layout."""
    batch, tokens, heads, size = _shape(query)
    rows = _reshape(tape, query, (batch, tokens, heads * size))
    attributes = {"num_heads": heads, "scale": _number(scale)}
    attended = tape.op("MultiHeadAttention", [rows, key, value], attributes, domain=_DOMAIN)
    return _MULTI_HEAD, _reshape(tape, attended, _shape(query))


def _masked_attention(
    tape: Tape, query: ir.Value, key: ir.Value, value: ir.Value, scale: ir.Value, bias: ir.Value
) -> _Made:
    """Return attention over queries, keys and values in projected layout; only for one row, to drop its dimension."""
    if _shape(query)[0] != 1:
        return AS_EXPORTED, None
    scores = _scores(tape, query, key, scale)
    row_bias = _without_row(tape, bias) if len(_shape(bias)) == 4 else bias
    weights = tape.op("Softmax", [tape.op("Add", [scores, row_bias])], {"axis": -1})
    return _FUSED, _heads_last(tape, _mix(tape, weights, value), query)


def _cached_attention(
    tape: Tape,
    query: ir.Value,
    past_key: ir.Value,
    past_value: ir.Value,
    key: ir.Value,
    value: ir.Value,
    scale: ir.Value,
    bias: ir.Value,
    lengths: ir.Value,
) -> _Made:
    """Return attention over q, k and v in projected layout, and the cache in place; only for one row."""
    if _shape(query)[0] != 1:
        return AS_EXPORTED, None
    both = [
        _scores(tape, query, past_key, scale, heads_first=True),
        _scores(tape, query, key, scale),
    ]
    scores = tape.op("Add", [tape.op("Concat", both, {"axis": -1}), _without_row(tape, bias)])
    weights = tape.op("Softmax", [scores], {"axis": -1})
    past_weights, own_weights = tape.op_multi_out("Split", [weights, lengths], {"axis": -1}, num_outputs=2)
    past = tape.op("MatMul", [past_weights, _without_row(tape, past_value)])
    mixed = tape.op("Add", [past, _mix(tape, own_weights, value)])
    return _FUSED, _heads_last(tape, mixed, query)


def _modulated_norm(
    tape: Tape, x: ir.Value, ones: ir.Value, scale: ir.Value, shift: ir.Value, *, epsilon: float
) -> _Made:
    """Return normalization, scale and shift in one operator, where all tokens share one modulation."""
    width = _shape(x)[-1]
    if not prod(_shape(scale)) == prod(_shape(shift)) == width:
        return AS_EXPORTED, None
    vectors = [_reshape(tape, part, (width,)) for part in (scale, shift)]
    return _NORM, tape.op("LayerNormalization", [x, *vectors], {"axis": -1, "epsilon": epsilon})


_FORMS: dict[str, Callable[..., _Made]] = {
    "Attention": _attention,
    "CachedAttention": _cached_attention,
    "ContextAttention": _context_attention,
    "MaskedAttention": _masked_attention,
    "ModulatedNorm": _modulated_norm,
}


def _projection_of(*parts: ir.Value) -> ir.Node | None:
    """Return the floating-point product with columns split into three parts of equal shape, or None."""
    cuts = [_producer(part, "Reshape") for part in parts]
    if len({_shape(part) for part in parts}) > 1 or not all(cuts):
        return None
    sources = [cut.inputs[0] for cut in cuts if cut is not None]
    split = _producer(sources[0], _SPLIT)
    if split is None or list(split.outputs) != sources:
        return None
    product = _producer(split.inputs[0], "Gemm")
    if product is None or len(product.inputs) != 3 or product.attributes.get_int("transB", 0) != 1:
        return None
    weight = product.inputs[1]
    return product if weight is not None and weight.const_value is not None else None


def _producer(value: ir.Value | None, operator: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == operator else None


def _scores(tape: Tape, query: ir.Value, key: ir.Value, scale: ir.Value, *, heads_first: bool = False) -> ir.Value:
    """Return the scores [heads, n, m]; the product may take its batch from the second dimension."""
    attributes = {"alpha": _number(scale), "transBatchA": 1, "transBatchB": int(not heads_first), "transB": 1}
    return tape.op("FusedMatMul", [_without_row(tape, query), _without_row(tape, key)], attributes, domain=_DOMAIN)


def _mix(tape: Tape, weights: ir.Value, value: ir.Value) -> ir.Value:
    """Return [heads, n, d] of values [1, m, heads, d]."""
    return tape.op("FusedMatMul", [weights, _without_row(tape, value)], {"transBatchB": 1}, domain=_DOMAIN)


def _heads_last(tape: Tape, mixed: ir.Value, like: ir.Value) -> ir.Value:
    return _reshape(tape, tape.op("Transpose", [mixed], {"perm": [1, 0, 2]}), _shape(like))


def _without_row(tape: Tape, value: ir.Value) -> ir.Value:
    return _reshape(tape, value, _shape(value)[1:])


def _reshape(tape: Tape, value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
    return tape.op("Reshape", [value, tape.op("Constant", [], {"value_ints": list(shape)})])


def _operands(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs if value is not None]


def _shape(value: ir.Value) -> tuple[int, ...]:
    if value.shape is None or not value.shape.is_static():
        raise BuildError(f"the shape of '{value.name}' is unknown; graphs of a bundle need static shapes; export again")
    return tuple(value.shape.numpy())


def _number(value: ir.Value) -> float:
    if value.const_value is None:
        raise BuildError(f"the scale '{value.name}' of an attention is not a constant of the graph; export again")
    return float(value.const_value.numpy())
