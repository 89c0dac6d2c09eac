"""Gates of a kernel report: limits on what runs for every chunk in the transformer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...bundle import Stage
from ...errors import EngineError
from ...reporting import Figure

if TYPE_CHECKING:
    from .report import KernelReport

__all__ = ["judge_kernels"]

_JUDGED = (Stage.FILL, Stage.DENOISE)


def judge_kernels(
    report: KernelReport, *, most_kernels: int | None = None, most_mb: float | None = None
) -> tuple[Figure, ...]:
    """Return a figure for each limit that was set, of whichever of cache fill and denoising step has more.

    Args:
        report: The report.
        most_kernels: Most kernels of a stage.
        most_mb: Most MB, of 10⁶ bytes, that the kernels of a stage read and write.

    Raises:
        EngineError: The engine has none of the stages.
    """
    stages = {str(stage): report.stages[stage] for stage in _JUDGED if stage in report.stages}
    if not stages and (most_kernels, most_mb) != (None, None):
        raise EngineError(f"{report.engine}: has neither {' nor '.join(_JUDGED)}, which the limits are for")
    gates = []
    if most_kernels is not None:
        stage, kernels = max(((name, len(one.kernels)) for name, one in stages.items()), key=lambda each: each[1])
        met = kernels <= most_kernels
        gates.append(Figure(f"kernels of {stage}", kernels, f"at most {most_kernels}", met, "", "--fail-above-kernels"))
    if most_mb is not None:
        stage, mb = max(((name, one.nbytes / 1e6) for name, one in stages.items()), key=lambda each: each[1])
        gates.append(Figure(f"MB moved by {stage}", mb, f"at most {most_mb:g}", mb <= most_mb, "MB", "--fail-above-mb"))
    return tuple(gates)
