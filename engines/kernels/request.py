"""What to report of an engine's kernels; the names are the options of ``vdmrt inspect``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["KernelRequest"]


@dataclass(frozen=True)
class KernelRequest:
    """What to report, against what, and the limits.

    Attributes:
        kernels: Whether to report kernels at all.
        engine: Key of the engine; None for the newest that lists its layers.
        html: File of the page.
        against: Bundle, engine's folder or JSON report to compare with.
        fail_above_kernels: Most kernels of cache fill and of denoising step.
        fail_above_mb: Most MB that either moves.
    """

    kernels: bool = False
    engine: str | None = None
    html: Path | None = None
    against: Path | None = None
    fail_above_kernels: int | None = None
    fail_above_mb: float | None = None
