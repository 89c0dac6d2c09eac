"""Who builds: one process at a time for each key, in a folder that is renamed to its place when it is whole."""

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
    """Hold the right to write ``folder/key``, and give a folder to write in; nothing of it is left afterwards.

    The system drops the right when the process dies, so that a killed build blocks nobody; what it left behind is
    removed by the next one.

    Args:
        folder: Where engines lie; made if it is not there.
        key: The engine's name.
        waiting: Called once when somebody else is building the same engine.

    Yields:
        An empty folder beside the engine's place, on the same file system.

    Raises:
        EngineError: The place cannot be written.
    """
    lock = folder / f".{key}.lock"
    with explained_writing(folder / key, fail=EngineError):
        folder.mkdir(exist_ok=True)
        handle = _lock(lock, waiting)
        try:
            with part_folder(folder / key) as work:
                yield work
        finally:
            # Removed before it is released, so that nobody who waits takes a lock that has no name any more (_lock).
            with uninterrupted():
                lock.unlink(missing_ok=True)
                os.close(handle)


def _lock(path: Path, waiting: Callable[[], None]) -> int:
    """Take the lock file, and return its descriptor."""
    import fcntl

    said = False
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(handle, path):
                return handle
        except BlockingIOError:
            if not said:
                waiting()
                said = True
            time.sleep(_POLL_S)
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file still has its name: who held the lock before removed the one that we opened."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
