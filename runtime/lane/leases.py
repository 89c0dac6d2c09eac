"""Leases of a lane's request slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .lane_lock import LaneLock

__all__ = ["Leases"]


class Leases:
    """The free request slots of a lane. No call waits for a running graph: operations on a list are atomic."""

    __slots__ = ("_count", "_free", "_lock")

    def __init__(self, count: int, lock: LaneLock) -> None:
        self._lock = lock
        self._count = count
        self._free = list(range(count))

    @property
    def all_free(self) -> bool:
        """Whether no request slot is leased."""
        return len(self._free) == self._count

    def lease(self) -> int | None:
        """Lease a request slot, which the caller clears before use; return None if none is free.

        Raises:
            RuntimeError: The lane is closed.
        """
        self._lock.check_open()
        try:
            request = self._free[0]
        except IndexError:
            return None
        del self._free[0]  # not pop(0): a signal is handled after a call, before its result is kept
        return request

    def release(self, request: int) -> None:
        """Release a request slot."""
        self._free.append(request)
