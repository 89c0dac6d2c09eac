"""Who builds: one process at a time for each key, in a folder that is renamed to its place when it is whole."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import EngineError

__all__ = ["claim", "publish"]

_log = logging.getLogger("vdmrt")
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
    try:
        folder.mkdir(exist_ok=True)
        handle = _lock(lock, waiting)
    except OSError as error:
        raise EngineError(f"{folder}: cannot be written: {error.strerror}") from error
    try:
        for stale in folder.glob(f".{key}.*.building"):
            shutil.rmtree(stale, ignore_errors=True)
        try:
            work = Path(tempfile.mkdtemp(prefix=f".{key}.", suffix=".building", dir=folder))
        except OSError as error:
            raise EngineError(f"{folder}: cannot be written: {error.strerror}") from error
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
    finally:
        # Removed before it is released, so that nobody who waits takes a lock that has no name any more (see _lock).
        lock.unlink(missing_ok=True)
        os.close(handle)


def publish(work: Path, target: Path) -> None:
    """Rename a whole engine to its place; an engine that stood there goes.

    Raises:
        OSError: It cannot be renamed.
    """
    for path in work.iterdir():
        _sync(path)
    work.chmod(0o755)
    if target.exists():
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".building", dir=target.parent))
        target.rename(aside / "engine")
        work.rename(target)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        work.rename(target)
    _sync(target.parent)


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


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
