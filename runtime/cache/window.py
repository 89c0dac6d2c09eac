"""What the graphs are told about time: which slots may be seen, and where slots and frames stand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...bundle import Geometry
from ...errors import SessionError
from .._core import Ring

__all__ = ["Window", "check_chunks", "context_frames", "make_window", "split_prefix"]


@dataclass(frozen=True)
class Window:
    """The small tensors of one chunk.

    Attributes:
        positions: Rows of the temporal table, or RoPE's query positions, int32 [T].
        slot_valid: 1 for a slot that may be seen, float32 [K].
        key_positions: RoPE's positions of the slots and of the chunk's own keys, int32 [K + T].
    """

    positions: npt.NDArray[np.int32]
    slot_valid: npt.NDArray[np.float32]
    key_positions: npt.NDArray[np.int32]


def make_window(geometry: Geometry, ring: Ring, count: int) -> Window:
    """Place the next ``count`` latent frames after those in the ring.

    The graph always takes a whole chunk; what stands behind ``count`` is padding that no valid frame sees.

    Raises:
        SessionError: Absolute positions are at their end.
    """
    slot_frames = np.array([ring.frame(slot) for slot in range(ring.slots)])
    seen = slot_frames >= 0
    # As RoPE counts them: visible frames without gaps, the sinks first, as if nothing had been evicted.
    evicted = ring.written - ring.visible
    own = ring.visible + np.arange(geometry.chunk_frames)
    ranks = np.where(slot_frames < ring.sinks, slot_frames, slot_frames - evicted)
    key_positions = np.concatenate([np.where(seen, ranks, 0), own])
    return Window(
        positions=_positions(geometry, ring.written, count).astype(np.int32),
        slot_valid=seen.astype(np.float32),
        key_positions=np.minimum(key_positions, max(geometry.positions.count - 1, 0)).astype(np.int32),
    )


def _positions(geometry: Geometry, first: int, count: int) -> npt.NDArray[np.int64]:
    last = geometry.positions.count
    frames = first + np.arange(geometry.chunk_frames)
    if geometry.positions.kind == "cyclic":
        return frames % last
    if geometry.positions.limit is not None and first + count > last:
        raise SessionError(
            f"absolute positions end at {last} latent frames, {first} are there and {count} more were asked for; "
            "start the session anew"
        )
    # RoPE: the reference clamps the end of the queries to its table, not each position.
    end = min(first + count, last)
    return np.minimum(frames - first + end - count, last - 1)


def check_chunks(geometry: Geometry, given: int, chunks: int) -> None:
    """Refuse a rollout that would run past the end of absolute positions, before it begins.

    Args:
        geometry: Of the model; cyclic positions and RoPE have no end.
        given: Latent frames that the rollout goes on from.
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

    So the last fill is a whole chunk wherever there are enough, and holds all frames of the cross-frame context.
    """
    remainder = count % chunk_frames
    starts = range(remainder, count, chunk_frames)
    return [(0, remainder)] * (remainder > 0) + [(start, chunk_frames) for start in starts]


def context_frames(geometry: Geometry, count: int) -> npt.NDArray[np.int32]:
    """Return which frames of a fill of ``count`` become the cross-frame context, int32 [P].

    The last P; where there are fewer, each is repeated P // count + 1 times and the first P are taken. With the
    first-frame context it is frame 0 (only the first fill of a session keeps it).
    """
    wanted = geometry.context_frames
    if geometry.context == "first":
        return np.zeros(wanted, np.int32)
    if count >= wanted:
        return np.arange(count - wanted, count, dtype=np.int32)
    return (np.arange(wanted) // (wanted // count + 1)).astype(np.int32)
