"""Files and folders that are written whole or not at all.

While it is written, a part has a name of its own beside its target, ``.<target>.<8 hexadecimal digits>.part``, and is
locked as long as its writer lives. A writer that is killed leaves it unlocked, and the next writer to the same target
removes it.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["PartFile", "check_writable", "is_part", "part_folder", "replaced_file", "write_error", "write_file"]

_PART = re.compile(r"\..+\.[0-9a-f]{8}\.part")
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NAME_LENGTH = 48  # characters of the target's name: at most 192 bytes, and a name may have 255

Fail = Callable[[str], Exception]


def is_part(path: Path) -> bool:
    """Return whether a file or folder is an unfinished one of a writer, which is never data."""
    return _PART.fullmatch(path.name) is not None


def check_writable(path: str | os.PathLike[str], *, fail: Fail) -> Path:
    """Return the absolute path that will be written; links are followed, so that they stay links.

    Args:
        path: The file to be made or replaced.
        fail: Makes the error from a sentence; an exception class will do.

    Raises:
        Exception: Whatever ``fail`` makes: the folder is missing or read-only, or the path is taken by something other
            than a regular file.
    """
    target = Path(os.path.realpath(path))
    folder = target.parent
    try:
        mode = target.stat().st_mode if target.exists() else None
    except OSError as error:
        raise write_error(path, error, fail) from error
    if mode is not None and stat.S_ISDIR(mode):
        raise fail(f"'{path}' cannot be written: it is a folder; give the path of a file")
    if mode is not None and not stat.S_ISREG(mode):
        raise fail(f"'{path}' cannot be written: it is not a regular file; give another path")
    if not folder.is_dir():
        raise fail(f"'{path}' cannot be written: there is no folder '{folder}'; make it first")
    if not os.access(folder, os.W_OK | os.X_OK) or os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise fail(f"'{path}' cannot be written: the folder '{folder}' is read-only; choose another place")
    if mode is not None and not os.access(target, os.W_OK):
        raise fail(f"'{path}' cannot be written: the file is write-protected; choose another place")
    return target


def write_error(path: str | os.PathLike[str], error: OSError, fail: Fail) -> Exception:
    """Make the exception for a write that failed, with the system's reason in a sentence."""
    reason = f"the disk is full ({error.strerror})" if error.errno in _DISK_FULL else error.strerror or str(error)
    return fail(f"'{path}' cannot be written: {reason}; nothing was left half written")


class PartFile:
    """A file beside its target that takes the target's name when it is kept and vanishes when it is discarded.

    Attributes:
        file: Open for writing and reading, in binary mode.
    """

    def __init__(self, target: Path) -> None:
        """Create the part, and remove those of writers that were killed.

        Raises:
            OSError: It cannot be created.
        """
        remove_stale_parts(target)
        self._target = target
        self._path, self.file = _create_locked(target)

    def keep(self) -> None:
        """Write everything to the disk and rename the part to its target.

        Raises:
            OSError: The disk is full, or the target cannot be replaced.
        """
        self.file.flush()
        os.fsync(self.file.fileno())
        os.replace(self._path, self._target)
        self.file.close()

    def discard(self) -> None:
        """Remove the part. Does nothing after :meth:`keep`."""
        if self.file.closed:
            return
        self._path.unlink(missing_ok=True)
        with suppress(OSError):  # closing flushes, which fails where the disk is full
            self.file.close()


@contextmanager
def replaced_file(path: str | os.PathLike[str], *, fail: Fail) -> Iterator[BinaryIO]:
    """Write a file beside its target, and rename it to the target when the block ends without an exception.

    Args:
        path: The target; a regular file that exists is replaced, a link keeps pointing at it.
        fail: Makes the error from a sentence; an exception class will do.

    Yields:
        The part, open in binary mode.

    Raises:
        Exception: Whatever ``fail`` makes: the target cannot be written. Nothing is left, and what was there stays.
    """
    target = check_writable(path, fail=fail)
    try:
        part = PartFile(target)
        try:
            yield part.file
            part.keep()
        finally:
            part.discard()
    except OSError as error:
        raise write_error(path, error, fail) from error


def write_file(path: str | os.PathLike[str], data: str | bytes, *, fail: Fail) -> None:
    """Write a whole file, text as UTF-8; see :func:`replaced_file`."""
    with replaced_file(path, fail=fail) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def part_folder(target: Path) -> Iterator[Path]:
    """Make a folder beside its target in which to write, and remove what is still there when the block ends.

    The block renames the folder to its target when all of it is written.

    Raises:
        OSError: It cannot be made.
    """
    remove_stale_parts(target)
    path, handle = _make_locked(target)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(handle)


def remove_stale_parts(target: Path) -> None:
    """Remove the parts of a target whose writers were killed; those of living writers are locked and stay."""
    with suppress(OSError):
        for path in target.parent.iterdir():
            if path.name.startswith(f".{target.name[:_NAME_LENGTH]}.") and is_part(path):
                _remove_unlocked(path)


def _remove_unlocked(path: Path) -> None:
    with suppress(OSError):  # it is gone, or somebody writes it
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            if not _lock(handle):
                return
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        finally:
            os.close(handle)


def _create_locked(target: Path) -> tuple[Path, BinaryIO]:
    while True:
        path = _part_path(target)
        # Not tempfile's: the umask is to decide who may read the file.
        file = open(path, "x+b")
        try:
            _lock(file.fileno())
            if path.exists():  # else another writer took it for a stale one before it was locked
                return path, file
        except BaseException:
            path.unlink(missing_ok=True)
            file.close()
            raise
        file.close()


def _make_locked(target: Path) -> tuple[Path, int]:
    while True:
        path = _part_path(target)
        path.mkdir()
        with suppress(FileNotFoundError):  # another writer took it for a stale one before it was locked
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            _lock(handle)
            if path.exists():
                return path, handle
            os.close(handle)


def _part_path(target: Path) -> Path:
    return target.with_name(f".{target.name[:_NAME_LENGTH]}.{secrets.token_hex(4)}.part")


def _lock(handle: int) -> bool:
    """Lock an open file without waiting; False where somebody else has it, or the file system has no locks."""
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
