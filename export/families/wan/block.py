"""One transformer block of causal Wan, and what it shares with the head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..ca2vdm.attention import parts
from ..ca2vdm.embeddings import gelu
from ..ca2vdm.transformer import modulate
from .attention import CrossAttention, SelfAttention, project

if TYPE_CHECKING:
    from .attention import KeyValue
    from .config import WanConfig

__all__ = ["Block", "FeedForward", "Gelu", "Pass"]


@dataclass(frozen=True)
class Pass:
    """What all blocks of one pass share.

    Attributes:
        modulation: [B, F, 6, C], float32.
        table: Angles of the pass's tokens, [2, B, F * S, d / 2].
        bias: Added to the scores of the self-attention, [B or 1, 1, 1, keys], or None.
        silent_tokens: First tokens that attend, but whose keys nothing attends to.
    """

    modulation: Tensor
    table: Tensor
    bias: Tensor | None = None
    silent_tokens: int = 0


class Gelu(nn.Module):
    """GELU in its tanh form."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply to a tensor of any shape."""
        return gelu(x)


class FeedForward(nn.Sequential):
    """Two linears with a GELU between them, applied to each row."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__(nn.Linear(width, hidden), Gelu(), nn.Linear(hidden, out))

    def forward(self, input: Tensor) -> Tensor:
        """Apply to ``input`` [..., width]; the result [..., out] has its type."""
        first, activation, second = self
        assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
        return project(second, activation(project(first, input))).to(input.dtype)


class Block(nn.Module):
    """Self-attention, cross-attention, feed-forward, with residual connections."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        width, eps = config.dim, config.eps
        self.modulation = nn.Parameter(torch.randn(1, 6, width) / width**0.5)
        self.norm1 = nn.LayerNorm(width, eps, elementwise_affine=False)
        self.self_attn = SelfAttention(width, config.heads, eps)
        self.norm3 = nn.LayerNorm(width, eps)
        self.cross_attn = CrossAttention(width, config.heads, eps)
        self.norm2 = nn.LayerNorm(width, eps, elementwise_affine=False)
        self.ffn = FeedForward(width, config.ffn_dim, width)

    def keys_values(self, x: Tensor, shared: Pass) -> KeyValue:
        """Return the rotated keys, and the values, each [B, n, H, d], that x [B, F, S, C] leaves; no further work."""
        shift, scale = self._modulations(shared)[:2]
        return self._keys_values(modulate(self.norm1, x, scale, shift), shared)

    def forward(self, x: Tensor, shared: Pass, past: KeyValue | None, text: KeyValue) -> tuple[Tensor, KeyValue]:
        """Advance x [B, F, S, C].

        Args:
            x: Residual stream, float32.
            shared: What all blocks share.
            past: Cached keys and values, each [B, H, K * S, d], or None.
            text: The prompt's keys and values, each [B, H, text_len, d].

        Returns:
            x, and the keys and values of its tokens, each [B, n, H, d].
        """
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = self._modulations(shared)
        normed = modulate(self.norm1, x, scale_a, shift_a)
        own = self._keys_values(normed, shared)
        x = x + gate_a * self.self_attn(normed, shared.table, own, past, shared.bias)
        x = x + self.cross_attn(self.norm3(x), text)
        return x + gate_f * self.ffn(modulate(self.norm2, x, scale_f, shift_f)), own

    def _modulations(self, shared: Pass) -> tuple[Tensor, ...]:
        return tuple(parts(shared.modulation + self.modulation, 6, dim=2))

    def _keys_values(self, normed: Tensor, shared: Pass) -> KeyValue:
        key, value = self.self_attn.rotated_keys_values(normed, shared.table)
        return key[:, shared.silent_tokens :], value[:, shared.silent_tokens :]
