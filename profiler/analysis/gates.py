"""Gates of a profile: limits on latency and rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...reporting import Figure

if TYPE_CHECKING:
    from ..report.report import Report

__all__ = ["judge_gates"]


def judge_gates(
    report: Report, *, fail_above: float | None = None, fail_below: float | None = None
) -> tuple[Figure, ...]:
    """Return a figure for each gate that was set.

    Args:
        report: The profile.
        fail_above: Most milliseconds between two chunks, median, codec included where one ran.
        fail_below: Least frames a second, codec included where one ran.
    """
    codec = "codec included" if report.workload.codec else "no codec ran"
    gates = []
    if fail_above is not None:
        chunk = report.stages.get("arrival", report.stages["chunk"])
        met = chunk.median <= fail_above
        meaning = f"median of {chunk.count}, {codec}; --fail-above"
        gates.append(Figure("time of a chunk", chunk.median, f"at most {fail_above:g}", met, "ms", meaning))
    if fail_below is not None:
        fps = report.rate.frame_fps
        met, meaning = fps >= fail_below, f"over the whole loop, {codec}; --fail-below"
        gates.append(Figure("rate", fps, f"at least {fail_below:g}", met, "frames/s", meaning))
    return tuple(gates)
