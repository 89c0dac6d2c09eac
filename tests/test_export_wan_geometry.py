"""The slots of a causal Wan's cache."""

from __future__ import annotations

import pytest

from vdmrt.bundle import CacheLayout, CachePolicy
from vdmrt.export.families.wan.config import WanConfig
from vdmrt.export.families.wan.geometry import make_cache_policy, make_geometry


def config(window: int, sinks: int, chunk: int) -> WanConfig:
    return WanConfig(latent=(4, 6), frames_per_chunk=chunk, window_frames=window, sink_frames=sinks)


@pytest.mark.parametrize(
    ("window", "sinks", "chunk", "ring"), [(12, 3, 3, 6), (21, 0, 3, 18), (6, 0, 1, 5), (9, 3, 3, 3), (8, 3, 3, 3)]
)
def test_the_window_counts_sinks_and_chunk(window: int, sinks: int, chunk: int, ring: int) -> None:
    assert make_cache_policy(config(window, sinks, chunk)) == CachePolicy(sinks, ring)


def test_a_ring_holds_a_whole_chunk_even_if_less_is_visible() -> None:
    assert make_cache_policy(config(5, 2, 3)) == CachePolicy(2, 3)


def test_a_model_without_a_window_needs_slots() -> None:
    assert make_cache_policy(config(-1, 0, 3), slots=18) == CachePolicy(0, 18)
    with pytest.raises(ValueError, match=r"window_frames=-1\) needs a number of slots, got none"):
        make_cache_policy(config(-1, 0, 3))


def test_sizes_come_from_the_model() -> None:
    g = make_geometry(config(12, 3, 3), requests=2, max_steps=4)

    assert (g.layout, g.slots, g.rows, g.tokens_per_frame) == (CacheLayout.JOINT, 9, 2, 6)
    assert g.cache_shape(2, g.slots) == (2, 12, 9 * 6, 128)
    assert (g.text_tokens, g.text_width, g.latent_shape) == (512, 4096, (16, 4, 6))
