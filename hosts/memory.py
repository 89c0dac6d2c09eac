"""Host memory: bytes that this process can still allocate, and the check before an allocation.

A GPU's driver refuses an allocation that does not fit. The host overcommits instead, and kills the process when the
memory is used.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..bundle import format_nbytes
from .cgroup import cgroup_folders, read_text

if TYPE_CHECKING:
    from ..errors import Fail

__all__ = ["available_nbytes", "require_memory"]

# Names of limit, use and file cache in versions 2 and 1 of control groups. The kernel reclaims file cache when memory
# is short, so it counts as free, as in MemAvailable.
_FILES = (
    ("memory.max", "memory.current", r"^(?:in)?active_file (\d+)$"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", r"^total_(?:in)?active_file (\d+)$"),
)


def available_nbytes(root: Path = Path("/")) -> int:
    """Return the bytes that can be allocated without swapping, in the system and in its control groups.

    Args:
        root: Parent folder of ``proc`` and ``sys``.
    """
    groups = [free for folder in cgroup_folders("memory", root) for free in _group_nbytes(folder)]
    return max(0, min([_system_nbytes(root), *groups]))


def require_memory(
    nbytes: int, what: str, remedy: str, *, fail: Fail, place: str = "the host", free_nbytes: int | None = None
) -> None:
    """Check that memory can be allocated.

    Args:
        nbytes: Bytes to allocate.
        what: What needs them, as it reads before "needs".
        remedy: What to do if they are not available.
        fail: Makes the error from a sentence; an exception class will do.
        place: The owner of the memory, for the message.
        free_nbytes: Bytes that can be allocated there; None queries the host.

    Raises:
        Exception: What ``fail`` makes: fewer bytes are available.
    """
    free = available_nbytes() if free_nbytes is None else free_nbytes
    if nbytes > free:
        needed, there = format_nbytes(nbytes), format_nbytes(free)
        raise fail(f"{what} needs {needed} of memory, and {place} has {there} available; {remedy}")


def _system_nbytes(root: Path) -> int:
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", read_text(root / "proc/meminfo"), re.MULTILINE)
    if found is not None:
        return int(found[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _group_nbytes(folder: Path) -> list[int]:
    """Return the bytes that a control group may still allocate, or an empty list without a limit."""
    free = []
    for limit_file, used_file, cached in _FILES:
        limit, used = read_text(folder / limit_file), read_text(folder / used_file)
        if limit.isdecimal() and used.isdecimal():  # "max" is no limit
            cache = re.findall(cached, read_text(folder / "memory.stat"), re.MULTILINE)
            free.append(int(limit) - int(used) + sum(map(int, cache)))
    return free
