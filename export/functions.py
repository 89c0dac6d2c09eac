"""Model-local functions of exported graphs: attentions and modulated norms, with bodies in standard operators.

Queries, keys and values of the same pass are tokens first, [batch, n, heads, d]; stored ones are heads first.
``scale`` is a scalar of the query's type, and multiplies the query before the first product, so that FP16 scores cannot
overflow.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import Tensor

from ..bundle import FUNCTION_DOMAIN
from .operators import OPSET

__all__ = ["call", "call_split_projection", "define_functions"]

_VERSION = 1
# Concatenating the cached and the chunk's keys would copy the whole cache in every denoising step; the scores are much
# smaller. The transposed operand of a product is read in place. Keys times queries would avoid this Transpose but need
# one of the scores; on ONNX Runtime it was no faster (2026-11-22, AMD EPYC, 2 threads).
_BODIES = {
    "Attention": """(query, key, value, scale) => (attended) {
        turned_query = Transpose <perm = [0, 2, 1, 3]> (query)
        scaled_query = Mul (turned_query, scale)
        turned_key = Transpose <perm = [0, 2, 3, 1]> (key)
        scores = MatMul (scaled_query, turned_key)
        weights = Softmax <axis = -1> (scores)
        turned_value = Transpose <perm = [0, 2, 1, 3]> (value)
        mixed = MatMul (weights, turned_value)
        attended = Transpose <perm = [0, 2, 1, 3]> (mixed)
    }""",
    "MaskedAttention": """(query, key, value, scale, bias) => (attended) {
        turned_query = Transpose <perm = [0, 2, 1, 3]> (query)
        scaled_query = Mul (turned_query, scale)
        turned_key = Transpose <perm = [0, 2, 3, 1]> (key)
        scores = MatMul (scaled_query, turned_key)
        biased_scores = Add (scores, bias)
        weights = Softmax <axis = -1> (biased_scores)
        turned_value = Transpose <perm = [0, 2, 1, 3]> (value)
        mixed = MatMul (weights, turned_value)
        attended = Transpose <perm = [0, 2, 1, 3]> (mixed)
    }""",
    "ContextAttention": """(query, key, value, scale) => (attended) {
        turned_query = Transpose <perm = [0, 2, 1, 3]> (query)
        scaled_query = Mul (turned_query, scale)
        turned_key = Transpose <perm = [0, 1, 3, 2]> (key)
        scores = MatMul (scaled_query, turned_key)
        weights = Softmax <axis = -1> (scores)
        mixed = MatMul (weights, value)
        attended = Transpose <perm = [0, 2, 1, 3]> (mixed)
    }""",
    "CachedAttention": """(query, past_key, past_value, key, value, scale, bias, lengths) => (attended) {
        turned_query = Transpose <perm = [0, 2, 1, 3]> (query)
        scaled_query = Mul (turned_query, scale)
        turned_past_key = Transpose <perm = [0, 1, 3, 2]> (past_key)
        past_scores = MatMul (scaled_query, turned_past_key)
        turned_key = Transpose <perm = [0, 2, 3, 1]> (key)
        own_scores = MatMul (scaled_query, turned_key)
        scores = Concat <axis = -1> (past_scores, own_scores)
        biased_scores = Add (scores, bias)
        weights = Softmax <axis = -1> (biased_scores)
        past_weights, own_weights = Split <axis = -1> (weights, lengths)
        past_mixed = MatMul (past_weights, past_value)
        turned_value = Transpose <perm = [0, 2, 1, 3]> (value)
        own_mixed = MatMul (own_weights, turned_value)
        mixed = Add (past_mixed, own_mixed)
        attended = Transpose <perm = [0, 2, 1, 3]> (mixed)
    }""",
    "SplitProjection": """(packed, sizes) => (query, key, value) {
        query, key, value = Split <axis = -1> (packed, sizes)
    }""",
    "ModulatedNorm": """<epsilon> (x, ones, scale, shift) => (modulated) {
        normed = LayerNormalization <axis = -1, epsilon: float = @epsilon, stash_type = 1> (x, ones)
        scaled = Mul (normed, scale)
        modulated = Add (scaled, shift)
    }""",
}


def call(function: str, first: Tensor, *operands: Tensor, **attributes: float) -> Tensor:
    """Call a function in the graph being traced; the result has the first operand's shape and type."""
    given: dict[str, Any] = dict(attributes)
    return torch.onnx.ops.symbolic(
        f"{FUNCTION_DOMAIN}::{function}",
        (first, *operands),
        given,
        dtype=first.dtype,
        shape=first.shape,
        version=_VERSION,
    )


def call_split_projection(packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Call the function that splits packed queries, keys and values [rows, 3 * C] in the graph being traced."""
    width = packed.shape[-1] // 3
    query, key, value = torch.onnx.ops.symbolic_multi_out(
        f"{FUNCTION_DOMAIN}::SplitProjection",
        (packed, torch.tensor([width] * 3)),
        dtypes=[packed.dtype] * 3,
        shapes=[(packed.shape[0], width)] * 3,
        version=_VERSION,
    )
    return query, key, value


def define_functions(names: Collection[str]) -> list[ir.Function]:
    """Return the functions with the given names, including their bodies."""
    return [_parse(name) for name in sorted(names)]


def _parse(name: str) -> ir.Function:
    header = f'<domain: "{FUNCTION_DOMAIN}", opset_import: ["" : {OPSET}]> {name} '
    function = onnx.parser.parse_function(header + _BODIES[name])
    for node in function.node:
        node.name = node.output[0]
    return ir.serde.deserialize_function(function)
