"""Rotary positions in three dimensions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vdmrt.export.families.wan.rotary import frame_table, join_tables, rotate, space_table, turn_frames

GRID, HEAD_SIZE = (2, 3), 16


def table_of(frames: list[int]) -> Tensor:
    """Return the angles [2, 1, frames * S, d / 2] of consecutive tokens of some latent frames."""
    space = torch.from_numpy(space_table(GRID, HEAD_SIZE))
    return join_tables(torch.from_numpy(frame_table(frames, HEAD_SIZE))[None], space)


def vectors(count: int) -> Tensor:
    return torch.randn(1, count, 2, HEAD_SIZE, generator=torch.Generator().manual_seed(1))


def test_a_pair_turns_as_a_complex_number() -> None:
    x, table = vectors(6), table_of([5])

    pairs = torch.view_as_complex(x.double().reshape(1, 6, 2, -1, 2))
    turned = torch.view_as_real(pairs * torch.complex(*table.double())[:, :, None]).flatten(-2)
    torch.testing.assert_close(rotate(x, table), turned.float(), rtol=0, atol=1e-6)


def test_the_first_pairs_turn_with_the_frame_then_with_row_and_column() -> None:
    cosine = table_of([7])[0, 0]  # 4, 2 and 2 pairs; tokens by rows of 3

    torch.testing.assert_close(cosine[0], torch.tensor([np.cos(7 / 10**n) for n in range(4)] + [1] * 4).float())
    torch.testing.assert_close(cosine[5, [4, 6]], torch.tensor([np.cos(1), np.cos(2)]).float())
    assert cosine[2, 4] == 1 and cosine[3, 6] == 1


@pytest.mark.parametrize("frame", [1024, 100_000, 10_000_000])
def test_angles_of_late_frames_are_rounded_once(frame: int) -> None:
    table = frame_table([frame], 128)
    exact = frame * 10000.0 ** (-np.arange(22) / 22)

    np.testing.assert_allclose(table[0], [np.cos(exact), np.sin(exact)], rtol=0, atol=6e-8)


def test_turned_keys_equal_those_of_later_frames() -> None:
    x = vectors(12)
    turn = torch.from_numpy(frame_table(40, HEAD_SIZE))[None]

    moved = turn_frames(rotate(x, table_of([0, 1])).transpose(1, 2), turn)
    torch.testing.assert_close(moved.transpose(1, 2), rotate(x, table_of([40, 41])), rtol=0, atol=2e-6)


def test_products_depend_on_differences_of_positions_alone() -> None:
    query, key = vectors(6), vectors(6).flip(1)

    near, far = (
        torch.einsum("bnhd,bmhd->bhnm", rotate(query, table_of([one])), rotate(key, table_of([other])))
        for one, other in ((9, 4), (5009, 5004))
    )
    torch.testing.assert_close(near, far, rtol=0, atol=1e-5)


def test_each_row_of_a_batch_has_its_own_frames() -> None:
    space = torch.from_numpy(space_table(GRID, HEAD_SIZE))
    joined = join_tables(torch.from_numpy(frame_table([[0, 1], [8, 9]], HEAD_SIZE)), space)

    torch.testing.assert_close(joined[:, 1:], table_of([8, 9]), rtol=0, atol=0)


def test_a_half_precision_input_keeps_its_type() -> None:
    assert rotate(vectors(6).half(), table_of([3])).dtype == torch.float16
