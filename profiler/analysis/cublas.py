"""Binding of cuBLAS for matrix products: four C functions, loaded on first use where cuBLAS is installed."""

from __future__ import annotations

import ctypes
import site
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ...errors import BackendError, DeviceError

if TYPE_CHECKING:
    from ...runtime._core import Device

__all__ = ["Cublas", "list_libraries"]

_MAJORS = (13, 12, 11)
# From cublas_api.h and library_types.h; the same in all three releases.
_AS_IT_IS, _COMPUTE_32F, _GEMM_DEFAULT = 0, 68, -1
_TYPES = {"float32": 0, "float16": 2}
_INSTALL = "pip install nvidia-cublas-cu12 (or nvidia-cublas for CUDA 13), or install the CUDA toolkit's cuBLAS"


class Cublas:
    """cuBLAS on one queue of a GPU.

    Attributes:
        library: The file or name that it was loaded from.
    """

    def __init__(self, device: Device, libraries: Sequence[str] | None = None) -> None:
        """Load the first library that starts on the GPU.

        Args:
            device: The queue for all calls; it must outlive this object.
            libraries: Libraries to try, in this order; None tries the installed ones, the newest first.

        Raises:
            BackendError: No library is found, or none starts.
        """
        device.activate()
        self._handle = ctypes.c_void_p()
        tried = []
        for library in list_libraries() if libraries is None else libraries:
            try:
                loaded = ctypes.CDLL(library)
                code = loaded.cublasCreate_v2(ctypes.byref(self._handle))
            except (OSError, AttributeError):
                continue  # missing, or not a library
            if code == 0:
                self._library, self.library = loaded, library
                self._check("cublasSetStream_v2", self._handle, ctypes.c_void_p(device.stream))
                return
            tried.append(f"{library} (cublasCreate returned {code})")
        raise BackendError(f"cuBLAS was not found{': ' + ', '.join(tried) if tried else ''}; {_INSTALL}")

    def multiply(self, product: int, left: int, right: int, *, side: int, dtype: str) -> None:
        """Enqueue one product of square, row-major matrices; float16 is accumulated in float32.

        Args:
            product: Address of the result.
            left: Address of the left matrix.
            right: Address of the right one.
            side: Rows and columns of each.
            dtype: "float32" or "float16".

        Raises:
            DeviceError: cuBLAS refuses.
        """
        one, zero, kind = ctypes.c_float(1), ctypes.c_float(0), _TYPES[dtype]
        # cuBLAS is column-major: our right matrix is its left one, transposed, and so on.
        self._check(
            "cublasGemmEx",
            self._handle,
            *(_AS_IT_IS, _AS_IT_IS, side, side, side),
            *(ctypes.byref(one), ctypes.c_void_p(right), kind, side),
            *(ctypes.c_void_p(left), kind, side),
            *(ctypes.byref(zero), ctypes.c_void_p(product), kind, side),
            *(_COMPUTE_32F, _GEMM_DEFAULT),
        )

    def close(self) -> None:
        """Release cuBLAS's resources; closing twice is allowed.

        Raises:
            DeviceError: cuBLAS refuses.
        """
        if self._handle:
            handle, self._handle = self._handle, ctypes.c_void_p()
            self._check("cublasDestroy_v2", handle)

    def __enter__(self) -> Cublas:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, name: str, *given: object) -> None:
        code = getattr(self._library, name)(*given)
        if code != 0:
            raise DeviceError(f"cuBLAS returned status {code}", call=name)


def list_libraries() -> Iterator[str]:
    """Yield candidates for the library: names that the system resolves, then files of NVIDIA's wheels."""
    for major in _MAJORS:
        yield f"libcublas.so.{major}"
        for folder in (*site.getsitepackages(), site.getusersitepackages()):
            for path in sorted(Path(folder).glob(f"nvidia/*/lib/libcublas.so.{major}")):
                # cuBLAS needs this library, which is beside it and not on the search path.
                with suppress(OSError):
                    ctypes.CDLL(str(path.with_name(f"libcublasLt.so.{major}")), mode=ctypes.RTLD_GLOBAL)
                yield str(path)
