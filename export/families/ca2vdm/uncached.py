"""Forward pass without a cache, with a timestep per frame, for training and comparison (reference, section 8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .attention import MASKED, attend, rotate

if TYPE_CHECKING:
    from .attention import CrossFrameAttention, TemporalAttention
    from .transformer import CausalTransformer

__all__ = ["predict_uncached"]


def predict_uncached(
    model: CausalTransformer,
    latents: Tensor,
    timesteps: Tensor,
    *,
    clean: int,
    start: Tensor,
    text: Tensor | None = None,
    text_mask: Tensor | None = None,
) -> Tensor:
    """Run the network over a clean prefix and a noisy chunk in one pass.

    Cross-frame attention of clean frames reads the frame itself, of noisy ones the last context frames of the prefix.
    Temporal attention is causal for clean frames and reads the whole prefix for noisy ones. The result equals the
    cached pass as long as no frame has been evicted from the cache.

    Args:
        model: The transformer.
        latents: Clean latent frames, then noisy ones, float32 [B, F, c, h, w].
        timesteps: Timestep of each frame, 0 for clean ones, float32 [B, F].
        clean: Number of clean frames, 1 <= clean < F.
        start: Absolute index of the first frame of each row, integer [B].
        text: Text embeddings, float32 [B, tokens, width], for a model with text.
        text_mask: 1 for a token that counts, [B, tokens]; None counts all.

    Returns:
        Prediction and, if learned, variance value of every frame, [B, F, output channels, h, w].

    Raises:
        ValueError: Too few frames, or absolute positions beyond the table.
    """
    rows, frames = timesteps.shape
    if not 1 <= clean < frames:
        raise ValueError(f"wanted 1 <= clean < {frames} frames, got {clean}")
    modulation, embedding = model.modulate(timesteps.reshape(-1))
    mask = (torch.arange(frames, device=latents.device) < clean).to(latents)[None].expand(rows, -1)
    projected = None
    if text is not None:
        counted = torch.ones(text.shape[:2], device=text.device) if text_mask is None else text_mask
        projected = model.project_text(text, counted)
    x = model.run_blocks(
        model.embed(latents),
        modulation.reshape(rows, frames, 6, -1),
        _UncachedView(model, clean, frames),
        model.temporal_embedding(_positions(model, start, frames)),
        mask,
        projected,
    )
    assert x is not None, "an uncached pass never ends early"
    return model.final_layer.unpatchify(model.final_layer(x, embedding.reshape(rows, frames, -1)))


def _positions(model: CausalTransformer, start: Tensor, frames: int) -> Tensor:
    config = model.config
    positions = start[:, None] + torch.arange(frames, device=start.device)
    if config.positions == "cyclic":
        return positions % config.position_count
    if config.positions == "absolute" and int(positions.max()) >= config.position_count:
        raise ValueError(f"absolute positions end at {config.position_count}, got {int(positions.max()) + 1} frames")
    return positions


class _UncachedView:
    """View of an uncached pass, which computes the keys of every frame."""

    def __init__(self, model: CausalTransformer, clean: int, frames: int) -> None:
        self.config = model.config
        self.clean = clean
        device = model.pos_embed.device
        order = torch.arange(frames, device=device)
        hidden = order[None] > order[:, None]
        if not self.config.chunk_causal:
            hidden = hidden & (order[:, None] < clean)
        self.bias = torch.zeros(frames, frames, device=device).masked_fill(hidden, MASKED)
        self.rotation = model.rope[:, None, :frames] if self.config.positions == "rope" else None

    def attend_context(self, layer: int, attention: CrossFrameAttention, x: Tensor) -> Tensor:
        rows, frames, tokens, _ = x.shape
        key, value = (part.reshape(rows, frames, -1) for part in attention.keys_values(x))
        query = attention.query(x, rows=rows)
        noisy = self._attend(attention, query[:, self.clean * tokens :], key, value, self._context())
        if self.config.context == "first":
            kept = self._attend(attention, query[:, : self.clean * tokens], key, value, [0])
        else:
            own = (attention.split_heads(part[:, : self.clean], rows * self.clean) for part in (key, value))
            folded = attention.split_heads(query[:, : self.clean * tokens], rows * self.clean)
            kept = attend(folded, *own).reshape(rows, -1, *query.shape[2:])
        return attention.merge_heads(torch.cat([kept, noisy], dim=1), x)

    def attend_time(self, layer: int, attention: TemporalAttention, z: Tensor) -> Tensor:
        query, key, value = attention.query_key_value(z)
        if self.rotation is not None:
            query, key = rotate(query, self.rotation), rotate(key, self.rotation)
        return attention.merge_heads(attend(query, key, value, self.bias.to(query.dtype)), z)

    def _context(self) -> list[int]:
        if self.config.context == "first":
            return [0]
        return [max(0, self.clean - self.config.context_frames + i) for i in range(self.config.context_frames)]

    def _attend(
        self, attention: CrossFrameAttention, query: Tensor, key: Tensor, value: Tensor, frames: list[int]
    ) -> Tensor:
        """Attend from ``query`` [B, n, H, d] to the given frames of keys [B, F, S*C]; return [B, n, H, d]."""
        rows = key.shape[0]
        chosen = (
            attention.split_heads(torch.stack([part[:, frame] for frame in frames], dim=1), rows)
            for part in (key, value)
        )
        return attend(query, *chosen)
