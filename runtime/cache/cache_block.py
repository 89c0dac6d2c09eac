"""Cache blocks: K and V of every layer in one allocation, for slab, staging buffer and cross-frame context."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..device.arrays import (
    ALIGNMENT,
    HostView,
    aligned,
)

if TYPE_CHECKING:
    from ...bundle import Graph, Role
    from .._core import Device
    from ..device.arrays import (
        Array,
    )

__all__ = ["BlockShape", "CacheBlock", "allocated_nbytes"]

# L, 2 (K, V), rows, lines, columns
BlockShape = tuple[int, int, int, int, int]


def allocated_nbytes(shape: BlockShape, dtype: str) -> int:
    """Return the bytes of a block, padding included."""
    pitch = shape[4] * np.dtype(dtype).itemsize
    return aligned(shape[0] * shape[1] * _plane_lines(shape, pitch) * pitch)


def _plane_lines(shape: BlockShape, pitch: int) -> int:
    step = ALIGNMENT // math.gcd(ALIGNMENT, pitch)
    return -(-shape[2] * shape[3] // step) * step


class CacheBlock:
    """A block [L, 2 (K, V), rows, lines, columns]; see :class:`~vdmrt.bundle.CacheLayout`.

    Planes (layer, K or V) are padded by whole lines, so that each starts at an aligned address and pitched copies can
    still step from one to the next.

    Attributes:
        shape: Shape without the padding.
        dtype: Dtype of the elements.
        pitch: Bytes of a line.
        plane_lines: Lines from one plane to the next, padding included.
    """

    def __init__(self, device: Device, shape: BlockShape, dtype: str) -> None:
        """Allocate a block, zeroed.

        Raises:
            DeviceError: The device does not have enough memory.
        """
        self._device = device
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.pitch = shape[4] * self.dtype.itemsize
        self.plane_lines = _plane_lines(shape, self.pitch)
        self._memory = device.allocate(allocated_nbytes(shape, dtype))

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, without the padding."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def plane_nbytes(self) -> int:
        """Bytes from one plane to the next."""
        return self.plane_lines * self.pitch

    @property
    def row_nbytes(self) -> int:
        """Bytes of a transformer row of one plane."""
        return self.shape[3] * self.pitch

    @property
    def address(self) -> int:
        """Address of the first element."""
        return self._memory.address

    def addresses(self, graph: Graph, key_value: tuple[Role, Role], row: int) -> dict[str, int]:
        """Return the addresses of ``row`` in K and V of every layer, by tensor name of a graph."""
        planes = {(role, layer): 2 * layer + i for i, role in enumerate(key_value) for layer in range(self.shape[0])}
        return {
            spec.name: self.address + planes[spec.role, spec.layer or 0] * self.plane_nbytes + row * self.row_nbytes
            for spec in graph.with_role(*key_value)
        }

    def clear(self, row: int, count: int) -> None:
        """Zero ``count`` rows of every plane from ``row`` on."""
        self._device.zero_2d(
            self.address + row * self.row_nbytes,
            width=count * self.row_nbytes,
            height=self.shape[0] * self.shape[1],
            pitch=self.plane_nbytes,
        )

    def read(self, row: int, count: int) -> Array:
        """Return a copy of ``count`` rows, [L, 2, count, lines, columns], after waiting for all earlier work."""
        layers, parts, _, lines, columns = self.shape
        out = np.empty((layers, parts, count, lines, columns), self.dtype)
        planes = out.reshape(layers * parts, -1)
        for index, plane in enumerate(planes):
            source = self.address + index * self.plane_nbytes + row * self.row_nbytes
            self._device.download(plane.ctypes.data, source, plane.nbytes)
        self._device.synchronize()
        return out

    def write(self, row: int, values: Array) -> None:
        """Set rows from ``row`` on, [L, 2, count, lines, columns] or its last axis split; complete on return."""
        layers, parts, _, _, _ = self.shape
        planes = np.ascontiguousarray(values, self.dtype).reshape(layers * parts, -1)
        for index, plane in enumerate(planes):
            there = self.address + index * self.plane_nbytes + row * self.row_nbytes
            self._device.upload(there, plane.ctypes.data, plane.nbytes)
        self._device.synchronize()

    def view(self) -> Array:
        """Return a view of a block in host memory, without its padding; valid until the block is closed.

        Raises:
            RuntimeError: The block is on a GPU.
        """
        if not self._device.is_host:
            raise RuntimeError("a block on a GPU has no view; use read()")
        layers, parts, _, _, columns = self.shape
        padded = np.asarray(HostView(self._memory, 0, (layers, parts, self.plane_lines, columns), self.dtype.str))
        strides = (parts * self.plane_nbytes, self.plane_nbytes, self.row_nbytes, self.pitch, self.dtype.itemsize)
        return np.lib.stride_tricks.as_strided(padded, self.shape, strides)

    def close(self) -> None:
        """Free the memory. Closing twice is allowed."""
        self._memory.close()
