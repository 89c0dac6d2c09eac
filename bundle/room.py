"""Check that a bundle can be amended: tries to write its folders and to reserve room on the disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BundleError
from .quantities import format_nbytes
from .storage.files import PartFile, write_error

if TYPE_CHECKING:
    from .folder import Bundle

__all__ = ["check_amendable"]

# Errors of file systems that cannot reserve room.
_CANNOT_RESERVE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def check_amendable(bundle: Bundle, nbytes: int = 1) -> None:
    """Check that files can be added to a bundle, which writes a copy beside it.

    Args:
        bundle: The bundle to amend.
        nbytes: Approximate bytes of the new files; they are reserved for a moment.

    Raises:
        BundleError: The bundle's folder or its parent cannot be written, or the disk lacks room.
    """
    for folder in (bundle.path, bundle.path.parent):
        try:
            _reserve(folder / bundle.path.name, nbytes)
        except OSError as error:
            raise write_error(folder, error, lambda reason: _refusal(bundle, nbytes, reason)) from error


def _refusal(bundle: Bundle, nbytes: int, reason: str) -> BundleError:
    needed = f"about {format_nbytes(nbytes)} are needed beside the bundle; " if nbytes > 1 else ""
    return BundleError(f"{reason}; {needed}copy the bundle to a writable place with enough room", path=bundle.path)


def _reserve(target: Path, nbytes: int) -> None:
    part = PartFile(target)
    try:
        if hasattr(os, "posix_fallocate"):  # macOS lacks it; there only writing to the folder is tried
            os.posix_fallocate(part.file.fileno(), 0, nbytes)
    except OSError as error:
        if error.errno not in _CANNOT_RESERVE:
            raise
    finally:
        part.discard()
