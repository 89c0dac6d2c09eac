"""Attention window of a chunk: visible slots, and the positions of slots and frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...bundle import Role
from ...errors import SessionError

if TYPE_CHECKING:
    from ...bundle import Geometry
    from .._core import Ring

__all__ = ["Window", "check_chunks", "context_frames", "make_window", "split_prefix"]


@dataclass(frozen=True)
class Window:
    """The visibility and position tensors of one chunk.

    Attributes:
        tensors: By role: 1 for a visible slot, float32 [K]; if the model has positions, those of the chunk's frames,
            int32 [T], and those of the slots' and the chunk's keys, int32 [K + T]. A graph uses those it has as inputs.
    """

    tensors: Mapping[Role, npt.NDArray[Any]]


def make_window(geometry: Geometry, ring: Ring, count: int) -> Window:
    """Return the window of the next ``count`` latent frames after those in the ring.

    The graph always takes a whole chunk; frames after ``count`` are padding that no valid frame attends to.

    Raises:
        SessionError: No absolute positions are left.
    """
    slot_frames = np.array([ring.frame(slot) for slot in range(ring.slots)])
    tensors: dict[Role, npt.NDArray[Any]] = {Role.SLOT_VALID: (slot_frames >= 0).astype(np.float32)}
    if geometry.positions.kind != "none":
        tensors[Role.POSITIONS] = _positions(geometry, ring.written, count).astype(np.int32)
        tensors[Role.KEY_POSITIONS] = _key_positions(geometry, ring, slot_frames).astype(np.int32)
    return Window(tensors)


def _key_positions(geometry: Geometry, ring: Ring, slot_frames: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return RoPE positions: visible frames are numbered without gaps, the sinks first, as if none was evicted."""
    evicted = ring.written - ring.visible
    own = ring.visible + np.arange(geometry.chunk_frames)
    ranks = np.where(slot_frames < ring.sinks, slot_frames, slot_frames - evicted)
    keys: npt.NDArray[np.int64] = np.concatenate([np.where(slot_frames >= 0, ranks, 0), own])
    return keys.clip(max=geometry.positions.count - 1)


def _positions(geometry: Geometry, first: int, count: int) -> npt.NDArray[np.int64]:
    last = geometry.positions.count
    frames = first + np.arange(geometry.chunk_frames)
    if geometry.positions.kind == "cyclic":
        return frames % last
    if geometry.positions.limit is not None and first + count > last:
        raise SessionError(
            f"absolute positions end at {last} latent frames, {first} are cached and {count} more were requested; "
            "start the session again"
        )
    # RoPE: the reference clamps the end of the queries to its table, not each position.
    end = min(first + count, last)
    return np.minimum(frames - first + end - count, last - 1)


def check_chunks(geometry: Geometry, given: int, chunks: int) -> None:
    """Check, before a rollout begins, that the absolute positions suffice for it.

    Args:
        geometry: Sizes of the model; cyclic positions and RoPE have no end.
        given: Latent frames that the rollout continues from.
        chunks: Autoregressive steps.

    Raises:
        ValueError: There are more chunks than positions for them.
    """
    limit = geometry.positions.limit
    if limit is None:
        return
    most = (limit - given) // geometry.chunk_frames
    if chunks > most:
        raise ValueError(
            f"--chunks must be at most {most}, got {chunks}: the model's absolute positions end at "
            f"{limit} latent frames, {given} are given, and a chunk has {geometry.chunk_frames}"
        )


def split_prefix(count: int, chunk_frames: int) -> list[tuple[int, int]]:
    """Split ``count`` given latent frames into fills (first, length), the remainder first.

    The last fill is then a whole chunk if there are enough frames, and has all frames of the cross-frame context.
    """
    remainder = count % chunk_frames
    starts = range(remainder, count, chunk_frames)
    return [(0, remainder)] * (remainder > 0) + [(start, chunk_frames) for start in starts]


def context_frames(geometry: Geometry, count: int) -> npt.NDArray[np.int32]:
    """Return the indices of the frames of a fill of ``count`` that become the cross-frame context, int32 [P].

    The last P; if there are fewer, each is repeated P // count + 1 times and the first P are taken. With the
    first-frame context it is frame 0 (only the first fill of a session keeps it).
    """
    wanted = geometry.context_frames
    if geometry.context == "first":
        return np.zeros(wanted, np.int32)
    if count >= wanted:
        return np.arange(count - wanted, count, dtype=np.int32)
    return (np.arange(wanted) // (wanted // count + 1)).astype(np.int32)
