"""The profiler: what a stream of chunks costs, where the time goes, and how sure that is."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .profiling import profile
    from .recorder import Recorder, Span
    from .report import Report
    from .settings import Settings
    from .statistics import Distribution, Summary

__all__ = ["Distribution", "Recorder", "Report", "Settings", "Span", "Summary", "profile"]

_HOMES = {
    "Distribution": "statistics",
    "Recorder": "recorder",
    "Report": "report",
    "Settings": "settings",
    "Span": "recorder",
    "Summary": "statistics",
    "profile": "profiling",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that the command line shows its help without numpy."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
