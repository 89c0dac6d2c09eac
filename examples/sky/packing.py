"""Packing of several chunks of a clip, one per prefix length, into a single pass over shared clean latent frames.

Clean frames attend only to earlier clean frames, so one pass serves noisy chunks after 1, 9, 17 and 25 of them. Each
chunk gets the same result as from ``predict_uncached`` alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vdmrt.export.families.ca2vdm.attention import MASKED, CrossFrameAttention, TemporalAttention
from vdmrt.export.families.ca2vdm.transformer import CausalTransformer

__all__ = ["Packing", "run_packed"]


@dataclass(frozen=True)
class Packing:
    """Layout of the latent frames of one pass: clean ones, then one noisy chunk for each prefix length.

    Attributes:
        clean: Number of clean latent frames.
        prefixes: Number of clean frames before each chunk.
        chunk: Latent frames of a chunk.
    """

    clean: int
    prefixes: tuple[int, ...]
    chunk: int = 8

    @property
    def frames(self) -> int:
        """Latent frames of the pass."""
        return self.clean + len(self.prefixes) * self.chunk

    def numbers(self) -> Tensor:
        """Return the index of each latent frame in its clip, [frames]."""
        chunks = [torch.arange(prefix, prefix + self.chunk) for prefix in self.prefixes]
        return torch.cat([torch.arange(self.clean), *chunks])

    def bias(self) -> Tensor:
        """Return the bias of the temporal scores, [frames, frames]: 0 where a frame is visible."""
        seen = torch.zeros(self.frames, self.frames, dtype=torch.bool)
        seen[: self.clean, : self.clean] = True
        for place, prefix in enumerate(self.prefixes):
            own = slice(self.clean + place * self.chunk, self.clean + (place + 1) * self.chunk)
            seen[own, :prefix] = True
            seen[own, own] = True
        return torch.zeros(seen.shape).masked_fill(~seen.tril(), MASKED)

    def context(self, count: int) -> Tensor:
        """Return the ``count`` clean frames that each chunk's cross-frame attention reads, [chunks, count]."""
        return torch.tensor([[max(0, prefix - count + i) for i in range(count)] for prefix in self.prefixes])


def run_packed(
    model: CausalTransformer, packing: Packing, latents: Tensor, timesteps: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the blocks over clean and noisy latent frames.

    Args:
        model: With cyclic positions and the context of the previous frames, causal inside the chunk.
        packing: The layout.
        latents: [B, frames, c, h, w].
        timesteps: Timestep of each chunk, float32 [B, chunks]; clean frames have 0.
        start: Absolute index of each clip's first latent frame, integer [B].

    Returns:
        Tokens [B, frames, S, C], and the timestep embedding of each frame [B, frames, C].
    """
    rows = latents.shape[0]
    clean = torch.zeros(rows, packing.clean, device=latents.device)
    per_frame = torch.cat([clean, timesteps.repeat_interleave(packing.chunk, dim=1)], dim=1)
    modulation, embedding = model.modulate(per_frame.reshape(-1))
    positions = start[:, None] + packing.numbers().to(start.device)
    mask = torch.cat([clean + 1.0, torch.zeros_like(per_frame[:, packing.clean :])], dim=1)
    x = model.run_blocks(
        model.embed(latents),
        modulation.reshape(rows, packing.frames, 6, -1),
        _PackedView(model, packing),
        model.temporal_embedding(positions % model.config.position_count),
        mask,
        None,
    )
    assert x is not None, "a packed pass never ends early"
    return x, embedding.reshape(rows, packing.frames, -1)


class _PackedView:
    """View of a packed pass, which computes the keys of every frame."""

    def __init__(self, model: CausalTransformer, packing: Packing) -> None:
        device = model.pos_embed.device
        self.packing = packing
        self.bias = packing.bias().to(device)
        self.context = packing.context(model.config.context_frames).to(device)

    def attend_context(self, layer: int, attention: CrossFrameAttention, x: Tensor) -> Tensor:
        rows, _, tokens, _ = x.shape
        clean = self.packing.clean
        key, value = (part.reshape(rows, clean, -1) for part in attention.keys_values(x[:, :clean]))
        query = attention.query(x, rows=rows)
        own = _attend(*(attention.split_heads(part, rows * clean) for part in (query[:, : clean * tokens], key, value)))
        chunks = rows * len(self.packing.prefixes)
        seen = (attention.split_heads(part[:, self.context], chunks) for part in (key, value))
        noisy = _attend(attention.split_heads(query[:, clean * tokens :], chunks), *seen)
        shape = (rows, -1, attention.heads, attention.head_size)
        both = [part.reshape(shape) for part in (own, noisy)]
        return attention.merge_heads(torch.cat(both, dim=1), x)

    def attend_time(self, layer: int, attention: TemporalAttention, z: Tensor) -> Tensor:
        query, key, value = attention.query_key_value(z)
        return attention.merge_heads(_attend(query, key, value, self.bias.to(query.dtype)), z)


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention in single operators; all tensors are [batch, n, heads, d].

    On the CPU the backward pass of torch's fused one takes eight times as long for heads and sequences this small
    (2026-11, Zen 4, bfloat16).
    """
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if bias is not None:
        scores = scores + bias
    attended: Tensor = scores.softmax(dim=-1) @ value
    return attended.transpose(1, 2)
