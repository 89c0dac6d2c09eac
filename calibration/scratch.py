"""Temporary folders for graphs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..bundle import DISK_FULL
from ..errors import CalibrationError

__all__ = ["scratch_folder"]


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """Create a temporary folder and remove it when the block ends.

    Args:
        purpose: A word for its name.

    Raises:
        CalibrationError: Its disk is full.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=f"vdmrt-{purpose}-") as folder:
            yield Path(folder)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise CalibrationError(
            f"temporary files cannot be written to '{tempfile.gettempdir()}': the disk is full ({error.strerror}); "
            "make room, or choose another folder with the environment variable TMPDIR"
        ) from error
