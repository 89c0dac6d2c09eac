"""Build locks: one process at a time builds each key, in a folder that is renamed to its place when complete."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..bundle import explained_writing, part_folder, uninterrupted
from ..errors import EngineError

__all__ = ["claim"]

_POLL_S = 0.2


@contextmanager
def claim(folder: Path, key: str, waiting: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Hold the lock on ``folder/key``, and yield a temporary folder to write in, removed at the end.

    The system releases the lock when the process dies, so that a killed build blocks no other; the next build removes
    its files.

    Args:
        folder: Folder of the engines; created if missing.
        key: The engine's name.
        waiting: Called once when another process is building the same engine.

    Yields:
        An empty folder beside the engine's place, on the same file system.

    Raises:
        EngineError: ``folder`` cannot be written.
    """
    lock = folder / f".{key}.lock"
    with explained_writing(folder / key, fail=EngineError):
        folder.mkdir(exist_ok=True)
        handle = _lock(lock, waiting)
        try:
            with part_folder(folder / key) as work:
                yield work
        finally:
            # Removed before it is released; a process that waited for it detects the removal (_lock).
            with uninterrupted():
                lock.unlink(missing_ok=True)
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
