"""The KV cache: memory layout of its tensors, and the latent frames that it keeps."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["CacheLayout", "CachePolicy"]


class CacheLayout(str, Enum):
    """Memory layout of K or V of one layer: rows of lines; a line holds its slots one after the other.

    Attributes:
        FACTORIZED: Attention over time at each spatial position; a line for each token and head, [B, S·H, K, d].
        JOINT: Attention over all tokens of all visible frames; a line for each head, [B, H, K·S, d].
    """

    FACTORIZED = "factorized"
    JOINT = "joint"

    __str__ = str.__str__

    def lines(self, tokens: int, heads: int) -> int:
        """Return the number of lines of a transformer row."""
        return tokens * heads if self is CacheLayout.FACTORIZED else heads

    def shape(self, rows: int, tokens: int, heads: int, head_size: int, frames: int) -> tuple[int, int, int, int]:
        """Return the shape of K or V of one layer for ``frames`` latent frames."""
        columns = frames if self is CacheLayout.FACTORIZED else frames * tokens
        return rows, self.lines(tokens, heads), columns, head_size


@dataclass(frozen=True)
class CachePolicy:
    """Latent frames that the cache keeps: the first ones permanently, and the latest of the others.

    Attributes:
        sinks: The first latent frames, which are never overwritten.
        window: Slots of the ring with the latest of all other latent frames.
    """

    sinks: int
    window: int

    def __post_init__(self) -> None:
        if self.sinks < 0 or self.window < 1:
            raise ValueError(
                f"wanted sinks of at least 0 and a window of at least 1, got sinks={self.sinks}, window={self.window}"
            )

    @property
    def capacity(self) -> int:
        """Number of slots K of the cache, one latent frame each."""
        return self.sinks + self.window

    def check_chunk(self, chunk_frames: int) -> None:
        """Check that a chunk does not overwrite itself in the ring.

        Raises:
            ValueError: The ring has fewer slots than the chunk has latent frames.
        """
        if chunk_frames > self.window:
            beside = f" beside {self.sinks} sinks" if self.sinks else ""
            raise ValueError(f"slots must be at least chunk_frames={chunk_frames}{beside}, got {self.window}")
