"""Build locks: one process at a time builds each key, in a folder that is renamed to its place when complete."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..bundle import explained_writing, locked, part_folder
from ..errors import EngineError

__all__ = ["claim"]


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
    with explained_writing(folder / key, fail=EngineError):
        folder.mkdir(exist_ok=True)
        with locked(folder / f".{key}.lock", waiting), part_folder(folder / key) as work:
            yield work
