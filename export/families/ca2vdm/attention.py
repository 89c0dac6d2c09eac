"""The four attentions of a block: inside a frame, across frames, over time, and to the text.

Weights may be FP16 while the residual stream is float32: each attention casts at its two ends, never between its two
matrix products, because a Cast there keeps TensorRT from fusing it. All attention is 4-D.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "CrossFrameAttention",
    "SelfAttention",
    "TemporalAttention",
    "TextAttention",
    "attend",
    "attend_cached",
    "parts",
]

# Large against any score, and finite in FP16: 0 × NaN would be NaN, and -inf - -inf too.
MASKED = -30000.0


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1).

    Args:
        query: [batch, heads, n, d].
        key: [batch, heads, m, d].
        value: [batch, heads, m, d].
        bias: Added to the scores, broadcastable to [batch, heads, n, m], or None.

    Returns:
        [batch, heads, n, d].
    """
    if not torch.compiler.is_exporting():
        return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    scores = scale(query) @ key.transpose(-1, -2)
    if bias is not None:
        scores = scores + bias
    return scores.softmax(dim=-1) @ value


def attend_cached(
    query: Tensor,
    past: tuple[Tensor, Tensor],
    own: tuple[Tensor, Tensor],
    past_bias: Tensor,
    own_bias: Tensor | None,
) -> Tensor:
    """Attention over the cache and the chunk itself, in two parts under one softmax.

    Concatenating the keys would copy the whole cache at every denoising step; the scores are a fraction of it.

    Args:
        query: [B, S*H, T, d].
        past: Keys and values of the cache, each [B, S*H, K, d].
        own: Keys and values of the chunk, each [B, S*H, T, d].
        past_bias: [B, 1, 1, K], 0 for a slot that may be seen.
        own_bias: [T, T], 0 where the chunk's frame may be seen; None where all are.

    Returns:
        [B, S*H, T, d].
    """
    if not torch.compiler.is_exporting():
        key, value = (torch.cat([old, new], dim=2) for old, new in zip(past, own, strict=True))
        chunk = query.shape[2]
        own_part = torch.zeros(chunk, chunk, dtype=query.dtype, device=query.device) if own_bias is None else own_bias
        bias = torch.cat([past_bias.expand(-1, -1, chunk, -1), own_part.expand(past_bias.shape[0], 1, -1, -1)], dim=-1)
        return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    query = scale(query)
    own_scores = query @ own[0].transpose(-1, -2)
    if own_bias is not None:
        own_scores = own_scores + own_bias
    # The transposed operand of a product is read in place. Keys times queries would need no Transpose here, but one of
    # the scores; on ONNX Runtime it was no faster (2026-11-22, AMD EPYC, 2 threads).
    past_scores = query @ past[0].transpose(-1, -2) + past_bias
    slots = past_scores.shape[-1]
    weights = torch.cat([past_scores, own_scores], dim=-1).softmax(dim=-1)
    return weights[..., :slots] @ past[1] + weights[..., slots:] @ own[1]


def scale(query: Tensor) -> Tensor:
    """Scale the query before the first product, so that FP16 scores cannot overflow."""
    scaled: Tensor = query * query.shape[-1] ** -0.5
    return scaled


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate pairs of channels (2m, 2m+1) by their position's angle (RoPE, Su et al. 2021, eq. 34).

    The result holds all first members, then all second ones. Queries and keys share the order, and their product does
    not depend on it.

    Args:
        x: [batch, heads, n, d].
        table: Cosines and sines, [2, batch or 1, n, d / 2].

    Returns:
        [batch, heads, n, d].
    """
    cosine, sine = table[0][:, None], table[1][:, None]
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)


class _Attention(nn.Module):
    """What the attentions share: heads, and the output projection back to the residual stream's float32."""

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_size = hidden_size // heads
        self.proj = nn.Linear(hidden_size, hidden_size)

    def project(self, linear: nn.Module, x: Tensor) -> Tensor:
        """Apply ``linear`` to x [..., C] as one 2-D product, which exports as a Gemm with its weight's own name."""
        flat = x.reshape(-1, x.shape[-1]).to(self.proj.weight.dtype)
        projected: Tensor = linear(flat)
        return projected

    def split_heads(self, flat: Tensor, rows: int) -> Tensor:
        """Split [rows * n, C], or anything laid out so, into heads: [rows, H, n, d]."""
        return flat.reshape(rows, -1, self.heads, self.head_size).transpose(1, 2)

    def merge_heads(self, attended: Tensor, like: Tensor) -> Tensor:
        """Project [rows, heads, n, d] to the shape and dtype of ``like`` [B, F, S, C]."""
        flat = attended.transpose(1, 2).reshape(-1, like.shape[-1])
        return self.project(self.proj, flat).reshape(like.shape).to(like.dtype)


class SelfAttention(_Attention):
    """Spatial attention inside each latent frame."""

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__(hidden_size, heads)
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Attend inside each frame of x [B, F, S, C]."""
        frames = x.shape[0] * x.shape[1]
        query, key, value = (self.split_heads(part, frames) for part in parts(self.project(self.qkv, x), 3))
        return self.merge_heads(attend(query, key, value), x)


class CrossFrameAttention(_Attention):
    """Spatial attention of each latent frame to the context frames.

    The reference packs q, k and v into one weight. Here they are two, because a noisy chunk never uses its own keys;
    ``state_dict`` keeps the reference's ``qkv``.
    """

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__(hidden_size, heads)
        self.q = nn.Linear(hidden_size, hidden_size)
        self.kv = nn.Linear(hidden_size, 2 * hidden_size)
        self.register_load_state_dict_pre_hook(_split_packed)  # type: ignore[no-untyped-call]
        self.register_state_dict_post_hook(_pack_split)  # type: ignore[no-untyped-call]

    def query(self, x: Tensor, *, rows: int) -> Tensor:
        """Return the queries of x [B, F, S, C] as [rows, H, n, d]: ``rows`` B folds the frames in, B * F does not."""
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
        """Return q, k and v of z [B, F, S, C], each heads-major: [B, S*H, F, d]."""
        rows, frames, tokens, _ = z.shape
        split = (rows, frames, tokens * self.heads, self.head_size)
        query, key, value = (part.reshape(split).transpose(1, 2) for part in parts(self.project(self.qkv, z), 3))
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


def parts(packed: Tensor, count: int, dim: int = -1) -> tuple[Tensor, ...]:
    """Split into equal parts, by sizes: opset 16 does not know a Split by their number."""
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
