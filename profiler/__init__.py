"""The profiler: latency, memory and layer times of a stream of chunks, with confidence intervals."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    """Import on first use, so that the command line shows its help without numpy."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    """List the names of the package; they are imported on first use."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
