"""The lock of a lane, and whether the lane is open."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

__all__ = ["LaneLock"]


class LaneLock:
    """Held while a graph of a lane runs or its tensors change; a thread may hold it several times."""

    __slots__ = ("_closed", "_lock")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._closed = False

    def held(self) -> AbstractContextManager[object]:
        """Keep all other threads out."""
        return self._lock

    @contextmanager
    def used(self) -> Iterator[None]:
        """Keep all other threads out of an open lane.

        Raises:
            RuntimeError: The lane is closed.
        """
        with self._lock:
            self.check_open()
            yield

    def check_open(self) -> None:
        """Refuse a closed lane, without waiting.

        Raises:
            RuntimeError: The lane is closed.
        """
        if self._closed:
            raise RuntimeError("the lane is closed, with the model that it belonged to; load the model again")

    def close(self) -> None:
        """Refuse every later use."""
        self._closed = True
