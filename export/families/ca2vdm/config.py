"""The architecture of one Ca2-VDM transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ....errors import ExportError

__all__ = ["Context", "Positions", "TransformerConfig", "check_values", "find_size_misfit"]

Positions = Literal["cyclic", "rope", "absolute"]
Context = Literal["previous", "first"]

# Minimum and maximum of each number. The maxima are far beyond any model; they keep products within 64 bits.
_BOUNDS: Mapping[str, tuple[int, int]] = {
    "patch_size": (1, 2**10),
    "latent_channels": (1, 2**12),
    "hidden_size": (1, 2**17),
    "depth": (1, 2**10),
    "heads": (1, 2**12),
    "position_count": (1, 2**20),
    "text_tokens": (1, 2**20),
    "text_width": (0, 2**20),
}
_LARGEST_SIDE, _LARGEST_FACTOR = 2**20, 2**10


@dataclass(frozen=True)
class TransformerConfig:
    """The architecture, in vdmrt's terms.

    Attributes:
        latent_size: Height and width of a latent frame.
        latent_channels: Channels c of the latent.
        patch_size: Side of the square patch of one token.
        hidden_size: C = heads * head size.
        depth: Transformer blocks L.
        heads: Attention heads H.
        mlp_ratio: Hidden width of the MLP over C.
        learned_variance: Whether the output has c more channels with the variance value.
        text_width: Width of the text embeddings, 0 without text.
        text_tokens: Tokens of a prompt.
        space_scale: Divides the spatial positions.
        time_scale: Divides the temporal positions.
        mask_channel: Whether block 0 merges a clean/noisy mask into its temporal branch.
        positions: Kind of the temporal positions.
        position_count: Rows of the temporal table (``max_tpe_len``).
        context: Latent frames that the cross-frame attention of a noisy chunk reads; None without that branch.
        context_frames: Number P of these frames; 0 without that branch.
        chunk_causal: Whether attention within a noisy chunk is causal; in a clean chunk it always is.
    """

    family: ClassVar[str] = "ca2vdm"

    latent_size: tuple[int, int]
    latent_channels: int = 4
    patch_size: int = 2
    hidden_size: int = 1152
    depth: int = 28
    heads: int = 16
    mlp_ratio: float = 4.0
    learned_variance: bool = True
    text_width: int = 0
    text_tokens: int = 120
    space_scale: float = 1.0
    time_scale: float = 1.0
    mask_channel: bool = False
    positions: Positions = "cyclic"
    position_count: int = 33
    context: Context | None = None
    context_frames: int = 0
    chunk_causal: bool = True

    def __post_init__(self) -> None:
        check_values(vars(self))

    @property
    def head_size(self) -> int:
        """Channels d of one head."""
        return self.hidden_size // self.heads

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens in one latent frame."""
        return self.latent_size[0] // self.patch_size, self.latent_size[1] // self.patch_size

    @property
    def tokens_per_frame(self) -> int:
        """Tokens S of one latent frame."""
        return self.grid[0] * self.grid[1]

    def describe(self) -> str:
        """Return the sizes that its memory depends on, for an error message."""
        height, width = self.latent_size
        return f"a model of hidden size {self.hidden_size}, depth {self.depth} and latents of {height}x{width}"

    @property
    def output_channels(self) -> int:
        """Channels of the network's output: the prediction and, if learned, the variance value."""
        return self.latent_channels * (2 if self.learned_variance else 1)


def check_values(values: Mapping[str, Any], names: Mapping[str, str] | None = None) -> None:
    """Check the attributes of a :class:`TransformerConfig` before it is created.

    Args:
        values: Values by attribute.
        names: Names of attributes in error messages, where the user's configuration has other names.

    Raises:
        ExportError: A value is out of range, or does not fit another one.
    """
    names = names or {}
    for name, (low, high) in _BOUNDS.items():
        if not low <= values[name] <= high:
            bound = f"at least {low}" if values[name] < low else f"at most {high}"
            raise ExportError(f"{names.get(name, name)} must be {bound}, got {values[name]}")
    for name in ("mlp_ratio", "space_scale", "time_scale"):
        if not 0 < values[name] <= _LARGEST_FACTOR:
            raise ExportError(f"{name} must be positive and at most {_LARGEST_FACTOR}, got {values[name]}")
    misfit = find_size_misfit(values["latent_size"], values["patch_size"])
    if misfit is not None:
        height, width = values["latent_size"]
        raise ExportError(f"{names.get('latent_size', 'latent_size')} {height}x{width} {misfit}")
    _check_heads(values["hidden_size"], values["heads"], values["positions"], names.get("heads", "heads"))


def find_size_misfit(size: tuple[int, int], patch_size: int) -> str | None:
    """Return why a latent size does not fit a patch size, as the end of a sentence; None if it does."""
    if all(0 < side <= _LARGEST_SIDE and side % patch_size == 0 for side in size):
        return None
    return f"is not two positive multiples of the patch size {patch_size}, at most {_LARGEST_SIDE}"


def _check_heads(hidden_size: int, heads: int, positions: Positions, name: str) -> None:
    if hidden_size % heads or hidden_size % 4:
        raise ExportError(f"hidden_size must be a multiple of 4 and of {name}={heads}, got {hidden_size}")
    if positions == "rope" and hidden_size // heads % 2:
        raise ExportError(f"RoPE rotates pairs and needs an even head size, got {hidden_size // heads}")
