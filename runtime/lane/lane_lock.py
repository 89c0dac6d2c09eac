"""Lock and open state of a lane."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

__all__ = ["LaneLock"]


class LaneLock:
    """Reentrant lock held while a graph of a lane runs or its tensors change."""

    __slots__ = ("_closed", "_lock")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._closed = False

    def held(self) -> AbstractContextManager[object]:
        """Hold the lock in the block."""
        return self._lock

    @contextmanager
    def used(self) -> Iterator[None]:
        """Hold the lock of an open lane in the block.

        Raises:
            RuntimeError: The lane is closed.
        """
        with self._lock:
            self.check_open()
            yield

    def check_open(self) -> None:
        """Raise if the lane is closed, without waiting.

        Raises:
            RuntimeError: The lane is closed.
        """
        if self._closed:
            raise RuntimeError("the lane is closed, with the model that it belonged to; load the model again")

    def close(self) -> None:
        """Mark the lane closed; every later use raises."""
        self._closed = True
