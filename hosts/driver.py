"""The CUDA driver: its version and its GPUs, queried through cuda-python."""

from __future__ import annotations

import ctypes
import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BackendError
from .gpu import Gpu

__all__ = ["CudaDriver", "current_gpu", "find_gpu", "probe_driver"]

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
# cuda-python and not cuda.core, which caches devices and their properties for the whole process, hides error codes,
# needs NVML for the driver's version, and never releases a GPU that it made current.
_BINDINGS = "cuda.bindings.driver"
# No GPU, and a build image with a stub libcuda. Neither is a fault of the installation.
_NO_DEVICE, _STUB_LIBRARY = 100, 34


@dataclass(frozen=True)
class CudaDriver:
    """The CUDA driver's version and GPUs.

    Attributes:
        version: The newest CUDA that it supports, as "12.8", or None where it was not queried.
        gpus: In the driver's order.
        note: Why there are no GPUs, or "".
        broken: Whether a driver is installed and does not start.
        asked: False where a driver is installed without cuda-bindings, through which it is queried.
    """

    version: str | None
    gpus: tuple[Gpu, ...]
    note: str
    broken: bool = False
    asked: bool = True


class _DriverError(BackendError):
    """A call of the driver returned ``code``."""

    def __init__(self, function: str, code: int) -> None:
        super().__init__(f"the CUDA driver does not work: {function} returned {code}; see vdmrt doctor")
        self.call = f"{function} returned {code}"
        self.code = code


def probe_driver(library: str = _LIBRARY) -> CudaDriver:
    """Query the driver's version and GPUs. Does not raise: problems are in the note.

    Starts the driver in this process; a forked child cannot use CUDA afterwards.

    Args:
        library: The driver's library; without it nothing is queried.
    """
    try:
        ctypes.CDLL(library)  # first, because without a driver cuda-python is not needed
    except OSError:
        return CudaDriver(None, (), f"no NVIDIA driver: {library} does not load")
    try:
        cuda = importlib.import_module(_BINDINGS)
    except ImportError as error:
        note = f"the NVIDIA driver is asked through cuda-bindings, which does not import ({error})"
        return CudaDriver(None, (), f"{note}: pip install cuda-bindings", asked=False)
    version = None
    try:
        version = _version(cuda)
        _call(cuda, "cuInit", 0)
        gpus = tuple(_describe(cuda, index, version) for index in range(_call(cuda, "cuDeviceGetCount")))
    except _DriverError as error:
        absent = {_NO_DEVICE: "the driver sees no GPU", _STUB_LIBRARY: f"{library} is a stub for building"}
        note = absent.get(error.code, f"the driver does not start: {error.call}")
        return CudaDriver(version, (), note, broken=error.code not in absent)
    except (RuntimeError, ValueError) as error:  # too old, not a driver, or an error code unknown to cuda-python
        return CudaDriver(version, (), f"{library} is no CUDA driver that cuda-bindings can ask: {error}", broken=True)
    return CudaDriver(version, gpus, "" if gpus else "the driver sees no GPU")


def find_gpu(index: int, task: str) -> Gpu:
    """Start the driver and return one of its GPUs. Call it before TensorRT, which may crash without a driver.

    Args:
        index: Index of the GPU, in the driver's order.
        task: What needs it, as it reads before "needs".

    Raises:
        BackendError: There is no driver, or no such GPU.
        ValueError: ``index`` is negative.
    """
    if index < 0:
        raise ValueError(f"a GPU's index must be at least 0, got {index}")
    driver = probe_driver()
    if not driver.gpus:
        raise BackendError(f"{task} needs an NVIDIA GPU: {driver.note}; take --backend onnxruntime on this machine")
    if index >= len(driver.gpus):
        found = ", ".join(f"{gpu.index}: {gpu.name}" for gpu in driver.gpus)
        raise BackendError(f"wanted GPU {index}, the driver sees {len(driver.gpus)} ({found})")
    return driver.gpus[index]


@contextmanager
def current_gpu(index: int) -> Iterator[None]:
    """Make a GPU current in the calling thread: TensorRT builds for it and loads plans onto it.

    Raises:
        BackendError: The GPU cannot be used.
    """
    cuda = importlib.import_module(_BINDINGS)
    device = _call(cuda, "cuDeviceGet", index)
    context = _call(cuda, "cuDevicePrimaryCtxRetain", device)
    try:
        _call(cuda, "cuCtxPushCurrent", context)
        try:
            yield
        finally:
            cuda.cuCtxPopCurrent()
    finally:
        cuda.cuDevicePrimaryCtxRelease(device)


def _version(cuda: Any) -> str:
    number = _call(cuda, "cuDriverGetVersion")
    return f"{number // 1000}.{number % 1000 // 10}"


def _describe(cuda: Any, index: int, version: str) -> Gpu:
    device = _call(cuda, "cuDeviceGet", index)

    def attribute(name: str) -> int:
        number = getattr(cuda.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(_call(cuda, "cuDeviceGetAttribute", number, device))

    def figure(name: str) -> int:
        """Return an attribute that only estimates need; 0 where the driver does not report it."""
        try:
            return attribute(name)
        except _DriverError:
            return 0

    name = _call(cuda, "cuDeviceGetName", 256, device).partition(b"\0")[0]
    return Gpu(
        name=name.decode(errors="replace"),
        compute_capability=f"{attribute('COMPUTE_CAPABILITY_MAJOR')}.{attribute('COMPUTE_CAPABILITY_MINOR')}",
        memory_nbytes=_call(cuda, "cuDeviceTotalMem", device),
        multiprocessors=figure("MULTIPROCESSOR_COUNT"),
        clock_hz=figure("CLOCK_RATE") * 1000,
        memory_clock_hz=figure("MEMORY_CLOCK_RATE") * 1000,
        bus_bits=figure("GLOBAL_MEMORY_BUS_WIDTH"),
        cuda=version,
        driver=_driver_version(),
        index=index,
    )


def _driver_version(path: Path = Path("/proc/driver/nvidia/version")) -> str:
    try:
        found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", path.read_text(errors="replace"))
    except OSError:
        return ""
    return found[1] if found else ""


def _call(cuda: Any, function: str, *arguments: Any) -> Any:
    """Call the driver and return its single result."""
    code, *results = getattr(cuda, function)(*arguments)
    if code != 0:
        raise _DriverError(function, int(code))
    return results[0] if results else None
