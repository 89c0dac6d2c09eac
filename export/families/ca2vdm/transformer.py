"""The causal spatial-temporal transformer of Ca2-VDM (ICML 2025, section 3.2), with the reference's weight names.

The frames that attention may read differ between filling the cache, denoising with it, and running without it. The
blocks leave this to a :class:`View`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from ...functions import call
from .attention import MASKED, CrossFrameAttention, SelfAttention, TemporalAttention, TextAttention, parts
from .embeddings import (
    PatchEmbedding,
    TextEmbedding,
    TimestepEmbedding,
    gelu,
    rope_table,
    spatial_positions,
    temporal_positions,
)

if TYPE_CHECKING:
    from .config import TransformerConfig

__all__ = ["CausalTransformer", "View"]


class View(Protocol):
    """Visibility of frames in one pass: implements the attentions that differ between passes."""

    def attend_context(self, layer: int, attention: CrossFrameAttention, x: Tensor) -> Tensor:
        """Attend from x [B, F, S, C] to the context frames."""
        ...

    def attend_time(self, layer: int, attention: TemporalAttention, z: Tensor) -> Tensor | None:
        """Attend over time; None ends the pass, because later results are not needed."""
        ...


class CausalTransformer(nn.Module):
    """The transformer, without ``forward``: see ``graphs.py`` (cached) and ``uncached.py``."""

    pos_embed: Tensor
    pos_embed_temporal: Tensor
    bov_token: Tensor
    rope: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.register_buffer("pos_embed", spatial_positions(*config.grid, width, config.space_scale))
        self.register_buffer("pos_embed_temporal", temporal_positions(config.position_count, width, config.time_scale))
        self.register_buffer("bov_token", torch.zeros(config.latent_channels, *config.latent_size))
        self.register_buffer("rope", rope_table(config.position_count, config.head_size), persistent=False)
        self.x_embedder = PatchEmbedding(config.latent_channels, width, config.patch_size)
        self.t_embedder = TimestepEmbedding(width)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.y_embedder = TextEmbedding(config.text_width, width, config.text_tokens) if config.text_width else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.depth))
        self.final_layer = FinalLayer(config)

    def use_half_weights(self) -> CausalTransformer:
        """Convert the blocks' linears to FP16, in place; the residual stream and everything else stay float32.

        The embeddings, the timestep path with its tables, the merge of the mask channel and the final layer stay
        float32 because at high noise the sampler's ``a_x·x`` amplifies their rounding errors.
        """
        for block in self.blocks:
            for module in block.modules():
                if isinstance(module, nn.Linear) and module is not block.attn_temp_pre_merge:
                    module.half()
        return self

    @property
    def block_dtype(self) -> torch.dtype:
        """Type of the blocks' weights, and thus of K and V."""
        attention = next(module for module in self.modules() if isinstance(module, SelfAttention))
        return attention.proj.weight.dtype

    def embed(self, latent: Tensor) -> Tensor:
        """Embed ``latent`` [rows, F, c, h, w] as tokens [rows, F, S, C] with their spatial positions."""
        tokens: Tensor = self.x_embedder(latent)
        return tokens + self.pos_embed

    def modulate(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the blocks' modulation [n, 6, C] and the final layer's [n, C] for ``timesteps`` [n]."""
        embedding: Tensor = self.t_embedder(timesteps)
        return self.t_block(embedding).reshape(-1, 6, self.config.hidden_size), embedding

    def temporal_embedding(self, positions: Tensor) -> Tensor | None:
        """Return the embeddings [B, F, 1, C] of ``positions`` [B, F], or None with RoPE."""
        if self.config.positions == "rope":
            return None
        return nn.functional.embedding(positions, self.pos_embed_temporal[0])[:, :, None]

    def project_text(self, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the projected ``text`` [B, tokens, C] and the bias [B, 1, 1, tokens] of its ``mask`` [B, tokens]."""
        assert self.y_embedder is not None, "a model without text was given one"
        return self.y_embedder(text), ((1.0 - mask) * MASKED)[:, None, None]

    def run_blocks(
        self,
        x: Tensor,
        modulation: Tensor,
        view: View,
        temporal: Tensor | None,
        mask: Tensor,
        text: tuple[Tensor, Tensor] | None,
    ) -> Tensor | None:
        """Run all blocks over x.

        Args:
            x: Tokens, float32, [B, F, S, C].
            modulation: [B, F or 1, 6, C].
            view: The visibility of frames.
            temporal: Temporal vectors, [B, F, 1, C], or None with RoPE.
            mask: 1 for a clean frame, 0 for a noisy one, [B, F].
            text: What :meth:`project_text` returned, or None.

        Returns:
            [B, F, S, C], or None if the view ended the pass.
        """
        for block in self.blocks:
            advanced = block(x, modulation, view, temporal, mask, text)
            if advanced is None:
                return None
            x = advanced
        return x


class Block(nn.Module):
    """One block: spatial, cross-frame, temporal and text attention, then an MLP."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        width, heads = config.hidden_size, config.heads
        self.layer = layer
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attn = SelfAttention(width, heads)
        self.attn_cf = CrossFrameAttention(width, heads) if config.context else None
        self.attn_temp = TemporalAttention(width, heads)
        self.attn_temp_pre_merge = nn.Linear(width + 1, width) if config.mask_channel and layer == 0 else None
        self.cross_attn = TextAttention(width, heads) if config.text_width else None
        self.mlp = Mlp(width, int(width * config.mlp_ratio))

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        view: View,
        temporal: Tensor | None,
        mask: Tensor,
        text: tuple[Tensor, Tensor] | None,
    ) -> Tensor | None:
        """Advance x [B, F, S, C]; see :meth:`CausalTransformer.run_blocks`."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = parts(modulation + self.scale_shift_table, 6, dim=2)
        x = x + gate_a * self.attn(modulate(self.norm1, x, scale_a, shift_a))
        if self.attn_cf is not None:
            x = x + gate_a * view.attend_context(self.layer, self.attn_cf, x)
        attended = view.attend_time(self.layer, self.attn_temp, self.place_in_time(x, temporal, mask))
        if attended is None:
            return None
        x = x + gate_a * attended
        if self.cross_attn is not None and text is not None:
            x = x + self.cross_attn(x, *text)
        advanced: Tensor = x + gate_m * self.mlp(modulate(self.norm2, x, scale_m, shift_m))
        return advanced

    def place_in_time(self, x: Tensor, temporal: Tensor | None, mask: Tensor) -> Tensor:
        """Add temporal positions and merge the mask, in block 0 and inside the temporal branch only."""
        if self.layer == 0 and temporal is not None:
            x = x + temporal
        if self.attn_temp_pre_merge is None:
            return x
        column = mask[:, :, None, None].expand(-1, -1, x.shape[2], -1)
        merged: Tensor = self.attn_temp_pre_merge(torch.cat([x, column], dim=-1).reshape(-1, x.shape[-1] + 1))
        return merged.reshape(x.shape)


def modulate(norm: nn.LayerNorm, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Normalize x [..., C], then scale it by 1 + ``scale`` and shift it; a call of a function in an exported graph."""
    if torch.compiler.is_exporting():
        return call("ModulatedNorm", x, torch.ones(x.shape[-1]), 1.0 + scale, shift, epsilon=norm.eps)
    normed: Tensor = norm(x)
    return normed * (1.0 + scale) + shift


class Mlp(nn.Module):
    """Two linears with a GELU between them, applied to each token."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to x [B, F, S, C]."""
        flat = x.reshape(-1, x.shape[-1]).to(self.fc1.weight.dtype)
        out: Tensor = self.fc2(gelu(self.fc1(flat)))
        return out.reshape(x.shape).to(x.dtype)


class FinalLayer(nn.Module):
    """Modulated norm and linear from tokens to patches."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.norm_final = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(width, config.patch_size**2 * config.output_channels)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Project x [B, F, S, C], modulated by ``embedding`` [B, F or 1, C], to [B, F*S, p*p*output channels]."""
        shift, scale = parts(embedding[:, :, None] + self.scale_shift_table, 2, dim=2)
        modulated = modulate(self.norm_final, x, scale, shift)
        out: Tensor = self.linear(modulated.reshape(-1, x.shape[-1]))
        return out.reshape(x.shape[0], -1, out.shape[-1])

    def unpatchify(self, patches: Tensor) -> Tensor:
        """Rearrange patches [B, F*S, p*p*o], channel fastest, to [B, F, o, h, w]."""
        rows, columns = self.config.grid
        p, out = self.config.patch_size, self.config.output_channels
        grid = patches.reshape(-1, rows, columns, p, p, out).permute(0, 5, 1, 3, 2, 4)
        return grid.reshape(patches.shape[0], -1, out, rows * p, columns * p)
