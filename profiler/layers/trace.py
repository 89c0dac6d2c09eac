"""A profile as a trace for Perfetto (ui.perfetto.dev) or chrome://tracing.

The format is the JSON object form of Chrome's Trace Event Format: complete events ("X") for spans, counters ("C") for
the cache, metadata ("M") for names; timestamps are microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..measuring.recorder import Span
    from ..report.report import Report

__all__ = ["render_trace"]

_PROCESS = 1
_SESSION, _CODEC = 1, 2
_TRACKS = {_SESSION: "session", _CODEC: "codec"}


def render_trace(report: Report) -> str:
    """Return every span of a profile as a trace."""
    events = [*_name_tracks(report), *_draw(report.spans), *_count(report, report.spans)]
    about = {"vdmrt": report.environment.vdmrt, "bundle": report.workload.bundle, "backend": report.workload.backend}
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}, allow_nan=False) + "\n"


def _name_tracks(report: Report) -> Iterator[dict[str, Any]]:
    title = f"vdmrt {report.workload.name}"
    yield {"name": "process_name", "ph": "M", "pid": _PROCESS, "tid": 0, "args": {"name": title}}
    for track, name in _TRACKS.items():
        yield {"name": "thread_name", "ph": "M", "pid": _PROCESS, "tid": track, "args": {"name": name}}


def _draw(spans: Sequence[Span]) -> Iterator[dict[str, Any]]:
    origin = min((span.begin_ms for span in spans), default=0.0)
    # Spans that begin together are nested: the longer one first.
    for span in sorted(spans, key=lambda span: (span.begin_ms, -span.end_ms)):
        which = f" {span.step}" if span.step >= 0 else f" {span.chunk}" if span.stage == "chunk" else ""
        yield {
            "name": f"{span.stage}{which}",
            "cat": span.stage,
            "ph": "X",
            "ts": round((span.begin_ms - origin) * 1e3, 3),
            "dur": round(max(0.0, span.milliseconds) * 1e3, 3),
            "pid": _PROCESS,
            "tid": _CODEC if span.stage in ("encode", "decode") else _SESSION,
            "args": {"chunk": span.chunk, **({"step": span.step} if span.step >= 0 else {})},
        }


def _count(report: Report, spans: Sequence[Span]) -> Iterator[dict[str, Any]]:
    """Yield the number of cached latent frames at the start of each chunk."""
    cached = {point.index: point.cached_frames for point in report.curve}
    origin = min((span.begin_ms for span in spans), default=0.0)
    for span in spans:
        if span.stage == "chunk" and span.chunk in cached:
            yield {
                "name": "cached latent frames",
                "ph": "C",
                "ts": round((span.begin_ms - origin) * 1e3, 3),
                "pid": _PROCESS,
                "args": {"latent frames": cached[span.chunk]},
            }
