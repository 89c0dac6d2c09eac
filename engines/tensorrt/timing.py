"""The timing cache: the builder's kernel timings, reused by later builds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...bundle import (
    cache_folder,
    explained_writing,
    write_file,
)
from ...errors import EngineError

if TYPE_CHECKING:
    from ...bundle import (
        Machine,
    )
    from ...hosts.tensorrt.library import TensorRtLibrary
    from ..progress import Progress

__all__ = ["load_timing_cache", "read_timing_cache", "save_timing_cache", "timing_cache_path"]


def timing_cache_path(machine: Machine, given: Path | None) -> Path:
    """Return the path of the cache: the given one, or the user's own for this release and GPU."""
    if given is not None:
        return given
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{machine.tensorrt}-sm{machine.compute_capability}-{machine.gpu}")
    return cache_folder() / "timing" / f"{name}.cache"


def read_timing_cache(path: Path) -> bytes:
    """Return the file's bytes, empty if the file is missing.

    Raises:
        EngineError: The file exists and cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise EngineError(f"{path}: the timing cache cannot be read: {error.strerror}") from error


def load_timing_cache(tensorrt: TensorRtLibrary, config: Any, data: bytes, progress: Progress) -> None:
    """Set a config's timing cache; report and ignore one of another release or GPU."""
    for content in (data, b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return
        progress(f"the timing cache is not used: {tensorrt.log.take_errors()}")


def save_timing_cache(path: Path, data: bytes) -> None:
    """Save the file, atomically.

    Raises:
        EngineError: The file cannot be written.
    """
    with explained_writing(path, fail=EngineError):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, data, fail=EngineError)
