"""The profiler: latency, memory and layer times of a stream of chunks, with confidence intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import offer as _offer

if TYPE_CHECKING:
    from .analysis.statistics import Distribution, Summary
    from .measuring.profile import profile
    from .measuring.recorder import Recorder, Span
    from .measuring.settings import Settings
    from .report.report import Report

__all__ = ["Distribution", "Recorder", "Report", "Settings", "Span", "Summary", "profile"]

_HOMES = {
    "Distribution": "analysis.statistics",
    "Recorder": "measuring.recorder",
    "Report": "report.report",
    "Settings": "measuring.settings",
    "Span": "measuring.recorder",
    "Summary": "analysis.statistics",
    "profile": "measuring.profile",
}

__getattr__, __dir__ = _offer(__name__, _HOMES)
