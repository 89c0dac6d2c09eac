"""Figures that must be reached, for CI."""

from __future__ import annotations

from .report import Report

__all__ = ["find_missed"]


def find_missed(report: Report, *, fail_above: float | None = None, fail_below: float | None = None) -> str | None:
    """Return why a gate was missed, in one line, or None.

    Args:
        report: What was measured.
        fail_above: Most milliseconds between two chunks, median, codec included where one ran.
        fail_below: Least frames a second, codec included where one ran.
    """
    codec = "codec included" if report.workload.codec else "no codec ran"
    chunk = report.stages.get("arrival", report.stages["chunk"])
    if fail_above is not None and chunk.median > fail_above:
        return (
            f"the median chunk takes {chunk.median:.3f} ms ({codec}; {chunk.count} of them), "
            f"and --fail-above allows {fail_above:g} ms"
        )
    if fail_below is not None and report.rate.frame_fps < fail_below:
        return f"{report.rate.frame_fps:.4g} frames/s came ({codec}), and --fail-below wants {fail_below:g}"
    return None
