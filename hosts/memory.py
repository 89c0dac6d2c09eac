"""How much memory of the host this process can still take, and the check before it is taken.

A GPU's driver refuses what does not fit. The host does not: it promises more memory than it has, and ends the process
when the memory is used.
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

# Names of limit, use and file cache in versions 2 and 1 of control groups. The kernel gives file cache back when memory
# is short, so it counts as free, as in MemAvailable.
_FILES = (
    ("memory.max", "memory.current", r"^(?:in)?active_file (\d+)$"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", r"^total_(?:in)?active_file (\d+)$"),
)


def available_nbytes(root: Path = Path("/")) -> int:
    """Return the bytes that can be allocated without swapping: the system's, or fewer where a control group limits it.

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    groups = [free for folder in cgroup_folders("memory", root) for free in _group_nbytes(folder)]
    return max(0, min([_system_nbytes(root), *groups]))


def require_memory(
    nbytes: int, what: str, remedy: str, *, fail: Fail, place: str = "the host", free_nbytes: int | None = None
) -> None:
    """Check that memory can be allocated.

    Args:
        nbytes: Bytes that are needed.
        what: What needs them, as it reads before "needs".
        remedy: What to do where they are not there.
        fail: Makes the error from a sentence; an exception class will do.
        place: Whose memory it is.
        free_nbytes: Bytes that can be allocated there; None asks the host.

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
    """Return the bytes that a control group may still take, or nothing where it has no limit."""
    free = []
    for limit_file, used_file, cached in _FILES:
        limit, used = read_text(folder / limit_file), read_text(folder / used_file)
        if limit.isdecimal() and used.isdecimal():  # "max" is no limit
            cache = re.findall(cached, read_text(folder / "memory.stat"), re.MULTILINE)
            free.append(int(limit) - int(used) + sum(map(int, cache)))
    return free
