"""Tensors in device memory, their host mirrors, and access to them for numpy and other libraries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import TensorMismatchError

if TYPE_CHECKING:
    from ...bundle import Role, TensorSpec
    from .._core import Device, Memory

__all__ = ["ALIGNMENT", "Array", "DeviceArray", "HostView", "TensorBlock", "aligned", "checked_array"]

# Alignment of every tensor's address, in bytes, as TensorRT's setTensorAddress requires.
ALIGNMENT = 256

Array = npt.NDArray[Any]
_DLPACK_CODES = {"i": 0, "u": 1, "f": 2}


def aligned(nbytes: int) -> int:
    """Round a number of bytes up to the alignment of tensors."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, eq=False, repr=False)
class DeviceArray:
    """A contiguous tensor in device memory that other libraries can share without a copy.

    It supports DLPack (``torch.from_dlpack``, ``cupy.from_dlpack``, ``numpy.from_dlpack``) and, on a GPU,
    ``__cuda_array_interface__``. The owner of the memory overwrites it with its next chunk.

    Attributes:
        memory: Memory that contains the tensor.
        address: Address of the first element.
        shape: Sizes of the axes.
        dtype: Dtype of the elements.
    """

    __slots__ = ("address", "dtype", "memory", "shape")  # slots=True breaks the refusal of unknown names in Python 3.11

    memory: Memory
    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __repr__(self) -> str:
        return f"DeviceArray({self.dtype} {list(self.shape)} on {self.memory.device.name})"

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def numpy(self) -> Array:
        """Return a copy in host memory, after waiting for all earlier work of the device."""
        out = np.empty(self.shape, self.dtype)
        device = self.memory.device
        device.download(out.ctypes.data, self.address, self.nbytes)
        device.synchronize()
        return out

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        # https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html, version 3
        device = self.memory.device
        if device.is_host:
            raise AttributeError("the tensor is in host memory; use numpy() or DLPack")
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "stream": device.stream,
            "version": 3,
        }

    def __dlpack__(self, *, stream: int | None = None, **_: Any) -> Any:
        # The consumer's stream need not wait for ours: the chunk was synchronized when it was finished.
        return self.memory.dlpack(self.address, self.shape, _DLPACK_CODES[self.dtype.kind], self.dtype.itemsize * 8)

    def __dlpack_device__(self) -> tuple[int, int]:
        device = self.memory.device
        return (1, 0) if device.is_host else (2, device.index)


class TensorBlock:
    """Small tensors of a graph, by role, in one allocation, with a mirror in host memory as numpy arrays.

    On the host the mirror is the memory itself, and upload and download do nothing.

    Attributes:
        nbytes: Bytes of the block.
    """

    def __init__(self, device: Device, specs: Iterable[TensorSpec]) -> None:
        """Allocate tensors, zeroed.

        Raises:
            DeviceError: The device does not have enough memory.
        """
        self._device = device
        self._specs = {spec.role: spec for spec in specs}
        self._offsets: dict[Role, int] = {}
        self.nbytes = 0
        for spec in self._specs.values():
            self._offsets[spec.role] = self.nbytes
            self.nbytes += aligned(spec.nbytes)
        self._memory = device.allocate(max(self.nbytes, 1))
        self._mirror = self._memory if device.is_host else device.allocate_pinned(max(self.nbytes, 1))
        if self._mirror is not self._memory:
            # Pinned memory is not zeroed by its allocation.
            device.download(self._mirror.address, self._memory.address, self.nbytes)
            device.synchronize()
        self._arrays = {role: self._view(spec) for role, spec in self._specs.items()}

    def __getitem__(self, role: Role) -> Array:
        """Return a tensor's mirror; valid until the block is closed."""
        return self._arrays[role]

    def __contains__(self, role: Role) -> bool:
        return role in self._arrays

    @property
    def address(self) -> int:
        """Address of the block on the device."""
        return self._memory.address

    def addresses(self) -> dict[str, int]:
        """Return the address of every tensor on the device by name."""
        return {spec.name: self._memory.address + self._offsets[role] for role, spec in self._specs.items()}

    def device_array(self, role: Role, row: int) -> DeviceArray:
        """Return one row of a tensor in device memory."""
        spec = self._specs[role]
        address = self._memory.address + self._offsets[role] + self._row_nbytes(role) * row
        return DeviceArray(self._memory, address, spec.shape[1:], np.dtype(spec.storage))

    def upload(self, role: Role, row: int | None = None, count: int = 1) -> None:
        """Copy a tensor's mirror, or ``count`` of its rows from ``row`` on, to the device."""
        self._transfer(self._device.upload, role, row, count, to_device=True)

    def download(self, role: Role, row: int | None = None, count: int = 1) -> None:
        """Copy a tensor, or ``count`` of its rows from ``row`` on, to its mirror; complete on return."""
        self._transfer(self._device.download, role, row, count, to_device=False)
        self._device.synchronize()

    def close(self) -> None:
        """Free the memory. Closing twice is allowed."""
        self._arrays.clear()
        try:
            self._memory.close()
        finally:
            self._mirror.close()

    def _view(self, spec: TensorSpec) -> Array:
        return np.asarray(HostView(self._mirror, self._offsets[spec.role], spec.shape, spec.storage))

    def _row_nbytes(self, role: Role) -> int:
        spec = self._specs[role]
        return spec.nbytes // spec.shape[0]

    def _transfer(self, copy: Any, role: Role, row: int | None, count: int, *, to_device: bool) -> None:
        if self._device.is_host:
            return
        offset, nbytes = self._offsets[role], self._specs[role].nbytes
        if row is not None:
            nbytes = self._row_nbytes(role)
            offset, nbytes = offset + row * nbytes, count * nbytes
        there, here = self._memory.address + offset, self._mirror.address + offset
        copy(*((there, here) if to_device else (here, there)), nbytes)


class HostView:
    """Array interface of memory (https://numpy.org/doc/stable/reference/arrays.interface.html); keeps it alive."""

    def __init__(self, memory: Memory, offset: int, shape: tuple[int, ...], dtype: str) -> None:
        self._memory = memory
        self.__array_interface__ = {
            "data": (memory.address + offset, False),
            "shape": shape,
            "typestr": np.dtype(dtype).str,
            "version": 3,
        }


def checked_array(name: str, value: npt.ArrayLike, shape: tuple[int | None, ...], axes: str) -> npt.NDArray[np.float32]:
    """Return ``value`` as contiguous float32 after checking it.

    Args:
        name: Name of the argument, for error messages.
        value: Floating point, finite; anything numpy can view.
        shape: Wanted sizes, None for any size.
        axes: Names of the axes, as "n, c, h, w".

    Raises:
        TensorMismatchError: Rank, shape or dtype differs, or a value is NaN or Inf.
    """
    array = np.asarray(value)
    if array.dtype.kind != "f":
        raise TensorMismatchError(name, f"wanted floating point, found {array.dtype}")
    fits = array.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
    if not fits:
        wanted = ", ".join("any" if side is None else str(side) for side in shape)
        raise TensorMismatchError(name, f"wanted [{axes}] = [{wanted}], found {list(array.shape)}")
    if not np.isfinite(array).all():
        raise TensorMismatchError(name, f"contains NaN or Inf at {np.argwhere(~np.isfinite(array))[0].tolist()}")
    return np.ascontiguousarray(array, np.float32)
