"""RoPE in three dimensions: tables made on the host for any latent frame, and the rotation itself.

A head's channels (2i, 2i+1) are a pair. The first pairs turn with the latent frame, the next with the row, the last
with the column; within each axis, pair i of n turns by 10000^(-i/n) for each position.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .config import split_pairs

__all__ = ["axis_table", "frame_table", "join_tables", "rotate", "space_table", "turn_frames"]

_BASE = 10000.0


def axis_table(positions: npt.ArrayLike, pairs: int) -> npt.NDArray[np.float32]:
    """Return cosines and sines of each pair's angle.

    Args:
        positions: Any numbers, also negative ones, [...].
        pairs: Pairs that turn with this axis.

    Returns:
        Float32, computed in float64, [..., 2, pairs].
    """
    steps = _BASE ** (-np.arange(pairs, dtype=np.float64) / max(pairs, 1))
    angles = np.asarray(positions, dtype=np.float64)[..., None] * steps
    return np.stack([np.cos(angles), np.sin(angles)], axis=-2).astype(np.float32)


def frame_table(frames: npt.ArrayLike, head_size: int) -> npt.NDArray[np.float32]:
    """Return the angles of latent frames [..., F], as [..., F, 2, frame pairs]; there is no last frame."""
    return axis_table(frames, split_pairs(head_size)[0])


def space_table(grid: tuple[int, int], head_size: int) -> npt.NDArray[np.float32]:
    """Return the angles of the tokens of one latent frame, row by row, as [2, S, row pairs + column pairs]."""
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    _, row_pairs, column_pairs = split_pairs(head_size)
    table = np.concatenate([axis_table(rows, row_pairs), axis_table(columns, column_pairs)], axis=-1)
    return np.ascontiguousarray(table.swapaxes(0, 1))


def join_tables(frames: Tensor, space: Tensor) -> Tensor:
    """Combine the angles of a chunk's latent frames with those of the tokens in each.

    Args:
        frames: [B, F, 2, frame pairs].
        space: [2, S, row pairs + column pairs].

    Returns:
        [2, B, F * S, d / 2].
    """
    batch, count, _, pairs = frames.shape
    tokens = space.shape[1]
    by_frame = frames.permute(2, 0, 1, 3).unsqueeze(3).expand(-1, -1, -1, tokens, pairs)
    by_place = space[:, None, None].expand(-1, batch, count, -1, -1)
    return torch.cat([by_frame, by_place], dim=-1).reshape(2, batch, count * tokens, -1)


def rotate(x: Tensor, table: Tensor, heads: int = 2) -> Tensor:
    """Rotate pairs of channels (2i, 2i+1) by their angles (RoPE, Su et al. 2021, eq. 34), in place within the head.

    Args:
        x: [B, n, H, d], or with ``heads`` 1 [B, H, n, d].
        table: Cosines and sines, float32, [2, B or 1, n or 1, d / 2].
        heads: Index of the heads' dimension.

    Returns:
        Shape and type of ``x``.
    """
    cosine, sine = table[0].unsqueeze(heads), table[1].unsqueeze(heads)
    first, second = x[..., 0::2], x[..., 1::2]
    turned = torch.stack([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
    return turned.reshape(x.shape).to(x.dtype)


def turn_frames(keys: Tensor, turn: Tensor) -> Tensor:
    """Move cached keys by a number of latent frames; rows and columns stay.

    Args:
        keys: [B, H, n, d], already rotated by their positions.
        turn: Angles of that number for each batch row, [B or 1, 2, frame pairs].

    Returns:
        Shape and type of ``keys``.
    """
    channels = 2 * turn.shape[-1]
    table = turn.transpose(0, 1).unsqueeze(2)
    moved = rotate(keys[..., :channels], table, heads=1)
    return torch.cat([moved, keys[..., channels:]], dim=-1)
