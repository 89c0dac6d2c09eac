"""Arrays in the fake GPU's memory, exported by DLPack or ``__cuda_array_interface__`` as by torch and CuPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vdmrt.runtime._core import Device, cuda_device

__all__ = ["DlpackArray", "InterfaceArray"]

_CODES = {"i": 0, "u": 1, "f": 2}


class _GpuArray:
    """A copy of an array on a GPU, in its own memory and on its own stream.

    Attributes:
        device: Its device queue.
    """

    def __init__(self, values: npt.NDArray[Any], *, index: int = 0) -> None:
        self.device: Device = cuda_device(index)
        self._memory = self.device.allocate(max(values.nbytes, 1))
        self._values = np.ascontiguousarray(values)
        self.device.upload(self._memory.address, self._values.ctypes.data, self._values.nbytes)
        self.device.synchronize()

    def close(self) -> None:
        """Free the memory."""
        self._memory.close()
        self.device.close()


class DlpackArray(_GpuArray):
    """An array with ``__dlpack__``.

    Attributes:
        streams: Streams that consumers passed.
    """

    def __init__(self, values: npt.NDArray[Any], *, index: int = 0, code: int | None = None, kind: int = 2) -> None:
        super().__init__(values, index=index)
        self.streams: list[int | None] = []
        self._code = _CODES[values.dtype.kind] if code is None else code
        self._kind = kind

    def __dlpack_device__(self) -> tuple[int, int]:
        return (self._kind, self.device.index)

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        self.streams.append(stream)
        bits = self._values.itemsize * 8
        return self._memory.dlpack(self._memory.address, self._values.shape, self._code, bits)


class InterfaceArray(_GpuArray):
    """An array with ``__cuda_array_interface__`` only."""

    def __init__(
        self,
        values: npt.NDArray[Any],
        *,
        index: int = 0,
        axes: tuple[int, ...] | None = None,
        reversed_first: bool = False,
        stream: int | None = None,
        mask: Any = None,
    ) -> None:
        """Show ``values`` with ``axes`` as :meth:`numpy.ndarray.transpose` has them, or the first one backwards."""
        super().__init__(values, index=index)
        seen = self._values if axes is None else self._values.transpose(axes)
        seen = seen[::-1] if reversed_first else seen
        offset = seen.__array_interface__["data"][0] - self._values.__array_interface__["data"][0]
        contiguous = axes is None and not reversed_first
        self.values = seen
        self.__cuda_array_interface__ = {
            "shape": seen.shape,
            "typestr": seen.dtype.str,
            "data": (self._memory.address + offset if seen.size else 0, False),
            "strides": None if contiguous else seen.strides,
            "stream": stream if stream is not None else self.device.stream,
            "mask": mask,
            "version": 3,
        }
