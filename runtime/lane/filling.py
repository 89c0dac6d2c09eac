"""Cache fill of a lane: compute K and V of clean latent frames and copy them into their slots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...bundle import Role, Stage
from ..cache.window import context_frames
from ..device.owned import Owned

if TYPE_CHECKING:
    from ...bundle import Geometry
    from .._core import Device, Ring
    from ..backends.backend import Call
    from ..cache.lane_cache import LaneCache
    from ..cache.window import Window
    from ..device.arrays import Array
    from .lane_lock import LaneLock
    from .lane_tensors import LaneTensors

__all__ = ["FillTimes", "Filling"]


@dataclass(frozen=True)
class FillTimes:
    """Device times, in milliseconds, of a cache fill and of copying its K and V into the slots."""

    fill_ms: float
    scatter_ms: float


class Filling:
    """The fill graph of a lane, bound once for each request."""

    __slots__ = ("_cache", "_calls", "_device", "_geometry", "_lock", "_marks", "_owned", "_tensors")

    def __init__(
        self,
        device: Device,
        geometry: Geometry,
        tensors: LaneTensors,
        cache: LaneCache,
        bind: Callable[[Mapping[str, int]], Call],
        lock: LaneLock,
    ) -> None:
        """Bind the graph for every request.

        Raises:
            DeviceError: A call failed.
        """
        self._device = device
        self._geometry = geometry
        self._tensors = tensors
        self._cache = cache
        self._lock = lock
        keeps = (False, True) if geometry.context == "first" else (False,)
        self._owned = Owned()
        with self._owned.closed_on_error():
            self._marks = self._owned.add(device.events(3))
            self._calls = {
                (request, keep): self._owned.add(
                    bind({**tensors.fill.addresses(), **cache.fill_addresses(request, keep)})
                )
                for request in range(geometry.requests)
                for keep in keeps
            }

    def run(
        self,
        request: int,
        ring: Ring,
        latent: Array,
        window: Window,
        *,
        stage: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext(),
        before: Callable[[], None] = lambda: None,
    ) -> FillTimes:
        """Compute K and V of clean latent frames [n, c, h, w], 1 <= n <= T, and copy them into the request's slots.

        Args:
            request: Number of the request slot.
            ring: Ring of the request; selects the slots. One copy, or two if the ring wraps. Not advanced.
            latent: Clean latent frames; copied.
            window: Visible slots and positions of the frames.
            stage: Entered with "fill" and "scatter" while the host enqueues each; on the CPU while it runs.
            before: Enqueues work that reads the cache before the fill changes it.

        Raises:
            DeviceError: A call failed.
        """
        keep_context = self._geometry.context == "first" and ring.written > 0
        with self._lock.used():
            try:
                self._set_inputs(request, latent, window)
                before()
                with stage(Stage.FILL):
                    self._marks.record(0)
                    self._calls[request, keep_context].enqueue()
                    self._marks.record(1)
                with stage("scatter"):
                    self._cache.scatter(request, ring, len(latent))
                    self._marks.record(2)
                # After this wait the mirrors of the inputs may be written again.
                self._marks.wait(2)
            except BaseException:
                self._device.synchronize()
                raise
            return FillTimes(self._marks.elapsed_ms(0, 1), self._marks.elapsed_ms(1, 2))

    def close(self) -> None:
        """Release the bound calls and the events. Closing twice is allowed."""
        self._owned.close()

    def _set_inputs(self, request: int, latent: Array, window: Window) -> None:
        fill, count = self._tensors.fill, len(latent)
        fill[Role.LATENT][0, :count] = latent
        fill[Role.LATENT][0, count:] = 0
        fill.upload(Role.LATENT)
        self._tensors.set_window(fill, 0, window)
        if self._geometry.context is not None:
            fill[Role.CONTEXT_INDEX][0] = context_frames(self._geometry, count)
            fill.upload(Role.CONTEXT_INDEX)
        for role in (Role.TEXT, Role.TEXT_MASK):
            if role in fill:
                fill[role][:] = self._tensors.inputs[role][self._tensors.rows(request)]
                fill.upload(role)
