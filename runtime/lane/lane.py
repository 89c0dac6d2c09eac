"""A lane: one cache slab and one set of tensors for R requests, allocated once and bound by address once.

Slots never move. Denoising reads the slab in place; a cache fill writes to the staging buffer, and at most two pitched
copies bring it into the slab.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from ...bundle import Stage
from ...errors import SessionError
from ..cache.lane_cache import LaneCache, lane_cache_nbytes
from ..device.memory_limits import require_memory
from ..device.owned import Owned
from .conditioning import Conditioning
from .denoising import Denoising
from .filling import Filling
from .lane_lock import LaneLock
from .lane_tensors import LaneTensors
from .leases import Leases

if TYPE_CHECKING:
    from ...bundle import Geometry, Graph
    from .._core import Device
    from ..backends.backend import Backend, Call, Program

__all__ = ["Lane"]


class Lane:
    """A cache slab [L, 2, B, lines, slots], its staging buffer, and the tensors and bound calls of both graphs.

    On a GPU a lane has one stream, one scratch buffer, one execution context per graph and one captured denoising step,
    which stays valid from the first chunk to the last. All attributes are read-only.
    """

    __slots__ = (
        "_cache",
        "_conditioning",
        "_denoising",
        "_device",
        "_filling",
        "_geometry",
        "_graphs_id",
        "_leases",
        "_lock",
        "_owned",
    )

    def __init__(
        self,
        backend: Backend,
        geometry: Geometry,
        graphs: Mapping[str, Graph],
        programs: Mapping[str, Program],
        *,
        cuda_graph: bool = True,
        graphs_id: tuple[str, str] = ("", ""),
    ) -> None:
        """Allocate all memory, bind the graphs, and capture a denoising step if the backend supports it.

        Args:
            backend: Backend that opens the queue.
            geometry: Sizes of the model.
            graphs: Entries of "fill" and "denoise" in model.json.
            programs: The same graphs, loaded.
            cuda_graph: Whether to capture and replay steps, if the backend supports it.
            graphs_id: Precision and hash of the graphs, for snapshots.

        Raises:
            DeviceError: The device does not have enough memory, or a call failed. Nothing stays allocated.
            BackendError: The results of a replayed step and an eager one differ.
        """
        self._geometry = geometry
        self._graphs_id = graphs_id
        self._lock = LaneLock()
        self._leases = Leases(geometry.requests, self._lock)
        self._device = backend.open_device()
        if self.device.is_host:  # on a GPU the driver reports an allocation that does not fit
            _check_memory(self.device, geometry, graphs)
        self._owned = Owned()
        with self._owned.closed_on_error():
            self._cache = self._owned.add(LaneCache(self.device, geometry, graphs))
            tensors = self._owned.add(LaneTensors(self.device, geometry, graphs))
            self._conditioning = Conditioning(tensors, self._lock)
            self._bind(programs, tensors, cuda_graph)

    @property
    def geometry(self) -> Geometry:
        """Sizes of the model."""
        return self._geometry

    @property
    def device(self) -> Device:
        """Queue of all work of the lane."""
        return self._device

    @property
    def cache(self) -> LaneCache:
        """K and V of all requests."""
        return self._cache

    @property
    def graphs_id(self) -> tuple[str, str]:
        """Precision and hash of the graphs."""
        return self._graphs_id

    @property
    def lock(self) -> LaneLock:
        """Lock held while a graph of this lane runs or its tensors change."""
        return self._lock

    @property
    def leases(self) -> Leases:
        """Request slots, leased and free."""
        return self._leases

    @property
    def conditioning(self) -> Conditioning:
        """Text, guidance scale and sampler of each request."""
        return self._conditioning

    @property
    def denoising(self) -> Denoising:
        """The denoise graph."""
        return self._denoising

    @property
    def filling(self) -> Filling:
        """The fill graph."""
        return self._filling

    @property
    def cache_nbytes(self) -> int:
        """Bytes of the KV cache: 2·L·K·B·S·C elements."""
        return self.cache.nbytes

    def clear(self, request: int) -> None:
        """Zero a request's cache, context and latent: invisible slots hold zeros, because 0 × NaN is NaN."""
        with self._lock.used():
            self._cache.clear(request)
            self._denoising.clear(request)

    def close(self) -> None:
        """Free all memory. No session may use the lane any more. Closing twice is allowed.

        Raises:
            SessionError: A request is still leased.
            DeviceError: A call failed; everything was released nevertheless.
        """
        with self._lock.held():
            if not self._leases.all_free:
                raise SessionError("a lane with leased requests cannot be closed; close its sessions first")
            self._lock.close()
            self._owned.close()

    def _bind(self, programs: Mapping[str, Program], tensors: LaneTensors, cuda_graph: bool) -> None:
        """Bind the calls of both graphs. They share scratch memory, because one queue runs them in sequence."""
        denoise, fill = programs[Stage.DENOISE], programs[Stage.FILL]
        nbytes = max(denoise.scratch_nbytes, fill.scratch_nbytes)
        scratch = self._owned.add(self.device.allocate(nbytes)).address if nbytes else 0
        replays = cuda_graph and not self.device.is_host and denoise.capturable
        parts = self.device, self.geometry, tensors, self.cache
        bind = partial(_bind, denoise, self.device, scratch)
        self._denoising = self._owned.add(Denoising(*parts, bind, self._lock, replays=replays))
        bind = partial(_bind, fill, self.device, scratch)
        self._filling = self._owned.add(Filling(*parts, bind, self._lock))


def _bind(program: Program, device: Device, scratch: int, addresses: Mapping[str, int]) -> Call:
    return program.bind(device, addresses, scratch if program.scratch_nbytes else 0)


def _check_memory(device: Device, geometry: Geometry, graphs: Mapping[str, Graph]) -> None:
    """Compare the size of the cache, nearly all that a lane allocates, with the free memory."""
    remedy = "close sessions or other programs, or export again with fewer --slots or --requests"
    require_memory(device, lane_cache_nbytes(geometry, graphs), "the KV cache of a lane", remedy)
