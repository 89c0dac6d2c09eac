"""Whether a bundle can be amended, found by trying: folders that can be written, and room on the disk."""

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

# What a file system answers that reserves nothing.
_CANNOT_RESERVE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def check_amendable(bundle: Bundle, nbytes: int = 1) -> None:
    """Check that files can be added to a bundle, which is written anew beside itself.

    Args:
        bundle: What is to be amended.
        nbytes: Bytes of the new files, about; they are reserved for a moment.

    Raises:
        BundleError: The bundle's folder or the one around it cannot be written, or the disk has no room.
    """
    for folder in (bundle.path, bundle.path.parent):
        try:
            _reserve(folder / bundle.path.name, nbytes)
        except OSError as error:
            raise write_error(folder, error, lambda told: _refusal(bundle, nbytes, told)) from error


def _refusal(bundle: Bundle, nbytes: int, told: str) -> BundleError:
    needed = f"about {format_nbytes(nbytes)} are needed beside the bundle; " if nbytes > 1 else ""
    return BundleError(f"{told}; {needed}copy the bundle to a place that has room and can be written", path=bundle.path)


def _reserve(target: Path, nbytes: int) -> None:
    part = PartFile(target)
    try:
        if hasattr(os, "posix_fallocate"):  # macOS reserves nothing; that the folder can be written was tried
            os.posix_fallocate(part.file.fileno(), 0, nbytes)
    except OSError as error:
        if error.errno not in _CANNOT_RESERVE:
            raise
    finally:
        part.discard()
