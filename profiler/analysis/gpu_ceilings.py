"""Ceilings of a GPU, timed by device events: the fastest copy within its memory, and the fastest matrix product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from ...bundle import format_nbytes
from ...errors import BackendError
from ..report.report import Ceilings
from .cublas import Cublas

if TYPE_CHECKING:
    from ...runtime._core import Device, Memory

__all__ = ["measure_gpu_ceilings"]

# Larger than any GPU's cache; allocated twice where memory allows.
_COPY_NBYTES = 256 << 20
# The larger one only where the smaller is fast: it gains little, and takes seconds on slow GPUs.
_SIDES, _QUICK_MS = (4096, 8192), 5.0
# Runs in a row between two events, so that the host's overhead is hidden; repeated.
_ROW, _RUNS = 8, 7


def measure_gpu_ceilings(
    device: Device,
    dtype: str,
    *,
    copy_nbytes: int = _COPY_NBYTES,
    sides: Sequence[int] = _SIDES,
    libraries: Sequence[str] | None = None,
) -> tuple[Ceilings, str | None]:
    """Measure on a queue that nothing else uses; release all memory afterwards.

    Args:
        device: The queue.
        dtype: Type of the matrices: "float32" (TF32 not allowed) or "float16".
        copy_nbytes: Bytes to copy; fewer if the device lacks four times as much memory.
        sides: Rows of the square matrices, the smaller first.
        libraries: Candidates for cuBLAS; see :class:`~vdmrt.profiler.analysis.cublas.Cublas`.

    Returns:
        The ceilings, and the reason why there is none for products if cuBLAS does not start.

    Raises:
        DeviceError: Memory does not suffice, or a call failed.
    """
    copy_nbytes = max(1 << 20, min(copy_nbytes, device.memory_info()[0] // 4))
    copied_ms = _time_copy(device, copy_nbytes)
    bytes_per_second = 2 * copy_nbytes / copied_ms * 1e3
    copy = f"{format_nbytes(copy_nbytes)} within the device, read and written bytes, {_how()}"
    try:
        cublas = Cublas(device, libraries)
    except BackendError as error:
        return Ceilings(None, bytes_per_second, None, copy), f"no roofline: {error}"
    flops_per_second, best = 0.0, 0
    itemsize = np.dtype(dtype).itemsize
    with cublas:
        for side in sides:
            if best and 6 * side * side * itemsize > device.memory_info()[0]:
                break  # three matrices, and as much left for others
            product_ms = _time_product(device, cublas, side, dtype)
            if 2 * side**3 / product_ms * 1e3 > flops_per_second:
                flops_per_second, best = 2 * side**3 / product_ms * 1e3, side
            if product_ms > _QUICK_MS:
                break
    product = f"{dtype} {best}×{best} by {best}×{best} in cuBLAS, {_how()}"
    return Ceilings(flops_per_second, bytes_per_second, product, copy), None


def _how() -> str:
    return f"best of {2 * _RUNS} rows of {_ROW}"


def _time_copy(device: Device, nbytes: int) -> float:
    with ExitStack() as held:
        source, target = (_allocate(device, nbytes, held) for _ in range(2))
        return _time_best(device, lambda: device.copy(target.address, source.address, nbytes))


def _time_product(device: Device, cublas: Cublas, side: int, dtype: str) -> float:
    # Random numbers: multiplying zeros takes less power, and so gives higher clocks.
    numbers = np.random.default_rng(0).standard_normal(side).astype(dtype)
    rows = np.ascontiguousarray(np.resize(numbers, (side, side)))
    with ExitStack() as held:
        left, right, product = (_allocate(device, rows.nbytes, held) for _ in range(3))
        for matrix in (left, right):
            device.upload(matrix.address, rows.ctypes.data, rows.nbytes)
        device.synchronize()
        addresses = product.address, left.address, right.address
        return _time_best(device, lambda: cublas.multiply(*addresses, side=side, dtype=dtype))


def _allocate(device: Device, nbytes: int, held: ExitStack) -> Memory:
    memory = device.allocate(nbytes)
    held.callback(memory.close)
    return memory


def _time_best(device: Device, enqueue: Callable[[], None]) -> float:
    """Return the least time of a run in milliseconds, by device events, after a warm-up row."""
    best = float("inf")
    with ExitStack() as held:
        events = device.events(2)
        held.callback(events.close)
        for run in range(1 + _RUNS):
            events.record(0)
            for _ in range(_ROW):
                enqueue()
            events.record(1)
            events.wait(1)
            if run:
                best = min(best, events.elapsed_ms(0, 1) / _ROW)
    return best
