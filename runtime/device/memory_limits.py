"""What is about to be allocated, compared with the memory that is there.

A GPU's driver refuses what does not fit. The host does not: it promises more memory than it has, and ends the process
when the memory is used.
"""

from __future__ import annotations

from ...bundle import format_nbytes
from ...errors import DeviceError
from ...hosts import available_nbytes
from .._core import Device

__all__ = ["free_nbytes", "require_memory"]


def free_nbytes(device: Device) -> int:
    """Return the bytes that can still be allocated, on the host within the limits of its control groups.

    Raises:
        DeviceError: The driver's call failed.
    """
    return available_nbytes() if device.is_host else device.memory_info()[0]


def require_memory(device: Device, nbytes: int, what: str, remedy: str) -> None:
    """Check that ``nbytes`` bytes for ``what`` can be allocated.

    Raises:
        DeviceError: They cannot; ``remedy`` tells what to do.
    """
    free = free_nbytes(device)
    if nbytes > free:
        needed, there = format_nbytes(nbytes), format_nbytes(free)
        message = f"{what} needs {needed}, and {device.name} has {there} available; {remedy}"
        raise DeviceError(message, call="allocate")
