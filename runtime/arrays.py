"""Numpy arrays over device memory of the host, and checks of arrays that callers give."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import TensorMismatchError
from ._core import Device, Memory

__all__ = ["Array", "HostArray", "allocate_array", "checked_array"]

Array = npt.NDArray[Any]


class HostArray:
    """Memory of the host device with a shape and a dtype.

    Attributes:
        memory: Owns the bytes.
        array: A view of them; valid until ``memory`` is closed.
    """

    def __init__(self, memory: Memory, shape: tuple[int, ...], dtype: str) -> None:
        self.memory = memory
        self.array: Array = np.asarray(_Interface(memory, shape, dtype))

    @property
    def address(self) -> int:
        """Address of the first byte."""
        return self.memory.address


class _Interface:
    """What numpy asks for (https://numpy.org/doc/stable/reference/arrays.interface.html); keeps the memory alive."""

    def __init__(self, memory: Memory, shape: tuple[int, ...], dtype: str) -> None:
        self._memory = memory
        self.__array_interface__ = {
            "data": (memory.address, False),
            "shape": shape,
            "typestr": np.dtype(dtype).str,
            "version": 3,
        }


def allocate_array(device: Device, shape: tuple[int, ...], dtype: str) -> HostArray:
    """Allocate a zero-filled array.

    Raises:
        DeviceError: The device has not that much memory.
    """
    nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    return HostArray(device.allocate(nbytes), shape, dtype)


def checked_array(name: str, value: npt.ArrayLike, shape: tuple[int | None, ...], axes: str) -> npt.NDArray[np.float32]:
    """Return ``value`` as contiguous float32 after checking it.

    Args:
        name: What to call it in an error.
        value: Floating point, finite; anything numpy can view.
        shape: Wanted sizes, None where any will do.
        axes: Names of the axes, as "n, c, h, w".

    Raises:
        TensorMismatchError: Rank, shape or dtype differ, or a value is NaN or Inf.
    """
    array = np.asarray(value)
    if array.dtype.kind != "f":
        raise TensorMismatchError(name, f"wanted floating point, found {array.dtype}")
    fits = array.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
    if not fits:
        wanted = ", ".join("any" if side is None else str(side) for side in shape)
        raise TensorMismatchError(name, f"wanted [{axes}] = [{wanted}], found {list(array.shape)}")
    if not np.isfinite(array).all():
        raise TensorMismatchError(name, f"holds NaN or Inf at {list(np.argwhere(~np.isfinite(array))[0])}")
    return np.ascontiguousarray(array, np.float32)
