"""Trust records: hashes of the plans that this user built, in the user's cache folder, never in a bundle."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ...errors import EngineError

__all__ = ["cache_folder", "check_trust_folder", "is_private", "is_trusted", "record_trust"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_REMEDY = "set XDG_CACHE_HOME to a folder that can be written"


def cache_folder() -> Path:
    """Return vdmrt's cache folder of this user; it may not exist yet."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification requires an absolute path, and to ignore any other.
    base = Path(root) if os.path.isabs(root) else Path.home() / ".cache"
    return base / "vdmrt"


def check_trust_folder() -> None:
    """Check that plans can be recorded as built by this user, before they are built.

    Raises:
        EngineError: The folder cannot be written.
    """
    folder = _record("0" * 64).parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        denied = not os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        raise EngineError(f"{folder}: cannot be written: {error.strerror}; {_REMEDY}") from error
    if denied:
        raise EngineError(f"{folder}: cannot be written: it belongs to somebody else; {_REMEDY}")


def record_trust(sha256: str) -> None:
    """Record that this user built the plan with this hash.

    Raises:
        EngineError: The record cannot be written.
    """
    path = _record(sha256)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # One file for each plan: creating it is atomic, so concurrent builds lose nothing.
        path.touch(mode=0o600)
    except OSError as error:
        raise EngineError(f"{path}: cannot be written: {error.strerror}; {_REMEDY}") from error


def is_trusted(sha256: str) -> bool:
    """Whether this user built the plan with this hash. Records that others may have written are ignored."""
    return is_private(_record(sha256))


def is_private(path: Path) -> bool:
    """Whether a file exists, and only this user may have written it: the file and its folder are this user's."""
    try:
        status = path.lstat()
        folder = path.parent.lstat()
    except OSError:
        return False
    own = os.getuid() if hasattr(os, "getuid") else status.st_uid
    others_write = (status.st_mode | folder.st_mode) & 0o022
    return status.st_uid == own and folder.st_uid == own and not others_write


def _record(sha256: str) -> Path:
    if not _SHA256.fullmatch(sha256):
        raise ValueError(f"wanted 64 hexadecimal digits, got {sha256!r}")
    return cache_folder() / "trusted-plans" / sha256
