"""Lock files, between processes and between threads."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .interruption import uninterrupted

__all__ = ["locked"]

_POLL_S = 0.2


@contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock file, which is removed at the end; the system releases the lock when the process dies.

    Args:
        path: The lock file; created if missing.
        waiting: Called once when another holds the lock.

    Raises:
        OSError: The file cannot be created or locked.
    """
    handle = _lock(path, waiting)
    try:
        yield
    finally:
        # Removed before it is released; a process that waited for it detects the removal (_lock).
        with uninterrupted():
            path.unlink(missing_ok=True)
            os.close(handle)


def _lock(path: Path, waiting: Callable[[], None]) -> int:
    """Acquire the lock file, and return its descriptor."""
    import fcntl

    reported = False
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(handle, path):
                return handle
        except BlockingIOError:
            if not reported:
                waiting()
                reported = True
            time.sleep(_POLL_S)
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file still has its name: the previous holder of the lock may have removed it."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
