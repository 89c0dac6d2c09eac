"""The CPU as what an engine is bound to: its architecture, and the instruction sets that kernels are chosen by."""

from __future__ import annotations

import platform
import re
from pathlib import Path

__all__ = ["describe_cpu"]

# Names of /proc/cpuinfo. By these ONNX Runtime chooses kernels, and with them the layout of what it packs.
_SETS = (
    "sse4_1", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx_vnni", "avx512_vnni",
    "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "fphp", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme",  # codespell:ignore sme
)  # fmt: skip


def describe_cpu(path: Path = Path("/proc/cpuinfo")) -> str:
    """Return architecture and instruction sets, as "x86_64 avx avx2 fma"; where the system has no list, its name."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        text = ""
    listed = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    has = set(listed[1].split()) if listed else set()
    sets = [name for name in _SETS if name in has] if has else platform.processor().split()
    return " ".join([platform.machine() or "unknown", *sets])
