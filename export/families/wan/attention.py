"""Self- and cross-attention of a causal Wan block.

Weights may be FP16 while the residual stream is float32: each attention casts its input and output. Queries, and keys
and values of the same pass, are tokens first, [B, n, H, d]; stored ones are heads first, [B, H, n, d].
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn

from ..ca2vdm.attention import attend, attend_cached, attend_context
from .rotary import rotate

__all__ = ["CrossAttention", "KeyValue", "RmsNorm", "SelfAttention", "heads_first", "project"]

KeyValue: TypeAlias = tuple[Tensor, Tensor]


class RmsNorm(nn.Module):
    """Divides by the root mean square over all channels, in float32, then scales in the input's type."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x [..., C]."""
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)
        return normed.to(x.dtype) * self.weight.to(x.dtype)


def project(linear: nn.Linear, x: Tensor) -> Tensor:
    """Apply ``linear`` to x [..., C] as one 2-D product in its type, which exports as a Gemm that keeps its name."""
    flat: Tensor = linear(x.reshape(-1, x.shape[-1]).to(linear.weight.dtype))
    return flat.reshape(*x.shape[:-1], -1)


def heads_first(pair: KeyValue) -> KeyValue:
    """Return keys and values [B, n, H, d] as they are stored, [B, H, n, d]."""
    return pair[0].transpose(1, 2), pair[1].transpose(1, 2)


class _Attention(nn.Module):
    """Base class: four projections with biases, and RMS norms of queries and keys over all heads together."""

    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = RmsNorm(dim, eps)
        self.norm_k = RmsNorm(dim, eps)

    def queries(self, x: Tensor) -> Tensor:
        """Return the normalized queries [B, n, H, d] of x [B, ..., C]."""
        return self._split_heads(self.norm_q(project(self.q, x)))

    def keys_values(self, x: Tensor) -> KeyValue:
        """Return the normalized keys, and the values, each [B, n, H, d], of x [B, ..., C]."""
        return self._split_heads(self.norm_k(project(self.k, x))), self._split_heads(project(self.v, x))

    def merge_heads(self, attended: Tensor, like: Tensor) -> Tensor:
        """Project [B, n, H, d] to the shape and type of ``like`` [B, F, S, C]."""
        return project(self.o, attended.reshape(like.shape)).to(like.dtype)

    def _split_heads(self, flat: Tensor) -> Tensor:
        return flat.reshape(flat.shape[0], -1, self.heads, flat.shape[-1] // self.heads)


class SelfAttention(_Attention):
    """Attention of a chunk to the cached latent frames and to all of itself."""

    def rotated_keys_values(self, x: Tensor, table: Tensor) -> KeyValue:
        """Return the rotated keys, and the values, each [B, F * S, H, d], of x [B, F, S, C].

        ``table`` is that of :func:`~.rotary.join_tables`.
        """
        key, value = self.keys_values(x)
        return rotate(key, table), value

    def forward(self, x: Tensor, table: Tensor, own: KeyValue, past: KeyValue | None, bias: Tensor | None) -> Tensor:
        """Attend from the normalized and modulated x [B, F, S, C].

        Args:
            x: Input of the queries.
            table: Angles of the chunk's tokens, [2, B, F * S, d / 2].
            own: The chunk's keys and values, each [B, n, H, d].
            past: Cached keys and values, each [B, H, K * S, d], or None.
            bias: Added to the scores, [B or 1, 1, 1, K * S + n]; None where all keys are visible.

        Returns:
            [B, F, S, C].
        """
        query = rotate(self.queries(x), table)
        return self.merge_heads(_attend(query, own, past, bias), x)


class CrossAttention(_Attention):
    """Attention to all rows of the prompt, padding included, as the model was trained."""

    def forward(self, x: Tensor, text: KeyValue) -> Tensor:
        """Attend from x [B, F, S, C] to the prompt's keys and values, each [B, H, text_len, d]."""
        return self.merge_heads(attend_context(self.queries(x), *text), x)


def _attend(query: Tensor, own: KeyValue, past: KeyValue | None, bias: Tensor | None) -> Tensor:
    if past is None:
        return attend(query, *own, bias)
    if bias is None:
        bias = query.new_zeros(1, 1, 1, past[0].shape[2] + own[0].shape[1])
    return attend_cached(query, past, own, bias)
