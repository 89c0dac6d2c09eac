"""Properties of the causal Wan network that no recorded case of the repository shows."""

from __future__ import annotations

from functools import cache

import torch
from reference_rollout import frame_angles
from torch import Tensor

from vdmrt.export.families.wan.attention import KeyValue
from vdmrt.export.families.wan.config import WanConfig
from vdmrt.export.families.wan.transformer import CausalWan

CONFIG = WanConfig(latent=(4, 6), dim=32, heads=2, ffn_dim=48, layers=2, text_len=5, text_dim=12, in_channels=3)
TOKENS = CONFIG.tokens_per_frame


@cache
def make_model() -> CausalWan:
    torch.manual_seed(3)
    return CausalWan(CONFIG).eval().requires_grad_(False)


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def latents(rows: int, seed: int = 0) -> Tensor:
    return normals(rows, 3, 3, 4, 6, seed=seed)


def prompt(rows: int) -> list[KeyValue]:
    return make_model().prompt(normals(rows, 5, 12, seed=9))


def fill(rows: int) -> list[KeyValue]:
    return make_model().fill(latents(rows, 1), frame_angles(CONFIG, 0, 3, rows), None, prompt(rows))


def denoise(rows: int, past: list[KeyValue] | None, bias: Tensor | None = None) -> Tensor:
    timestep, angles = torch.full((rows, 3), 625.0), frame_angles(CONFIG, 3, 3, rows)
    return make_model().denoise(latents(rows, 2), timestep, angles, past, prompt(rows), bias=bias)


def row_of(pairs: list[KeyValue], row: int) -> list[KeyValue]:
    return [(key[row : row + 1], value[row : row + 1]) for key, value in pairs]


def test_keys_and_values_are_heads_first() -> None:
    shapes = {tensor.shape for pair in fill(2) for tensor in pair}

    assert shapes == {(2, 2, 3 * TOKENS, 16)}
    assert {tensor.shape for pair in prompt(2) for tensor in pair} == {(2, 2, 5, 16)}


def test_rows_do_not_influence_each_other() -> None:
    alone = make_model().denoise(
        latents(2, 2)[1:],
        torch.full((1, 3), 625.0),
        frame_angles(CONFIG, 3, 3, 1),
        row_of(fill(2), 1),
        row_of(prompt(2), 1),
    )

    torch.testing.assert_close(denoise(2, fill(2))[1:], alone, rtol=0, atol=1e-5)


def test_the_order_of_cached_tokens_is_free() -> None:
    reversed_past = [(key.flip(2), value.flip(2)) for key, value in fill(1)]

    torch.testing.assert_close(denoise(1, reversed_past), denoise(1, fill(1)), rtol=0, atol=1e-5)


def test_slots_that_the_bias_hides_have_no_effect() -> None:
    padded = [tuple(torch.cat([one, one.new_zeros(one.shape)], dim=2) for one in pair) for pair in fill(1)]
    bias = torch.zeros(1, 1, 1, 9 * TOKENS)
    bias[..., 3 * TOKENS : 6 * TOKENS] = -30000.0

    found = denoise(1, [(key, value) for key, value in padded], bias)
    torch.testing.assert_close(found, denoise(1, fill(1)), rtol=0, atol=1e-5)


def test_silent_frames_attend_but_leave_nothing() -> None:
    angles, text = frame_angles(CONFIG, 0, 3, 1), prompt(1)
    written = make_model().fill(latents(1, 1), angles, None, text, silent_frames=1)
    other = latents(1, 1)
    other[:, 0] += 1.0

    changed = make_model().fill(other, angles, None, text, silent_frames=1)
    assert written[0][0].shape == (1, 2, 2 * TOKENS, 16)
    for (key, value), (same_key, same_value) in zip(written, changed, strict=True):
        torch.testing.assert_close((key, value), (same_key, same_value), rtol=0, atol=1e-5)
