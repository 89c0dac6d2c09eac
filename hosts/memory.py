"""How much memory of the host this process can still take."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .cgroup import cgroup_folders, read_text

__all__ = ["available_nbytes"]

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
