"""Position scheme: the temporal positions of latent frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["PositionScheme"]


@dataclass(frozen=True)
class PositionScheme:
    """How positions are assigned to latent frames.

    Attributes:
        kind: "cyclic" rows of a table, which repeat; "absolute" rows, which end; "rope" counted from the oldest visible
            frame, applied to cached keys at every read; "none" for a model without temporal positions.
        count: Rows of the table; 0 without one.
    """

    kind: Literal["cyclic", "rope", "absolute", "none"]
    count: int

    def __post_init__(self) -> None:
        if (self.count == 0) != (self.kind == "none") or self.count < 0:
            wanted = "no positions" if self.kind == "none" else "at least 1 position"
            raise ValueError(f"positions of kind {self.kind!r} need {wanted}, got {self.count}")

    @property
    def limit(self) -> int | None:
        """Largest number of latent frames of a session; None for no limit."""
        return self.count if self.kind == "absolute" else None

    @property
    def rotates_past_keys(self) -> bool:
        """Whether keys are cached before their rotation, which mixes the two channels of a pair on every read."""
        return self.kind == "rope"

    def check_slots(self, slots: int, chunk_frames: int) -> None:
        """Check that there are enough positions: latent frames that are visible together must not share one.

        Raises:
            ValueError: There are fewer positions.
        """
        if self.limit is not None and slots > self.limit:  # never filled
            raise ValueError(
                f"there are {self.limit} absolute positions, and no more latent frames can be cached, "
                f"got slots={slots}; use slots={self.limit} or fewer"
            )
        if self.kind in ("cyclic", "rope") and slots + chunk_frames > self.count:
            fitting = self.count - chunk_frames
            remedy = f"slots={fitting}" if fitting >= chunk_frames else f"chunk_frames={self.count // 2}"
            raise ValueError(
                f"there are {self.count} {self.kind} positions for the latent frames of cache and chunk together, "
                f"got slots={slots}, chunk_frames={chunk_frames}; use {remedy} or fewer"
            )
