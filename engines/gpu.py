"""The GPU as the CUDA driver describes it, asked through ctypes: no CUDA package, and no context on the GPU."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle import FP16, FP32, Precision
from ..errors import BackendError

__all__ = ["Gpu", "current_gpu", "query_gpu"]

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
# Of CUdevice_attribute.
_CLOCK, _MULTIPROCESSORS, _MEMORY_CLOCK, _BUS_BITS = 13, 16, 36, 37
_MAJOR, _MINOR = 75, 76
_NO_DEVICE, _STUB_LIBRARY = 100, 34
# Dense FP16 operations of one multiprocessor in one clock, by compute capability: from NVIDIA's tuning guides and
# architecture papers, two for each multiply-add of its tensor cores.
_FP16_PER_CLOCK = {
    "7.0": 1024, "7.5": 1024, "8.0": 2048, "8.6": 1024, "8.7": 2048, "8.9": 1024, "9.0": 4096, "10.0": 8192,
    "10.3": 8192, "12.0": 1024,
}  # fmt: skip
# Float32 outside the tensor cores: two for each of so many lanes.
_FP32_PER_CLOCK = {
    "7.0": 128, "7.5": 128, "8.0": 128, "8.6": 256, "8.7": 256, "8.9": 256, "9.0": 256, "10.0": 256, "10.3": 256,
    "12.0": 256,
}  # fmt: skip


@dataclass(frozen=True)
class Gpu:
    """A GPU, and what a plan is bound to beside it.

    Attributes:
        name: The GPU's.
        compute_capability: As "9.0".
        memory_nbytes: All of its memory.
        multiprocessors: How many; this and what follows are 0 where the driver does not say it.
        clock_hz: Highest clock of its multiprocessors.
        memory_clock_hz: Highest clock of its memory.
        bus_bits: Width of the memory bus.
        cuda: The newest CUDA that the driver runs, as "13.0".
        driver: The driver's version, or "" where it is not said.
        index: Its number, in the driver's order.
    """

    name: str
    compute_capability: str
    memory_nbytes: int
    multiprocessors: int
    clock_hz: int
    memory_clock_hz: int
    bus_bits: int
    cuda: str
    driver: str
    index: int = 0

    @property
    def bandwidth(self) -> int:
        """Bytes that the memory could move in a second at its highest clock: two words a clock."""
        return 2 * self.memory_clock_hz * self.bus_bits // 8

    def peak_flops(self, precision: Precision) -> int | None:
        """Return operations a second of dense matrix products at the highest clock; None for an unknown GPU or type."""
        tables = {FP16.linears: _FP16_PER_CLOCK, FP32.linears: _FP32_PER_CLOCK}
        per_clock = tables.get(precision.linears, {}).get(self.compute_capability)
        return per_clock * self.multiprocessors * self.clock_hz or None if per_clock else None


def query_gpu(load: Callable[[str], Any] = ctypes.CDLL, *, index: int = 0) -> Gpu:
    """Start the driver and describe one of its GPUs. Call it before TensorRT, which may crash without one.

    Args:
        load: Opens a shared library by name, or raises OSError.
        index: Which GPU, in the driver's order.

    Raises:
        BackendError: There is no driver, no such GPU, or the driver does not start.
        ValueError: ``index`` is negative.
    """
    if index < 0:
        raise ValueError(f"a GPU's index must be at least 0, got {index}")
    try:
        cuda = load(_LIBRARY)
    except OSError as error:
        raise BackendError(
            f"building TensorRT engines needs an NVIDIA GPU, and {_LIBRARY} does not load: install NVIDIA's driver, or "
            "run with --backend onnxruntime"
        ) from error
    try:
        code = cuda.cuInit(0)
        if code in (_NO_DEVICE, _STUB_LIBRARY):
            raise BackendError(
                "building TensorRT engines needs an NVIDIA GPU, and the driver sees none; run it where there is one "
                "(in a container with --gpus all), or run with --backend onnxruntime"
            )
        _check("cuInit", code)
        count = _integer(cuda, "cuDeviceGetCount")
        if count < 1:
            raise BackendError("building TensorRT engines needs an NVIDIA GPU, and the driver sees none")
        if index >= count:
            raise BackendError(f"wanted GPU {index}, the driver sees {count}, counted from 0; see vdmrt doctor")
        return _describe(cuda, index)
    except AttributeError as error:
        raise BackendError(f"{_LIBRARY} is no CUDA driver: {error}; install NVIDIA's driver again") from error


@contextmanager
def current_gpu(index: int) -> Iterator[None]:
    """Make a GPU the calling thread's current one: TensorRT builds for it and loads plans onto it.

    Raises:
        BackendError: The GPU cannot be used.
    """
    cuda = ctypes.CDLL(_LIBRARY)
    device, context = _integer(cuda, "cuDeviceGet", index), ctypes.c_void_p()
    _check("cuDevicePrimaryCtxRetain", cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
    try:
        _check("cuCtxPushCurrent", cuda.cuCtxPushCurrent_v2(context))
        try:
            yield
        finally:
            cuda.cuCtxPopCurrent_v2(ctypes.byref(context))
    finally:
        cuda.cuDevicePrimaryCtxRelease_v2(device)


def _describe(cuda: Any, index: int) -> Gpu:
    device = _integer(cuda, "cuDeviceGet", index)
    name = ctypes.create_string_buffer(256)
    _check("cuDeviceGetName", cuda.cuDeviceGetName(name, len(name), device))
    memory = ctypes.c_size_t()
    _check("cuDeviceTotalMem_v2", cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device))

    def attribute(number: int) -> int:
        return _integer(cuda, "cuDeviceGetAttribute", number, device)

    def figure(number: int) -> int:
        """Return what only an estimate hangs on; 0 where the driver does not say it."""
        try:
            return attribute(number)
        except BackendError:
            return 0

    version = _integer(cuda, "cuDriverGetVersion")
    return Gpu(
        name=name.value.decode(errors="replace"),
        compute_capability=f"{attribute(_MAJOR)}.{attribute(_MINOR)}",
        memory_nbytes=memory.value,
        multiprocessors=figure(_MULTIPROCESSORS),
        clock_hz=figure(_CLOCK) * 1000,
        memory_clock_hz=figure(_MEMORY_CLOCK) * 1000,
        bus_bits=figure(_BUS_BITS),
        cuda=f"{version // 1000}.{version % 1000 // 10}",
        driver=_driver_version(),
        index=index,
    )


def _driver_version(path: Path = Path("/proc/driver/nvidia/version")) -> str:
    try:
        found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", path.read_text(errors="replace"))
    except OSError:
        return ""
    return found[1] if found else ""


def _integer(cuda: Any, function: str, *arguments: int) -> int:
    number = ctypes.c_int()
    _check(function, getattr(cuda, function)(ctypes.byref(number), *arguments))
    return number.value


def _check(function: str, code: int) -> None:
    if code != 0:
        raise BackendError(f"the CUDA driver does not work: {function} returned {code}; see vdmrt doctor")
