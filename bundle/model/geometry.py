"""The geometry: all sizes of a model and of its graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .cache import CacheLayout, CachePolicy
from .positions import PositionScheme

__all__ = ["Geometry"]


@dataclass(frozen=True)
class Geometry:
    """All sizes of the model and of its graphs; all are static.

    Attributes:
        layers: Transformer blocks L.
        heads: Attention heads H.
        head_size: Channels d of a head.
        tokens_per_frame: Tokens S of a latent frame.
        latent_channels: Channels c of the latent.
        latent_height: Height h of the latent.
        latent_width: Width w of the latent.
        chunk_frames: Latent frames T that one autoregressive step generates.
        layout: Memory layout of the KV cache.
        policy: Latent frames that the KV cache keeps.
        requests: Requests R in one run of the denoise graph.
        rows_per_request: Transformer rows of a request: 2 with guidance (null and prompt), else 1.
        max_steps: Most denoising steps.
        positions: Temporal positions of the latent frames.
        context: Frames that the cross-frame attention of a noisy chunk reads; None without it.
        context_frames: Number P of these latent frames; 0 without cross-frame attention.
        text_tokens: Tokens of a prompt; 0 without text.
        text_width: Width of the text embeddings; 0 without text.
        learned_variance: Whether the model also predicts the variance.
        stochastic: Whether the denoise graph has a noise input.
    """

    layers: int
    heads: int
    head_size: int
    tokens_per_frame: int
    latent_channels: int
    latent_height: int
    latent_width: int
    chunk_frames: int
    layout: CacheLayout
    policy: CachePolicy
    requests: int
    rows_per_request: int
    max_steps: int
    positions: PositionScheme
    context: Literal["previous", "first"] | None
    context_frames: int
    text_tokens: int
    text_width: int
    learned_variance: bool
    stochastic: bool

    def __post_init__(self) -> None:
        optional = ("context_frames", "text_tokens", "text_width")
        for name, value in vars(self).items():
            if isinstance(value, int) and not isinstance(value, bool) and value < (0 if name in optional else 1):
                raise ValueError(f"{name} must be at least {0 if name in optional else 1}, got {value}")
        self.policy.check_chunk(self.chunk_frames)
        if self.context_frames > self.chunk_frames:
            raise ValueError(
                f"chunk_frames must be at least context_frames={self.context_frames}, got {self.chunk_frames}"
            )
        self.positions.check_slots(self.slots, self.chunk_frames)

    @property
    def slots(self) -> int:
        """Capacity K of the KV cache, in latent frames."""
        return self.policy.capacity

    @property
    def rows(self) -> int:
        """Transformer rows B of the denoise graph."""
        return self.requests * self.rows_per_request

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a latent frame."""
        return self.latent_channels, self.latent_height, self.latent_width

    @property
    def cache_elements(self) -> int:
        """Elements of the whole KV cache: 2·L·K·B·S·C."""
        width = self.heads * self.head_size
        return 2 * self.layers * self.slots * self.rows * self.tokens_per_frame * width

    @property
    def cache_lines(self) -> int:
        """Number of lines of a transformer row of the cache; each holds the slots one after the other."""
        return self.layout.lines(self.tokens_per_frame, self.heads)

    @property
    def slot_elements(self) -> int:
        """Elements of one slot in a line of the cache."""
        return self.tokens_per_frame * self.heads * self.head_size // self.cache_lines

    def cache_shape(self, rows: int, frames: int) -> tuple[int, int, int, int]:
        """Return the shape of K or V of one layer for ``rows`` transformer rows and ``frames`` latent frames."""
        return self.layout.shape(rows, self.tokens_per_frame, self.heads, self.head_size, frames)
