"""Cache of a lane: slab, staging buffer and cross-frame context, and the pitched copies between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...bundle import Role, Stage
from ...errors import SessionError
from .cache_block import CacheBlock, allocated_nbytes

if TYPE_CHECKING:
    from ...bundle import Geometry, Graph
    from .._core import Device, Ring
    from ..device.arrays import Array
    from .cache_block import BlockShape

__all__ = ["LaneCache", "lane_cache_nbytes"]

_PAST = (Role.PAST_KEY, Role.PAST_VALUE)
_PRESENT = (Role.PRESENT_KEY, Role.PRESENT_VALUE)
_CONTEXT = (Role.CONTEXT_KEY, Role.CONTEXT_VALUE)


class LaneCache:
    """The slab [L, 2, B, lines, slots], the staging buffer of cache fills, and the cross-frame context.

    Slots never move: a scatter is one pitched copy of a request's rows, or two if the ring wraps.
    """

    def __init__(self, device: Device, geometry: Geometry, graphs: Mapping[str, Graph]) -> None:
        """Allocate all blocks, zeroed.

        Args:
            device: Device of the blocks.
            geometry: Sizes of the model.
            graphs: Entries of "fill" and "denoise" in model.json.

        Raises:
            DeviceError: The device does not have enough memory. Nothing stays allocated.
        """
        g = geometry
        self._device = device
        self._geometry = g
        self._blocks: list[CacheBlock] = []
        self._fill, self._denoise = graphs[Stage.FILL], graphs[Stage.DENOISE]
        self._dtype = _stored(self._fill, _PRESENT)
        self._context: CacheBlock | None = None
        self._spare_context: CacheBlock | None = None
        try:
            self._slab = self._allocate(_slots_shape(g, g.rows, g.slots), self._dtype)
            self._staging = self._allocate(_slots_shape(g, g.rows_per_request, g.chunk_frames), self._dtype)
            if g.context is not None:
                # Floating point also beside a quantized cache.
                self._context_dtype = _stored(self._fill, _CONTEXT)
                self._context = self._allocate(_context_shape(g, g.rows), self._context_dtype)
                # Receives a fill's context when the session keeps an earlier one.
                self._spare_context = self._allocate(_context_shape(g, g.rows_per_request), self._context_dtype)
        except BaseException:
            self.close()
            raise

    @property
    def nbytes(self) -> int:
        """Bytes of the KV cache: 2·L·K·B·S·C elements."""
        return self._slab.nbytes

    @property
    def has_context(self) -> bool:
        """Whether the model has cross-frame attention."""
        return self._context is not None

    def denoise_addresses(self) -> dict[str, int]:
        """Return the addresses of the denoise graph's tensors in this cache."""
        context = self._context.addresses(self._denoise, _CONTEXT, 0) if self._context is not None else {}
        return {**self._slab.addresses(self._denoise, _PAST, 0), **context}

    def fill_addresses(self, request: int, keep_context: bool) -> dict[str, int]:
        """Return the addresses of the fill graph's tensors in this cache, for one request."""
        row = self.first_row(request)
        context, context_row = (self._spare_context, 0) if keep_context else (self._context, row)
        return {
            **self._slab.addresses(self._fill, _PAST, row),
            **self._staging.addresses(self._fill, _PRESENT, 0),
            **(context.addresses(self._fill, _CONTEXT, context_row) if context is not None else {}),
        }

    def first_row(self, request: int) -> int:
        """Return a request's first transformer row."""
        return request * self._geometry.rows_per_request

    def clear(self, request: int) -> None:
        """Zero a request's slots and context: invisible slots hold zeros, because 0 × NaN is NaN."""
        for block in (self._slab, self._context):
            if block is not None:
                block.clear(self.first_row(request), self._geometry.rows_per_request)

    def scatter(self, request: int, ring: Ring, count: int) -> None:
        """Copy the first ``count`` staged latent frames into the next slots of ``ring``."""
        self._copy_slots(request, ring, count, self._staging, into_slots=True)

    @property
    def device(self) -> Device:
        """Device of all blocks."""
        return self._device

    @property
    def undo_nbytes(self) -> int:
        """Bytes that :meth:`slots_block` and :meth:`context_block` allocate together."""
        g = self._geometry
        slots = allocated_nbytes(_slots_shape(g, g.rows_per_request, g.chunk_frames), self._dtype)
        if self._context is None:
            return slots
        return slots + allocated_nbytes(_context_shape(g, g.rows_per_request), self._context_dtype)

    def slots_block(self) -> CacheBlock:
        """Allocate a block for the slots that a chunk overwrites; the caller closes it.

        Raises:
            DeviceError: The device does not have enough memory.
        """
        g = self._geometry
        return CacheBlock(self._device, _slots_shape(g, g.rows_per_request, g.chunk_frames), self._dtype)

    def context_block(self) -> CacheBlock | None:
        """Allocate a block for one request's context, which the caller closes; None if the model has none.

        Raises:
            DeviceError: The device does not have enough memory.
        """
        g = self._geometry
        if self._context is None:
            return None
        return CacheBlock(self._device, _context_shape(g, g.rows_per_request), self._context_dtype)

    def save(self, request: int, ring: Ring, count: int, slots: CacheBlock, context: CacheBlock | None) -> None:
        """Copy to blocks the slots and the context that a fill of ``count`` latent frames overwrites."""
        self._copy_slots(request, ring, count, slots, into_slots=False)
        self._copy_context(request, context, into_lane=False)

    def restore(self, request: int, ring: Ring, count: int, slots: CacheBlock, context: CacheBlock | None) -> None:
        """Copy back the blocks of :meth:`save`; ``ring`` is in the same state as then."""
        self._copy_slots(request, ring, count, slots, into_slots=True)
        self._copy_context(request, context, into_lane=True)

    def read(self, request: int) -> Array:
        """Return a copy of a request's cache, [L, 2, *cache_shape(rows_per_request, K)]."""
        return self._framed(self._slab.read(self.first_row(request), self._geometry.rows_per_request))

    def view(self, request: int) -> Array:
        """Return a view of a request's cache in host memory, as :meth:`read`.

        Raises:
            RuntimeError: The lane is on a GPU.
        """
        row = self.first_row(request)
        return self._framed(self._slab.view()[:, :, row : row + self._geometry.rows_per_request])

    def read_context(self, request: int) -> Array:
        """Return a copy of a request's cross-frame context, [L, 2, rows_per_request, H, P·S, d].

        Raises:
            SessionError: The model has none.
        """
        if self._context is None:
            raise SessionError("the model has no cross-frame attention, so there is no context")
        return self._framed(self._context.read(self.first_row(request), self._geometry.rows_per_request))

    def write(self, request: int, visible: int, cache: Array, context: Array | None) -> None:
        """Set a request's first ``visible`` slots and its context, shaped as they are read; complete on return."""
        slots = cache.reshape(*cache.shape[:4], -1).copy()
        slots[..., visible * self._geometry.slot_elements :] = 0  # invisible slots hold zeros, because 0 × NaN is NaN
        self._slab.write(self.first_row(request), slots)
        if self._context is not None and context is not None:
            self._context.write(self.first_row(request), context)

    def close(self) -> None:
        """Free all memory, despite failures. Closing twice is allowed.

        Raises:
            DeviceError: A call failed; everything was released nevertheless.
        """
        first: Exception | None = None
        while self._blocks:
            try:
                self._blocks.pop().close()
            except Exception as error:
                first = first or error
        if first is not None:
            raise first

    def _allocate(self, shape: BlockShape, dtype: str) -> CacheBlock:
        self._blocks.append(CacheBlock(self._device, shape, dtype))
        return self._blocks[-1]

    def _copy_slots(self, request: int, ring: Ring, count: int, block: CacheBlock, *, into_slots: bool) -> None:
        g, slab = self._geometry, self._slab
        frame = g.slot_elements * slab.dtype.itemsize
        rows = slab.address + self.first_row(request) * slab.row_nbytes
        for slot, first, length in ring.segments(count):
            places = [(rows + slot * frame, slab), (block.address + first * frame, block)]
            (destination, to), (source, of) = places if into_slots else reversed(places)
            self._device.copy_3d(
                destination,
                source,
                width=length * frame,
                height=g.rows_per_request * g.cache_lines,
                depth=2 * g.layers,
                destination_pitch=to.pitch,
                destination_height=to.plane_lines,
                source_pitch=of.pitch,
                source_height=of.plane_lines,
            )

    def _copy_context(self, request: int, block: CacheBlock | None, *, into_lane: bool) -> None:
        if self._context is None or block is None:
            return
        rows = self._context.address + self.first_row(request) * self._context.row_nbytes
        places = [(rows, self._context), (block.address, block)]
        (destination, to), (source, of) = places if into_lane else reversed(places)
        self._device.copy_3d(
            destination,
            source,
            width=of.pitch,
            height=self._geometry.rows_per_request * self._geometry.heads,
            depth=2 * self._geometry.layers,
            destination_pitch=to.pitch,
            destination_height=to.plane_lines,
            source_pitch=of.pitch,
            source_height=of.plane_lines,
        )

    def _framed(self, block: Array) -> Array:
        """Split the last axis of a block into frames (or tokens) and channels."""
        framed: Array = block.reshape(*block.shape[:-1], -1, self._geometry.head_size)
        return framed


def lane_cache_nbytes(geometry: Geometry, graphs: Mapping[str, Graph]) -> int:
    """Return the bytes that a lane's cache allocates: slab, staging buffer and cross-frame context."""
    g, fill = geometry, graphs[Stage.FILL]
    dtype = _stored(fill, _PRESENT)
    nbytes = allocated_nbytes(_slots_shape(g, g.rows, g.slots), dtype)
    nbytes += allocated_nbytes(_slots_shape(g, g.rows_per_request, g.chunk_frames), dtype)
    if g.context is not None:
        dtype = _stored(fill, _CONTEXT)
        nbytes += sum(allocated_nbytes(_context_shape(g, rows), dtype) for rows in (g.rows, g.rows_per_request))
    return nbytes


def _slots_shape(g: Geometry, rows: int, frames: int) -> BlockShape:
    return (g.layers, 2, rows, g.cache_lines, frames * g.slot_elements)


def _context_shape(g: Geometry, rows: int) -> BlockShape:
    return (g.layers, 2, rows, g.heads, g.context_frames * g.tokens_per_frame * g.head_size)


def _stored(fill: Graph, key_value: tuple[Role, Role]) -> str:
    return fill.tensor(key_value[0], layer=0).storage
