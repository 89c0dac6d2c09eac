"""The host: its CPUs, memory, GPUs and installed packages, with advice on what to install."""

from __future__ import annotations

from .cpu import describe_cpu, thread_count, usable_cpu_count
from .extras import describe_missing, install_command, need_packages, needs_extra
from .memory import available_nbytes, require_memory

__all__ = [
    "available_nbytes",
    "describe_cpu",
    "describe_missing",
    "install_command",
    "need_packages",
    "needs_extra",
    "require_memory",
    "thread_count",
    "usable_cpu_count",
]
