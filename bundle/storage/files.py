"""Atomic writing of files and folders.

While it is written, a part is beside its target, as ``.<target>.<8 hexadecimal digits>.part``, and is locked as long as
its writer runs. A writer that is killed leaves it unlocked, and the next writer to the same target removes it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ...errors import Fail
from .interruption import uninterrupted

__all__ = [
    "DISK_FULL",
    "PartFile",
    "check_writable",
    "explained_writing",
    "is_part",
    "link_or_copy",
    "part_folder",
    "replace_folder",
    "replaced_file",
    "write_error",
    "write_file",
    "sha256_of",
]

_PART = re.compile(r"\..+\.[0-9a-f]{8}\.part")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NAME_LENGTH = 48  # characters of the target's name: at most 192 bytes, and a name may have 255
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux's renameat2


def is_part(path: Path) -> bool:
    """Return whether a file or folder is an unfinished part, which is never data."""
    return _PART.fullmatch(path.name) is not None


def check_writable(path: str | os.PathLike[str], *, fail: Fail) -> Path:
    """Return the absolute path that will be written; links are followed, and stay links.

    Args:
        path: The file to be made or replaced.
        fail: Makes the error from a sentence; an exception class will do.

    Raises:
        Exception: Whatever ``fail`` makes: the folder is missing or cannot be written, or the path is taken by
            something other than a regular file.
    """
    target = _resolve_file(path, fail)
    try:
        # Only creating a file shows it: os.access is always true for root and ignores quotas.
        PartFile(target).discard()
    except OSError as error:
        raise fail(f"'{path}' cannot be written: {_reason(error)}; choose another place") from error
    return target


def write_error(path: str | os.PathLike[str], error: OSError, fail: Fail) -> Exception:
    """Return the exception for a failed write, with the system's reason in a sentence."""
    return fail(f"'{path}' cannot be written: {_reason(error)}; nothing was left half written")


@contextmanager
def explained_writing(path: str | os.PathLike[str], *, fail: Fail) -> Iterator[None]:
    """Turn an OSError from writing ``path`` into a sentence; other errors of the block pass unchanged.

    Raises:
        Exception: Whatever ``fail`` makes: the system refused to write the target, its parts, or the folders above.
        OSError: The error is about another file, or is not a system error.
    """
    try:
        yield
    except OSError as error:
        if not _is_about(error, Path(os.path.realpath(path))):
            raise
        raise write_error(path, error, fail) from error


class PartFile:
    """A file beside its target that is renamed to the target when it is kept and removed when it is discarded.

    Attributes:
        file: Open for writing and reading, in binary mode.
    """

    def __init__(self, target: Path) -> None:
        """Create the part, and remove parts of killed writers.

        Raises:
            OSError: It cannot be created.
        """
        remove_stale_parts(target)
        self._target = target
        self._kept = False
        self._path, self.file = _create_locked(target)

    def keep(self) -> None:
        """Write everything to the disk and rename the part to its target.

        Raises:
            OSError: The disk is full, or the target cannot be replaced.
        """
        self.file.flush()
        os.fsync(self.file.fileno())
        os.replace(self._path, self._target)
        self._kept = True
        self.file.close()

    def discard(self) -> None:
        """Remove the part, whether its file is closed or open. Does nothing after :meth:`keep`."""
        if self._kept:
            return
        with uninterrupted():
            self._path.unlink(missing_ok=True)
            with suppress(OSError):  # closing flushes, which fails on a full disk
                self.file.close()


@contextmanager
def replaced_file(path: str | os.PathLike[str], *, fail: Fail) -> Iterator[BinaryIO]:
    """Write a file beside its target, and rename it to the target when the block ends without an exception.

    Args:
        path: The target; an existing regular file is replaced, also behind a link.
        fail: Makes the error from a sentence; an exception class will do.

    Yields:
        The part, open in binary mode.

    Raises:
        Exception: Whatever ``fail`` makes: the target cannot be written. No part is left; an old target is unchanged.
    """
    target = _resolve_file(path, fail)
    with explained_writing(path, fail=fail):
        part = PartFile(target)
        try:
            yield part.file
            part.keep()
        finally:
            part.discard()


def write_file(path: str | os.PathLike[str], data: str | bytes, *, fail: Fail) -> None:
    """Write a whole file, text as UTF-8; see :func:`replaced_file`."""
    with replaced_file(path, fail=fail) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def part_folder(target: Path) -> Iterator[Path]:
    """Create a folder beside its target for the block to write in, and remove it when the block ends.

    The block calls :func:`replace_folder` when the folder is complete.

    Raises:
        OSError: It cannot be made.
    """
    remove_stale_parts(target)
    path, handle = _make_locked(target)
    try:
        yield path
    finally:
        with uninterrupted():
            _remove(path)
            os.close(handle)


def link_or_copy(source: Path, target: Path) -> None:
    """Make a file a hard link to another, or a copy where the file system cannot link; make the folders above it.

    Raises:
        OSError: The disk is full, or the target cannot be replaced.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # a copy must not be written through a link
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def replace_folder(part: Path, target: Path) -> None:
    """Rename a complete part folder to its target, and an existing target to the part's name.

    The two are exchanged atomically where the system can, so that even a kill in between does not lose the old one.

    Raises:
        OSError: The disk is full, or the target cannot be replaced; it is unchanged.
    """
    for path in (*part.rglob("*"), part):
        if not path.is_symlink():
            _sync(path)
    with uninterrupted():
        if not os.path.lexists(target):
            part.rename(target)
        elif not _exchange(part, target):
            _exchange_in_turn(part, target)
    _sync(target.parent)


def remove_stale_parts(target: Path) -> None:
    """Remove the parts that killed writers left beside a target; parts of running writers are locked and stay."""
    with suppress(OSError):
        for path in target.parent.iterdir():
            if path.name.startswith(f".{target.name[:_NAME_LENGTH]}.") and is_part(path):
                _remove_unlocked(path)


def _resolve_file(path: str | os.PathLike[str], fail: Fail) -> Path:
    """Return the absolute path behind links; raise if it cannot become a regular file."""
    target = Path(os.path.realpath(path))
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        if not target.parent.is_dir():
            raise fail(f"'{path}' cannot be written: there is no folder '{target.parent}'; make it first") from None
        return target
    except OSError as error:
        raise fail(f"'{path}' cannot be written: {_reason(error)}; choose another place") from error
    if stat.S_ISDIR(mode):
        raise fail(f"'{path}' cannot be written: it is a folder; give the path of a file")
    if not stat.S_ISREG(mode):
        raise fail(f"'{path}' cannot be written: it is not a regular file; give another path")
    if not os.access(target, os.W_OK):
        raise fail(f"'{path}' cannot be written: the file is write-protected; choose another place")
    return target


def _is_about(error: OSError, target: Path) -> bool:
    """Whether a system error is about writing the target; an error without a file name is a failed write."""
    if error.errno is None:
        return False
    # Copying and renaming name two files.
    names = [name for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))]
    return not names or any(_is_written_for(Path(os.path.realpath(os.fsdecode(name))), target) for name in names)


def _is_written_for(path: Path, target: Path) -> bool:
    """Whether a path is the target, a folder above it, or inside its part or lock beside it."""
    if target.is_relative_to(path):
        return True
    prefix = f".{target.name[:_NAME_LENGTH]}"
    return path.is_relative_to(target.parent) and path.relative_to(target.parent).parts[0].startswith(f"{prefix}.")


def _reason(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    return f"the disk is full ({reason})" if error.errno in DISK_FULL else reason


def _remove_unlocked(path: Path) -> None:
    with suppress(OSError):  # it is gone, or another writer has it
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            if _lock(handle):
                _remove(path)
        finally:
            os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():  # a link that a folder replaced is also a part
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _create_locked(target: Path) -> tuple[Path, BinaryIO]:
    while True:
        path = _part_path(target)
        # Not a tempfile, whose mode is private: the umask decides who may read the file.
        file = open(path, "x+b")
        try:
            _lock(file.fileno())
            if path.exists():  # otherwise another writer removed it as stale before it was locked
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
        with suppress(FileNotFoundError):  # another writer removed it as stale before it was locked
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            _lock(handle)
            if path.exists():
                return path, handle
            os.close(handle)


def _part_path(target: Path) -> Path:
    return target.with_name(f".{target.name[:_NAME_LENGTH]}.{os.urandom(4).hex()}.part")


def _lock(handle: int) -> bool:
    """Lock an open file without waiting; False if another process holds the lock, or without support for locks."""
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names atomically; False where the system or the file system cannot."""
    import ctypes

    try:
        rename = ctypes.CDLL(None).renameat2
    except AttributeError:
        return False
    names = os.fsencode(one), os.fsencode(other)
    return bool(rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def _exchange_in_turn(part: Path, target: Path) -> None:
    aside = _part_path(target)
    target.rename(aside)
    try:
        part.rename(target)
    except OSError:
        aside.rename(target)
        raise
    aside.rename(part)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 as hexadecimal digits, reading it in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
