"""Memory checks before an allocation on a device."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ...errors import DeviceError
from ...hosts import available_nbytes
from ...hosts import require_memory as require_free_memory

if TYPE_CHECKING:
    from .._core import Device

__all__ = ["free_nbytes", "require_memory"]


def free_nbytes(device: Device) -> int:
    """Return the bytes that can be allocated, on the host within the limits of its control groups.

    Raises:
        DeviceError: The driver's call failed.
    """
    return available_nbytes() if device.is_host else device.memory_info()[0]


def require_memory(device: Device, nbytes: int, what: str, remedy: str) -> None:
    """Check that ``nbytes`` bytes for ``what`` can be allocated.

    Raises:
        DeviceError: The device has fewer free bytes; the message ends with ``remedy``.
    """
    fail = partial(DeviceError, call="allocate")
    require_free_memory(nbytes, what, remedy, fail=fail, place=device.name, free_nbytes=free_nbytes(device))
