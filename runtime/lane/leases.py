"""Request slots of a lane, and which of them are free."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .lane_lock import LaneLock

__all__ = ["Leases"]


class Leases:
    """The free request slots of a lane. No call waits for what the lane is running: a list's calls are atomic."""

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
        """Lease a request slot, to be cleared before it is used; None where all are taken.

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
        """Return a request slot."""
        self._free.append(request)
