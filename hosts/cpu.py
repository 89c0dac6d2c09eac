"""The CPU: the instruction sets that an engine is bound to, and the number of CPUs that this process may use."""

from __future__ import annotations

import math
import os
import platform
import re
from pathlib import Path

from .cgroup import cgroup_folders, read_text

__all__ = ["describe_cpu", "thread_count", "usable_cpu_count"]

# Names in /proc/cpuinfo. ONNX Runtime chooses kernels, and the layout of packed weights, by these.
_SETS = (
    "sse4_1", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx_vnni", "avx512_vnni",
    "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "fphp", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme",  # codespell:ignore sme
)  # fmt: skip


def describe_cpu(path: Path = Path("/proc/cpuinfo")) -> str:
    """Return architecture and instruction sets, as "x86_64 avx avx2 fma"; without a list of them, the CPU's name."""
    listed = re.search(r"^(?:flags|Features)\s*:(.*)$", read_text(path), re.MULTILINE)
    has = set(listed[1].split()) if listed else set()
    sets = [name for name in _SETS if name in has] if has else platform.processor().split()
    return " ".join([platform.machine() or "unknown", *sets])


def usable_cpu_count(root: Path = Path("/")) -> int:
    """Return the number of CPUs that this process may use, by its affinity and the quotas of its control groups.

    Args:
        root: Parent folder of ``proc`` and ``sys``.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([allowed, *(math.ceil(quota) for quota in map(_quota, cgroup_folders("cpu", root)) if quota)])


def thread_count(threads: int | None) -> int:
    """Return a checked number of threads; None becomes one for each CPU that this process may use.

    Raises:
        ValueError: The number is not positive, or exceeds these CPUs.
    """
    most = usable_cpu_count()
    if threads is None:
        return most
    if not 1 <= threads <= most:
        raise ValueError(f"threads must be 1 <= threads <= {most}, the CPUs that this process may use, got {threads}")
    return threads


def _quota(folder: Path) -> float | None:
    """Return the CPU quota of a control group, in CPUs, or None without a limit."""
    text = read_text(folder / "cpu.max")  # version 2: microseconds in each period, or "max", and the period
    if not text:
        text = f"{read_text(folder / 'cpu.cfs_quota_us')} {read_text(folder / 'cpu.cfs_period_us')}"
    limited = re.fullmatch(r"([1-9]\d*) ([1-9]\d*)", text)
    return int(limited[1]) / int(limited[2]) if limited else None
