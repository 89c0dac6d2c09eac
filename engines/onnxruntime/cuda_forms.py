"""Forms of a graph's functions for ONNX Runtime's CUDA provider: its fused attention.

Every attention becomes a com.microsoft.MultiHeadAttention, whose kernel the provider selects at each call:

- FP16 without a bias: flash attention, for heads of a multiple of 8 channels up to 256.
- FP16 with a bias: cuDNN's attention, for the same heads, in releases that select it (from compute capability 9.0 on),
  else memory-efficient attention if the number of queries is a multiple of 8.
- Float32: memory-efficient attention for long sequences, with a bias if the number of queries is a multiple of 16.
- Anything else: products and a Softmax.

Sources: ONNX Runtime's contrib_ops/cuda/bert/multihead_attention.cc, and multihead_attention_helper.h in
contrib_ops/cpu/bert for the shapes. The speed of these forms has not been measured on a GPU. Norms and splits are kept:
no fused operator of the provider has a modulation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..forms import AS_EXPORTED
from .operands import DOMAIN, constant, number_of, reshape, shape_of

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnx_ir.tape import Tape

    from .operands import Forms, Made

__all__ = ["CUDA_FORMS"]

_MULTI_HEAD = f"{DOMAIN}.MultiHeadAttention"
# The provider refuses more heads than a block of the GPU has threads.
_MOST_HEADS = 1024


def _attention(tape: Tape, query: ir.Value, key: ir.Value, value: ir.Value, scale: ir.Value) -> Made:
    """Return attention to keys and values in projected layout."""
    return _whole(tape, query, _merged(tape, key), _merged(tape, value), scale)


def _context_attention(tape: Tape, query: ir.Value, key: ir.Value, value: ir.Value, scale: ir.Value) -> Made:
    """Return attention to keys and values in heads-first layout, which are read in place."""
    return _whole(tape, query, key, value, scale)


def _masked_attention(
    tape: Tape, query: ir.Value, key: ir.Value, value: ir.Value, scale: ir.Value, bias: ir.Value
) -> Made:
    """Return attention under a bias."""
    full = _expanded(tape, bias, shape_of(query)[1], shape_of(key)[1])
    return _whole(tape, query, _merged(tape, key), _merged(tape, value), scale, full)


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
) -> Made:
    """Return attention to joined keys of the cache and the chunk, with groups of heads as rows where they are many.

    The operator can join them itself, but in a kernel that has all heads in one block of the GPU, and in the layout
    that it is given here.
    """
    rows, tokens, heads, size = shape_of(query)
    groups = _groups_of(heads)
    each, total = heads // groups, shape_of(past_key)[2] + tokens
    shape = (rows * groups, each, total, size)
    keys, values = _joined(tape, past_key, key, shape), _joined(tape, past_value, value, shape)
    full = _repeated(tape, _expanded(tape, bias, tokens, total), shape_of(bias)[0], groups, (tokens, total))
    grouped = _swapped(tape, query, (rows, tokens, groups, each * size), (rows * groups, tokens, each * size))
    attended = _attend(tape, grouped, each, keys, values, scale, full)
    return _MULTI_HEAD, _swapped(tape, attended, (rows, groups, tokens, each * size), shape_of(query))


def _modulated_norm(tape: Tape, *operands: ir.Value, epsilon: float) -> Made:
    """Keep the call."""
    return AS_EXPORTED, None


CUDA_FORMS: Forms = {
    "Attention": _attention,
    "CachedAttention": _cached_attention,
    "ContextAttention": _context_attention,
    "MaskedAttention": _masked_attention,
    "ModulatedNorm": _modulated_norm,
}


def _whole(
    tape: Tape, query: ir.Value, key: ir.Value, value: ir.Value, scale: ir.Value, bias: ir.Value | None = None
) -> Made:
    attended = _attend(tape, _merged(tape, query), shape_of(query)[2], key, value, scale, bias)
    return _MULTI_HEAD, reshape(tape, attended, shape_of(query))


def _attend(
    tape: Tape, query: ir.Value, heads: int, key: ir.Value, value: ir.Value, scale: ir.Value, bias: ir.Value | None
) -> ir.Value:
    """Return fused attention of queries [rows, n, heads * d], shaped as they are.

    Keys and values are [rows, m, heads * d] or [rows, heads, m, d], the bias is [rows or 1, heads or 1, n, m].
    """
    inputs = [query, key, value, *([] if bias is None else [None, None, bias])]
    return tape.op("MultiHeadAttention", inputs, {"num_heads": heads, "scale": number_of(scale)}, domain=DOMAIN)


def _merged(tape: Tape, value: ir.Value) -> ir.Value:
    """Return [rows, n, heads * d] of [rows, n, heads, d]."""
    rows, tokens, heads, size = shape_of(value)
    return reshape(tape, value, (rows, tokens, heads * size))


def _expanded(tape: Tape, bias: ir.Value, queries: int, keys: int) -> ir.Value:
    """Return a bias in four dimensions that has every query and key: the operator repeats it only over the others."""
    first = (1, 1, *shape_of(bias))[-4:-2]
    wanted = (*first, queries, keys)
    return bias if shape_of(bias) == wanted else tape.op("Expand", [bias, constant(tape, wanted)])


def _repeated(tape: Tape, bias: ir.Value, rows: int, groups: int, scores: tuple[int, int]) -> ir.Value:
    """Return a bias [rows, 1, n, m] for rows that were split into groups; one of a single row is the same for all."""
    if rows == 1 or groups == 1:
        return bias
    apart = reshape(tape, bias, (rows, 1, 1, *scores))
    spread = tape.op("Expand", [apart, constant(tape, (rows, groups, 1, *scores))])
    return reshape(tape, spread, (rows * groups, 1, *scores))


def _joined(tape: Tape, past: ir.Value, own: ir.Value, shape: tuple[int, ...]) -> ir.Value:
    """Return stored keys [rows, heads, K, d] followed by projected ones [rows, T, heads, d], in a shape."""
    turned = tape.op("Transpose", [own], {"perm": [0, 2, 1, 3]})
    return reshape(tape, tape.op("Concat", [past, turned], {"axis": 2}), shape)


def _swapped(tape: Tape, value: ir.Value, split: tuple[int, ...], shape: tuple[int, ...]) -> ir.Value:
    """Return a value split into four dimensions, with the middle two exchanged, in a shape."""
    if 1 not in split[1:3]:  # otherwise the order stays the same
        value = tape.op("Transpose", [reshape(tape, value, split)], {"perm": [0, 2, 1, 3]})
    return reshape(tape, value, shape)


def _groups_of(heads: int) -> int:
    """Return the smallest number of equal groups of heads that the provider takes."""
    return next(groups for groups in range(1, heads + 1) if heads % groups == 0 and heads // groups <= _MOST_HEADS)
