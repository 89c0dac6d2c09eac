"""All sizes of a causal Wan's graphs, and the slots of its cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....bundle import CacheLayout, CachePolicy, Geometry, PositionScheme
from .config import NO_WINDOW

if TYPE_CHECKING:
    from .config import WanConfig

__all__ = ["make_cache_policy", "make_geometry", "visible_ring"]


def visible_ring(config: WanConfig) -> int:
    """Return how many of the latest cached frames a chunk sees beside the sinks, at most; needs a window."""
    return config.window_frames - config.frames_per_chunk - config.sink_frames


def make_cache_policy(config: WanConfig, slots: int | None = None) -> CachePolicy:
    """Return which latent frames are cached.

    The window counts the chunk, which is not in the cache while it is made. A ring must hold a whole chunk, so it may
    be larger than what is visible of it.

    Args:
        config: The model's window and sinks.
        slots: Latent frames that are cached without a window; unused with one.

    Raises:
        ValueError: There is no window, and no ``slots``.
    """
    if config.window_frames != NO_WINDOW:
        return CachePolicy(config.sink_frames, max(visible_ring(config), config.frames_per_chunk))
    if slots is None:
        raise ValueError(f"a model without a window (window_frames={NO_WINDOW}) needs a number of slots, got none")
    return CachePolicy(sinks=0, window=max(slots, config.frames_per_chunk))


def make_geometry(config: WanConfig, *, requests: int, max_steps: int, slots: int | None = None) -> Geometry:
    """Return all sizes of the graphs.

    Args:
        config: The model.
        requests: Requests in one run of the denoise graph.
        max_steps: Most denoising steps.
        slots: See :func:`make_cache_policy`.

    Raises:
        ValueError: A number is out of range, or there is no window, and no ``slots``.
    """
    return Geometry(
        layers=config.layers,
        heads=config.heads,
        head_size=config.head_size,
        tokens_per_frame=config.tokens_per_frame,
        latent_channels=config.in_channels,
        latent_height=config.latent[0],
        latent_width=config.latent[1],
        chunk_frames=config.frames_per_chunk,
        layout=CacheLayout.JOINT,
        policy=make_cache_policy(config, slots),
        requests=requests,
        rows_per_request=1,
        max_steps=max_steps,
        positions=PositionScheme("none", 0),
        context=None,
        context_frames=0,
        text_tokens=config.text_len,
        text_width=config.text_dim,
        learned_variance=False,
        stochastic=True,
    )
