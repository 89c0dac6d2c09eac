"""The configuration of causal Wan, and what it refuses."""

from __future__ import annotations

import re
from typing import Any

import pytest

from vdmrt.errors import ExportError
from vdmrt.export.families import family_names
from vdmrt.export.families.wan.config import PRESETS, WanConfig, split_pairs


def make_config(**changes: Any) -> WanConfig:
    sizes = {"latent": (4, 8), "dim": 32, "heads": 2, "ffn_dim": 48, "layers": 2, "text_len": 5, "text_dim": 12}
    return WanConfig(**{**sizes, **changes})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"latent": (4, 7)}, "latent 4x7 is not two positive multiples of the patch size 2"),
        ({"latent": (0, 8)}, "latent 0x8 is not two positive multiples"),
        ({"dim": 33}, "dim must be a multiple of heads=2, got 33"),
        ({"dim": 34}, "RoPE rotates pairs and needs an even head size, got 17 = 34 / 2"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"text_dim": 2**21}, "text_dim must be at most 1048576, got 2097152"),
        ({"sink_frames": -1}, "sink_frames must be at least 0, got -1"),
        ({"freq_dim": 255}, "freq_dim must be even, for as many cosines as sines, got 255"),
        ({"eps": 0.0}, "eps must be between 0 and 1, got 0.0"),
        ({"positions": "cyclic"}, "positions must be 'absolute' or 'window', got 'cyclic'"),
        ({"context_timestep": -1.0}, "context_timestep must be between 0 and 1000, got -1.0"),
        ({"window_frames": 2}, "must be -1 (no window) or from frames_per_chunk=3 to 65536, got 2"),
        ({"window_frames": 9, "sink_frames": 7}, "at most window_frames - frames_per_chunk = 9 - 3, got 7"),
    ],
    ids=lambda one: "-".join(one) if isinstance(one, dict) else "",
)
def test_a_configuration_is_refused_with_its_values(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ExportError, match=re.escape(sentence)):
        make_config(**changes)


def test_a_window_may_hold_sinks_and_one_chunk_alone() -> None:
    assert make_config(window_frames=9, sink_frames=6).sink_frames == 6


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_heads_of_128_and_1560_tokens_a_latent_frame(name: str) -> None:
    config = WanConfig(**PRESETS[name])

    assert (config.head_size, config.tokens_per_frame) == (128, 1560)


@pytest.mark.parametrize(("head_size", "pairs"), [(128, (22, 21, 21)), (64, (12, 10, 10)), (16, (4, 2, 2))])
def test_the_frame_takes_the_pairs_that_three_do_not_divide(head_size: int, pairs: tuple[int, int, int]) -> None:
    assert split_pairs(head_size) == pairs


@pytest.mark.parametrize(("start", "shift"), [(0, 0), (6, 0), (9, 3), (12, 6), (30000, 29994)])
def test_sinks_follow_the_window_once_frames_are_evicted(start: int, shift: int) -> None:
    config = make_config(window_frames=9, sink_frames=3, positions="window")

    assert config.sink_shift(start) == shift


def test_sinks_stay_with_absolute_positions_or_without_a_window() -> None:
    assert make_config(window_frames=9, sink_frames=3).sink_shift(12) == 0
    assert make_config(positions="window").sink_shift(12) == 0


def test_a_family_without_graphs_is_not_offered() -> None:
    assert "wan" not in family_names()
