"""Cached latent frames of one request: ring, undo log and number of chunks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

from .._core import Ring
from ..cache.undo_log import UndoLog
from ..cache.window import make_window
from ..device.memory_limits import free_nbytes, require_memory

if TYPE_CHECKING:
    from ..cache.lane_cache import LaneCache
    from ..cache.window import Window
    from ..device.arrays import Array
    from .filling import FillTimes
    from .lane import Lane

__all__ = ["RequestCache"]


class RequestCache:
    """The ring of a request, its undo log, and its number of chunks. The caller holds the lane's lock."""

    __slots__ = ("_chunks", "_lane", "_request", "_ring", "_undo")

    def __init__(self, lane: Lane, request: int, rollback_chunks: int) -> None:
        """Allocate the undo log of ``rollback_chunks`` cache fills; the request's slots are empty.

        Raises:
            DeviceError: The device does not have that much memory.
        """
        self._lane = lane
        self._request = request
        self._ring = Ring(lane.geometry.slots, sinks=lane.geometry.policy.sinks)
        _check_undo_memory(lane.cache, rollback_chunks)
        self._undo = UndoLog(lane.cache, request, self._ring, rollback_chunks)
        self._chunks = 0

    @property
    def written(self) -> int:
        """Absolute number of the next latent frame."""
        return self._ring.written

    @property
    def sinks(self) -> int:
        """Latent frames that are never overwritten."""
        return self._ring.sinks

    @property
    def chunks(self) -> int:
        """Chunks generated so far."""
        return self._chunks

    @property
    def undo_nbytes(self) -> int:
        """Bytes of device memory of the undo log."""
        return self._undo.nbytes

    def frames(self) -> list[int]:
        """Return the latent frame in each slot, -1 for an empty one."""
        return [self._ring.frame(slot) for slot in range(self._ring.slots)]

    def window(self, count: int) -> Window:
        """Return visible slots and positions for the next ``count`` latent frames.

        Raises:
            SessionError: No absolute positions are left.
        """
        return make_window(self._lane.geometry, self._ring, count)

    def fill(self, latents: Array, window: Window, stage: Callable[[str], AbstractContextManager[None]]) -> FillTimes:
        """Append up to a chunk of clean latent frames [n, c, h, w]; see :meth:`Filling.run`.

        Raises:
            DeviceError: A call failed. Some slots may hold the new frames while the ring does not count them.
        """
        count = len(latents)
        save = partial(self._undo.save, self._ring, count, self._chunks)
        times = self._lane.filling.run(self._request, self._ring, latents, window, stage=stage, before=save)
        self._ring.advance(count)
        return times

    def count_chunk(self) -> int:
        """Count a chunk after its frames were appended; return its number."""
        self._chunks += 1
        return self._chunks - 1

    def rollback(self, fills: int) -> None:
        """Undo the last ``fills`` cache fills; complete on return.

        Raises:
            ValueError: ``fills`` is not positive.
            SessionError: The undo log has fewer.
            DeviceError: A copy failed.
        """
        self._ring, self._chunks = self._undo.undo(fills)
        self._lane.device.synchronize()

    def forget_undo(self) -> None:
        """Clear the undo log; rollback cannot go back beyond this point."""
        self._undo.clear()

    def clear(self) -> None:
        """Reset the ring, the undo log and the count, and zero the request's tensors."""
        self._lane.clear(self._request)
        self._ring.reset()
        self._undo.clear()
        self._chunks = 0

    def tensors(self) -> dict[str, Array]:
        """Return copies of the cache and the context, as :meth:`LaneCache.read` and :meth:`LaneCache.read_context`."""
        cache, request = self._lane.cache, self._request
        context = {"context": cache.read_context(request)} if cache.has_context else {}
        return {"cache": cache.read(request), **context}

    def adopt(self, written: int, chunks: int, cache: Array, context: Array | None) -> None:
        """Restore the tensors that :meth:`tensors` returned after ``written`` frames and ``chunks`` chunks.

        Raises:
            DeviceError: A copy failed.
        """
        self._ring = Ring(self._ring.slots, sinks=self._ring.sinks, written=written)
        self._chunks = chunks
        self._lane.cache.write(self._request, self._ring.visible, cache, context)

    def close(self) -> None:
        """Free the undo log. Closing twice is allowed."""
        self._undo.close()


def _check_undo_memory(cache: LaneCache, depth: int) -> None:
    if depth > 0:
        most = free_nbytes(cache.device) // cache.undo_nbytes
        what = f"the log of rollback_chunks={depth}"
        require_memory(cache.device, depth * cache.undo_nbytes, what, f"at most rollback_chunks={most} fits")
