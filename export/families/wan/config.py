"""The architecture and the cache policy of one causal Wan transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ....errors import ExportError

__all__ = ["NO_WINDOW", "PATCH", "PRESETS", "Positions", "WanConfig", "find_latent_misfit", "split_pairs"]

Positions = Literal["absolute", "window"]

# Side of the square patch of one token. A token never spans two latent frames.
PATCH = 2
# The value of ``window_frames`` without eviction.
NO_WINDOW = -1

# Minimum and maximum of each number. The maxima are far beyond any model; they keep products within 64 bits.
_BOUNDS: Mapping[str, tuple[int, int]] = {
    "dim": (2, 2**17),
    "heads": (1, 2**12),
    "ffn_dim": (1, 2**20),
    "layers": (1, 2**10),
    "text_len": (1, 2**20),
    "text_dim": (1, 2**20),
    "in_channels": (1, 2**12),
    "freq_dim": (2, 2**20),
    "frames_per_chunk": (1, 2**10),
    "sink_frames": (0, 2**16),
}
_LARGEST_SIDE, _LARGEST_WINDOW = 2**20, 2**16


@dataclass(frozen=True)
class WanConfig:
    """The architecture under the reference's names, and which latent frames a call may see.

    Attributes:
        latent: Height h and width w of a latent frame.
        dim: Hidden size C = heads * head size.
        heads: Attention heads H.
        ffn_dim: Hidden width of the feed-forward.
        layers: Transformer blocks.
        text_len: Rows of a prompt's embedding, padding included.
        text_dim: Width of a prompt's embedding.
        in_channels: Channels c of the latent, and of the flow.
        freq_dim: Width of the timestep's sinusoid.
        eps: Added to the variance in all norms.
        frames_per_chunk: Latent frames F of a chunk.
        window_frames: Most latent frames that a call sees: sinks, past, and the chunk itself; -1 for all.
        sink_frames: First latent frames of the video, which are never evicted.
        positions: Position of a latent frame: ``absolute``, its number in the video, or ``window``, its index among
            the frames that a call sees.
        context_timestep: Timestep at which a finished chunk is written to the cache.
    """

    family: ClassVar[str] = "wan"

    latent: tuple[int, int]
    dim: int = 1536
    heads: int = 12
    ffn_dim: int = 8960
    layers: int = 30
    text_len: int = 512
    text_dim: int = 4096
    in_channels: int = 16
    freq_dim: int = 256
    eps: float = 1e-6
    frames_per_chunk: int = 3
    window_frames: int = NO_WINDOW
    sink_frames: int = 0
    positions: Positions = "absolute"
    context_timestep: float = 0.0

    def __post_init__(self) -> None:
        _check_numbers(vars(self))
        misfit = find_latent_misfit(self.latent)
        if misfit is not None:
            raise ExportError(f"latent {self.latent[0]}x{self.latent[1]} {misfit}")
        _check_heads(self.dim, self.heads)
        _check_window(self.window_frames, self.frames_per_chunk, self.sink_frames)

    @property
    def head_size(self) -> int:
        """Channels d of one head."""
        return self.dim // self.heads

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens in one latent frame."""
        return self.latent[0] // PATCH, self.latent[1] // PATCH

    @property
    def tokens_per_frame(self) -> int:
        """Tokens S of one latent frame."""
        return self.grid[0] * self.grid[1]

    def describe(self) -> str:
        """Return the sizes that its memory depends on, for an error message."""
        height, width = self.latent
        return f"a causal Wan of hidden size {self.dim}, {self.layers} layers and latents of {height}x{width}"

    def sink_shift(self, start_frame: int) -> int:
        """Return by how many positions the sinks are turned while a chunk is made.

        Only differences of positions count. So with ``window`` positions all frames keep their absolute ones, except
        that the sinks, which are cached at 0, 1, …, move up to the oldest frame that follows them.

        Args:
            start_frame: Number in the video of the chunk's first latent frame.
        """
        if self.positions == "absolute" or self.window_frames == NO_WINDOW:
            return 0
        return max(0, start_frame + self.frames_per_chunk - self.window_frames)


def split_pairs(head_size: int) -> tuple[int, int, int]:
    """Return how many pairs of a head's channels turn with the latent frame, the row and the column."""
    pairs = head_size // 2
    third = pairs // 3
    return pairs - 2 * third, third, third


def find_latent_misfit(size: tuple[int, int]) -> str | None:
    """Return why patches do not divide a latent size, as the end of a sentence; None if they do."""
    if all(0 < side <= _LARGEST_SIDE and side % PATCH == 0 for side in size):
        return None
    return f"is not two positive multiples of the patch size {PATCH}, at most {_LARGEST_SIDE}"


def _check_numbers(values: Mapping[str, Any]) -> None:
    for name, (low, high) in _BOUNDS.items():
        if not low <= values[name] <= high:
            bound = f"at least {low}" if values[name] < low else f"at most {high}"
            raise ExportError(f"{name} must be {bound}, got {values[name]}")
    if values["freq_dim"] % 2:
        raise ExportError(f"freq_dim must be even, for as many cosines as sines, got {values['freq_dim']}")
    if not 0 < values["eps"] < 1:
        raise ExportError(f"eps must be between 0 and 1, got {values['eps']}")
    if values["positions"] not in ("absolute", "window"):
        raise ExportError(f"positions must be 'absolute' or 'window', got {values['positions']!r}")
    if not 0 <= values["context_timestep"] <= 1000:
        raise ExportError(f"context_timestep must be between 0 and 1000, got {values['context_timestep']}")


def _check_heads(dim: int, heads: int) -> None:
    if dim % heads:
        raise ExportError(f"dim must be a multiple of heads={heads}, got {dim}")
    if dim // heads % 2:
        raise ExportError(f"RoPE rotates pairs and needs an even head size, got {dim // heads} = {dim} / {heads}")


def _check_window(window: int, chunk: int, sinks: int) -> None:
    if window == NO_WINDOW:
        return
    if not chunk <= window <= _LARGEST_WINDOW:
        raise ExportError(
            f"window_frames counts the chunk too: it must be {NO_WINDOW} (no window) or from "
            f"frames_per_chunk={chunk} to {_LARGEST_WINDOW}, got {window}"
        )
    if sinks > window - chunk:
        raise ExportError(
            f"sink_frames must be at most window_frames - frames_per_chunk = {window} - {chunk}, got {sinks}"
        )


_SMALL: Mapping[str, Any] = {"dim": 1536, "heads": 12, "ffn_dim": 8960, "layers": 30}
_LARGE: Mapping[str, Any] = {"dim": 5120, "heads": 40, "ffn_dim": 13824, "layers": 40}
_LATENT_480P: Mapping[str, Any] = {"latent": (60, 104)}
# Constructor arguments of published models, at 480x832 pixels. Without a policy, the size alone.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "wan-1.3b": {**_SMALL, **_LATENT_480P},
    "wan-14b": {**_LARGE, **_LATENT_480P},
    "wan-1.3b-self-forcing": {**_SMALL, **_LATENT_480P, "window_frames": 21},
    "wan-1.3b-causal-forcing": {**_SMALL, **_LATENT_480P, "window_frames": 21},
    "wan-1.3b-causal-forcing-framewise": {**_SMALL, **_LATENT_480P, "window_frames": 21, "frames_per_chunk": 1},
    "wan-1.3b-longlive": {**_SMALL, **_LATENT_480P, "window_frames": 12, "sink_frames": 3},
    "wan-1.3b-longlive-infinity": {
        **_SMALL,
        **_LATENT_480P,
        "window_frames": 12,
        "sink_frames": 3,
        "positions": "window",
    },
}
