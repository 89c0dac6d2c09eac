"""Undo log: the contents that the last cache fills of a session overwrote."""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...bundle import format_count
from ...errors import SessionError
from .._core import Ring

if TYPE_CHECKING:
    from .cache_block import CacheBlock
    from .lane_cache import LaneCache

__all__ = ["UndoLog"]


@dataclass(frozen=True)
class _Entry:
    """One cache fill: the session's counts before it, the frames it wrote, and the place of the saved contents."""

    written: int
    chunks: int
    count: int
    place: int


class UndoLog:
    """Saved slots and contexts of the last ``depth`` cache fills. Allocated once, then reused in turn.

    Attributes:
        depth: Maximum number of cache fills that can be undone.
        nbytes: Bytes of device memory.
    """

    def __init__(self, cache: LaneCache, request: int, ring: Ring, depth: int) -> None:
        """Allocate places for ``depth`` cache fills of a request whose ring has the slots and sinks of ``ring``.

        Raises:
            DeviceError: The device does not have enough memory. Nothing is allocated.
        """
        self.depth = depth
        self._cache = cache
        self._request = request
        self._slots, self._sinks = ring.slots, ring.sinks
        self._entries: deque[_Entry] = deque(maxlen=depth)
        self._places: list[tuple[CacheBlock, CacheBlock | None]] = []
        self._next = 0
        with ExitStack() as undo:
            for _ in range(depth):
                place = cache.slots_block()
                undo.callback(place.close)
                context = cache.context_block()
                if context is not None:
                    undo.callback(context.close)
                self._places.append((place, context))
            self._close = undo.pop_all()
        self.nbytes = sum(block.nbytes for place in self._places for block in place if block is not None)

    def __len__(self) -> int:
        """Return how many cache fills can be undone now."""
        return len(self._entries)

    def save(self, ring: Ring, count: int, chunks: int) -> None:
        """Save what the next fill of ``count`` latent frames overwrites, and ``chunks``, in the oldest place."""
        if self.depth == 0:
            return
        place = self._next
        self._next = (place + 1) % self.depth
        if len(self._entries) == self.depth:
            self._entries.popleft()  # its place is reused
        self._cache.save(self._request, ring, count, *self._places[place])
        self._entries.append(_Entry(ring.written, chunks, count, place))

    def undo(self, fills: int) -> tuple[Ring, int]:
        """Undo the last ``fills`` cache fills.

        Returns:
            The ring and the number of chunks of the session before these fills.

        Raises:
            ValueError: ``fills`` is not positive.
            SessionError: The log has fewer.
        """
        if fills < 1:
            raise ValueError(f"chunks must be at least 1, got {fills}")
        if fills > len(self._entries):
            way_out = f"create the session with rollback_chunks={fills}" if fills > self.depth else "start again"
            raise SessionError(
                f"wanted to roll back {format_count(fills, 'chunk')}, and the log of rollback_chunks={self.depth} "
                f"holds {len(self._entries)}; {way_out}, or continue from a snapshot"
            )
        for entry in list(self._entries)[: -fills - 1 : -1]:  # the last first
            self._cache.restore(self._request, self._ring_before(entry), entry.count, *self._places[entry.place])
        first = self._entries[-fills]
        for _ in range(fills):
            self._entries.pop()
        self._next = first.place
        return self._ring_before(first), first.chunks

    def _ring_before(self, entry: _Entry) -> Ring:
        return Ring(self._slots, sinks=self._sinks, written=entry.written)

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()

    def close(self) -> None:
        """Free the memory. Closing twice is allowed."""
        self._close.close()
