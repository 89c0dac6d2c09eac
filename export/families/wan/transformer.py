"""The causal Wan transformer, with the original weight names, as the three functions that become graphs.

``prompt`` runs once per prompt, ``fill`` once per finished chunk, and ``denoise`` once per denoising step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..ca2vdm.attention import parts
from ..ca2vdm.transformer import modulate
from .attention import heads_first, project
from .block import Block, FeedForward, Pass
from .config import PATCH
from .rotary import join_tables, space_table

if TYPE_CHECKING:
    from .attention import KeyValue
    from .config import WanConfig

__all__ = ["CausalWan"]


class CausalWan(nn.Module):
    """The transformer, without ``forward``.

    Keys and values of a layer are a pair, each [B, H, tokens, d], keys after their rotation. Any order of the cached
    tokens gives the same result.
    """

    space: Tensor

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.config = config
        width = config.dim
        self.register_buffer("space", torch.from_numpy(space_table(config.grid, config.head_size)), persistent=False)
        self.patch_embedding = PatchEmbedding(config.in_channels, width)
        self.text_embedding = FeedForward(config.text_dim, width, width)
        self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, width), nn.SiLU(), nn.Linear(width, width))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head = Head(config)

    def prompt(self, context: Tensor) -> list[KeyValue]:
        """Return each layer's cross-attention keys and values, each [B, H, text_len, d].

        Args:
            context: The prompt's embedding, float32, [B, text_len, text_dim], zero after its last token.
        """
        text = self.text_embedding(context)
        return [heads_first(block.cross_attn.keys_values(text)) for block in self._blocks()]

    def fill(
        self,
        latents: Tensor,
        angles: Tensor,
        past: Sequence[KeyValue] | None,
        text: Sequence[KeyValue],
        *,
        bias: Tensor | None = None,
        silent_frames: int = 0,
    ) -> list[KeyValue]:
        """Return the keys and values of finished latent frames; the last layer ends with them.

        Args:
            latents: [B, F, c, h, w], float32.
            angles: Those of the latent frames, float32, [B, F, 2, frame pairs], as from :func:`~.rotary.frame_table`.
            past: Cached keys and values of each layer, each [B, H, K * S, d], or None.
            text: The prompt's keys and values of each layer.
            bias: Added to the scores, [B or 1, 1, 1, keys]; None where all keys are visible.
            silent_frames: First latent frames that attend, but leave no keys and values.

        Returns:
            A pair for each layer, each [B, H, (F - silent_frames) * S, d].
        """
        timestep = torch.full(latents.shape[:2], self.config.context_timestep, device=latents.device)
        _, shared = self._prepare(timestep, angles, bias, silent_frames)
        x, written = self.patch_embedding(latents), []
        *blocks, last = self._blocks()
        for layer, block in enumerate(blocks):
            x, own = block(x, shared, past[layer] if past else None, text[layer])
            written.append(heads_first(own))
        return [*written, heads_first(last.keys_values(x, shared))]

    def denoise(
        self,
        x_t: Tensor,
        timestep: Tensor,
        angles: Tensor,
        past: Sequence[KeyValue] | None,
        text: Sequence[KeyValue],
        *,
        bias: Tensor | None = None,
        silent_frames: int = 0,
    ) -> Tensor:
        """Return the flow, noise minus clean latents, [B, F, c, h, w], float32.

        Args:
            x_t: Noisy latent frames, [B, F, c, h, w], float32.
            timestep: Timestep of each latent frame, 0 to 1000, float32, [B, F].
            angles: See :meth:`fill`, as for the other arguments.
            past: Cached keys and values of each layer.
            text: The prompt's keys and values of each layer.
            bias: Added to the scores.
            silent_frames: First latent frames that attend, but to which none attends.
        """
        embedding, shared = self._prepare(timestep, angles, bias, silent_frames)
        x = self.patch_embedding(x_t)
        for layer, block in enumerate(self._blocks()):
            x, _ = block(x, shared, past[layer] if past else None, text[layer])
        return self.head.unpatchify(self.head(x, embedding))

    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def _prepare(self, timestep: Tensor, angles: Tensor, bias: Tensor | None, silent: int) -> tuple[Tensor, Pass]:
        """Return the embedding [B, F, C] of ``timestep``, and what all blocks share."""
        features = sinusoid(timestep, self.config.freq_dim).float()
        embedding: Tensor = self.time_embedding(features)
        modulation = self.time_projection(embedding).reshape(*timestep.shape, 6, -1)
        table = join_tables(angles, self.space)
        return embedding, Pass(modulation, table, bias, silent * self.config.tokens_per_frame)


def sinusoid(timestep: Tensor, width: int) -> Tensor:
    """Return cosines, then sines, of ``timestep`` [...], float64, [..., width]."""
    half = width // 2
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=timestep.device) / half)
    angles = timestep.double()[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class PatchEmbedding(nn.Conv3d):
    """Embeds each 1 x 2 x 2 patch as one token."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels, width, kernel_size=(1, PATCH, PATCH), stride=(1, PATCH, PATCH))

    def forward(self, input: Tensor) -> Tensor:
        """Embed latents [B, F, c, h, w] as tokens [B, F, S, C], row by row."""
        batch, frames, channels, height, width = input.shape
        grid = input.reshape(batch * frames, channels, height // PATCH, PATCH, width // PATCH, PATCH)
        patches = grid.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels * PATCH**2)
        # A matrix product instead of a convolution: the same sum, and every runtime has a fast one.
        weight = self.weight.reshape(self.weight.shape[0], -1)
        return nn.functional.linear(patches, weight, self.bias).reshape(batch, frames, -1, weight.shape[0])


class Head(nn.Module):
    """Modulated norm and linear from tokens to patches."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.grid = config.grid
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)
        self.norm = nn.LayerNorm(config.dim, config.eps, elementwise_affine=False)
        self.head = nn.Linear(config.dim, PATCH**2 * config.in_channels)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Project x [B, F, S, C], modulated by the timestep's ``embedding`` [B, F, C], to [B, F, S, 4 * c]."""
        shift, scale = parts(embedding[:, :, None] + self.modulation, 2, dim=2)
        return project(self.head, modulate(self.norm, x, scale, shift))

    def unpatchify(self, patches: Tensor) -> Tensor:
        """Rearrange patches [B, F, S, 4 * c], channel fastest, to [B, F, c, h, w]."""
        rows, columns = self.grid
        grid = patches.reshape(-1, rows, columns, PATCH, PATCH, patches.shape[-1] // PATCH**2)
        return grid.permute(0, 5, 1, 3, 2, 4).reshape(*patches.shape[:2], -1, rows * PATCH, columns * PATCH)
