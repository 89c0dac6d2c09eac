"""The CUDA driver asked what it is and which GPUs it sees, without any CUDA package."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["CudaDriver", "Gpu", "probe_driver"]

# Of CUresult: no GPU, and a build image whose libcuda is an empty shell. Neither wants mending.
_NO_DEVICE, _STUB_LIBRARY = 100, 34
# Of CUdevice_attribute.
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    """A CUDA device: its name, and its compute capability as "9.0"."""

    name: str
    compute_capability: str


@dataclass(frozen=True)
class CudaDriver:
    """What the CUDA driver says.

    Attributes:
        version: The newest CUDA that it runs, as "12.8", or None without a driver.
        gpus: In the driver's order.
        note: Why there are no GPUs, or an empty text.
        broken: Whether a driver is installed and does not start.
    """

    version: str | None
    gpus: tuple[Gpu, ...]
    note: str
    broken: bool = False


class _CudaError(Exception):
    """A call of the driver returned ``code``."""

    def __init__(self, function: str, code: int) -> None:
        super().__init__(f"{function} returned {code}")
        self.code = code


def probe_driver(load: Callable[[str], Any] = ctypes.CDLL) -> CudaDriver:
    """Ask the driver for its version and GPUs. Raises nothing: what is wrong stands in the note.

    Starts the driver in this process, so that a child made by fork could not use CUDA afterwards.

    Args:
        load: Opens a shared library by name, or raises OSError.
    """
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        cuda = load(library)
    except OSError:
        return CudaDriver(None, (), f"no NVIDIA driver: {library} does not load")
    version = None
    try:
        version = _version(cuda)
        _call(cuda, "cuInit", 0)
        gpus = tuple(_gpu(cuda, index) for index in range(_integer(cuda, "cuDeviceGetCount")))
    except AttributeError as e:
        return CudaDriver(version, (), f"{library} is no CUDA driver: {e}", broken=True)
    except _CudaError as e:
        absent = {_NO_DEVICE: "the driver sees no GPU", _STUB_LIBRARY: f"{library} is a stub for building"}
        note = absent.get(e.code, f"the driver does not start: {e}")
        return CudaDriver(version, (), note, broken=e.code not in absent)
    return CudaDriver(version, gpus, "" if gpus else "the driver sees no GPU")


def _version(cuda: Any) -> str:
    number = _integer(cuda, "cuDriverGetVersion")
    return f"{number // 1000}.{number % 1000 // 10}"


def _gpu(cuda: Any, index: int) -> Gpu:
    device = _integer(cuda, "cuDeviceGet", index)
    name = ctypes.create_string_buffer(256)
    _call(cuda, "cuDeviceGetName", name, len(name), device)
    major = _integer(cuda, "cuDeviceGetAttribute", _COMPUTE_CAPABILITY_MAJOR, device)
    minor = _integer(cuda, "cuDeviceGetAttribute", _COMPUTE_CAPABILITY_MINOR, device)
    return Gpu(name.value.decode(errors="replace"), f"{major}.{minor}")


def _integer(cuda: Any, function: str, *arguments: int) -> int:
    number = ctypes.c_int()
    _call(cuda, function, ctypes.byref(number), *arguments)
    return number.value


def _call(cuda: Any, function: str, *arguments: Any) -> None:
    code = getattr(cuda, function)(*arguments)
    if code != 0:
        raise _CudaError(function, code)
