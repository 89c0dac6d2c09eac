"""The four attentions of a block: spatial, cross-frame, temporal, and text.

Weights may be FP16 while the residual stream is float32: each attention casts its input and output, never between its
two matrix products, because a Cast there prevents TensorRT from fusing it. All attention is 4-D. Queries, and keys and
values of the same pass, are tokens first, as projected: [batch, n, heads, d].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...functions import call, call_split_projection

__all__ = [
    "CrossFrameAttention",
    "SelfAttention",
    "TemporalAttention",
    "TextAttention",
    "attend",
    "attend_cached",
    "attend_context",
    "parts",
]

# Large compared with any score, and finite in FP16: -inf - -inf would be NaN, and so would 0 × NaN.
MASKED = -30000.0


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1); a call of a function in an exported graph.

    Args:
        query: [batch, n, heads, d].
        key: [batch, m, heads, d].
        value: [batch, m, heads, d].
        bias: Added to the scores, broadcastable to [batch, heads, n, m], or None.

    Returns:
        [batch, n, heads, d].
    """
    if torch.compiler.is_exporting():
        operands = (query, key, value, scale_of(query))
        return call("Attention", *operands) if bias is None else call("MaskedAttention", *operands, bias)
    return attend_heads(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), bias)


def attend_context(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend to keys and values that are stored heads first; otherwise as :func:`attend`.

    Args:
        query: [batch, n, heads, d].
        key: [batch, heads, m, d].
        value: [batch, heads, m, d].

    Returns:
        [batch, n, heads, d].
    """
    if torch.compiler.is_exporting():
        return call("ContextAttention", query, key, value, scale_of(query))
    return attend_heads(query.transpose(1, 2), key, value, None)


def attend_cached(query: Tensor, past: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
    """Attend to the cache and to the chunk itself in one softmax.

    Args:
        query: [B, T, heads, d].
        past: Keys and values of the cache, each [B, heads, K, d].
        own: Keys and values of the chunk, each [B, T, heads, d].
        bias: [B, 1, 1 or T, K + T], 0 where a slot or a frame of the chunk is visible.

    Returns:
        [B, T, heads, d].
    """
    if torch.compiler.is_exporting():
        lengths = torch.tensor([past[0].shape[2], own[0].shape[1]])
        return call("CachedAttention", query, *past, *own, scale_of(query), bias, lengths)
    key, value = (torch.cat([old, new.transpose(1, 2)], dim=2) for old, new in zip(past, own, strict=True))
    return attend_heads(query.transpose(1, 2), key, value, bias)


def attend_heads(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Attend with queries, keys and values that are all heads first; return [batch, n, heads, d]."""
    return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(1, 2)


def scale_of(query: Tensor) -> Tensor:
    """Return the factor of the query, applied before the first product so that FP16 scores cannot overflow."""
    return torch.full((), query.shape[-1] ** -0.5, dtype=query.dtype, device=query.device)


def rotate(x: Tensor, table: Tensor, heads: int = 2) -> Tensor:
    """Rotate pairs of channels (2m, 2m+1) by their position's angle (RoPE, Su et al. 2021, eq. 34).

    The result holds the first channels of all pairs, then the second ones. The product of queries and keys does
    not depend on this order, which they share.

    Args:
        x: [batch, n, heads, d], or with ``heads`` 1 [batch, heads, n, d].
        table: Cosines and sines, [2, batch or 1, n, d / 2].
        heads: Index of the heads' dimension.

    Returns:
        Shaped as ``x``.
    """
    cosine, sine = table[0].unsqueeze(heads), table[1].unsqueeze(heads)
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)


class _Attention(nn.Module):
    """Base class of the attentions: heads, and the output projection back to the residual stream's float32."""

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_size = hidden_size // heads
        self.proj = nn.Linear(hidden_size, hidden_size)

    def project(self, linear: nn.Module, x: Tensor) -> Tensor:
        """Apply ``linear`` to x [..., C] as one 2-D product, which exports as a Gemm that keeps its weight's name."""
        flat = x.reshape(-1, x.shape[-1]).to(self.proj.weight.dtype)
        projected: Tensor = linear(flat)
        return projected

    def split_heads(self, flat: Tensor, rows: int) -> Tensor:
        """Split [rows * n, C], or any tensor with that layout, into heads: [rows, n, H, d]."""
        return flat.reshape(rows, -1, self.heads, self.head_size)

    def merge_heads(self, attended: Tensor, like: Tensor) -> Tensor:
        """Project [rows, n, heads, d] to the shape and dtype of ``like`` [B, F, S, C]."""
        flat = attended.reshape(-1, like.shape[-1])
        return self.project(self.proj, flat).reshape(like.shape).to(like.dtype)


class SelfAttention(_Attention):
    """Spatial attention within each latent frame."""

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__(hidden_size, heads)
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each frame of x [B, F, S, C]."""
        frames = x.shape[0] * x.shape[1]
        query, key, value = (self.split_heads(part, frames) for part in split_projection(self.project(self.qkv, x)))
        return self.merge_heads(attend(query, key, value), x)


class CrossFrameAttention(_Attention):
    """Spatial attention of each latent frame to the context frames.

    The reference packs q, k and v into one weight. Here q is separate, because a noisy chunk never uses its own keys;
    ``state_dict`` keeps the reference's ``qkv``.
    """

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__(hidden_size, heads)
        self.q = nn.Linear(hidden_size, hidden_size)
        self.kv = nn.Linear(hidden_size, 2 * hidden_size)
        self.register_load_state_dict_pre_hook(_split_packed)  # type: ignore[no-untyped-call]
        self.register_state_dict_post_hook(_pack_split)  # type: ignore[no-untyped-call]

    def query(self, x: Tensor, *, rows: int) -> Tensor:
        """Return the queries of x [B, F, S, C] as [rows, n, H, d]; ``rows`` is B (frames folded into n) or B * F."""
        return self.split_heads(self.project(self.q, x), rows)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and the values of x [B, F, S, C] frame by frame, each [B * F, S * C]."""
        frames = x.shape[0] * x.shape[1]
        key, value = parts(self.project(self.kv, x), 2)
        return key.reshape(frames, -1), value.reshape(frames, -1)


class TemporalAttention(_Attention):
    """Attention over time at each spatial position."""

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__(hidden_size, heads)
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)

    def query_key_value(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k and v of z [B, F, S, C], each [B, F, S*H, d]."""
        rows, frames, tokens, _ = z.shape
        split = (rows, frames, tokens * self.heads, self.head_size)
        query, key, value = (part.reshape(split) for part in split_projection(self.project(self.qkv, z)))
        return query, key, value


class TextAttention(_Attention):
    """Attention of every token to the prompt's tokens."""

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__(hidden_size, heads)
        self.q_linear = nn.Linear(hidden_size, hidden_size)
        self.kv_linear = nn.Linear(hidden_size, 2 * hidden_size)

    def forward(self, x: Tensor, text: Tensor, bias: Tensor) -> Tensor:
        """Attend from x [B, F, S, C] to ``text`` [B, tokens, C] under ``bias`` [B, 1, 1, tokens]."""
        rows = x.shape[0]
        query = self.split_heads(self.project(self.q_linear, x), rows)
        key, value = (self.split_heads(part, rows) for part in parts(self.project(self.kv_linear, text), 2))
        return self.merge_heads(attend(query, key, value, bias.to(key.dtype)), x)


def split_projection(packed: Tensor) -> tuple[Tensor, ...]:
    """Split packed queries, keys and values [rows, 3 * C]; a call of a function in an exported graph."""
    return call_split_projection(packed) if torch.compiler.is_exporting() else parts(packed, 3)


def parts(packed: Tensor, count: int, dim: int = -1) -> tuple[Tensor, ...]:
    """Split into equal parts by their sizes: opset 16 lacks a Split by the number of parts."""
    return torch.split(packed, [packed.shape[dim] // count] * count, dim=dim)


def _split_packed(module: CrossFrameAttention, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for kind in ("weight", "bias"):
        packed = state.pop(f"{prefix}qkv.{kind}", None)
        if packed is not None:
            width = packed.shape[0] // 3
            state[f"{prefix}q.{kind}"], state[f"{prefix}kv.{kind}"] = packed[:width], packed[width:]


def _pack_split(module: CrossFrameAttention, state: dict[str, Any], prefix: str, _: Any) -> None:
    for kind in ("weight", "bias"):
        split = [state.pop(f"{prefix}{part}.{kind}") for part in ("q", "kv")]
        state[f"{prefix}qkv.{kind}"] = torch.cat(split)
