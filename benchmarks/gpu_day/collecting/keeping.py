"""Merges the report of a call into that of the day."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from vdmrt.bundle import write_file

from ..running.report import Document, gpu_of, merge_stages, read_report
from .merge import record_name

__all__ = ["archive_report", "keep_report"]


def keep_report(returned: Path, work: Path) -> Path:
    """Merge a returned report into ``work``/report.json and return that; no stage with figures is lost.

    A report of another GPU does not mix with it: the older one is renamed after its GPU.

    Raises:
        ValueError: ``returned`` is not a report, or is of a rehearsal.
    """
    brought, target = read_report(returned), work / "report.json"
    if brought["settings"].get("rehearsal"):
        raise ValueError(f"{returned} is of a rehearsal; give the report.json that came back from the device")
    kept = _kept_of(gpu_of(brought), target)
    document = {**brought, "stages": merge_stages(kept["stages"], brought["stages"])}
    work.mkdir(parents=True, exist_ok=True)
    write_file(target, json.dumps(document, indent=1) + "\n", fail=OSError)
    return target


def archive_report(work: Path) -> Path | None:
    """Rename the report of an earlier day after its date, and return its new path; None where there is none."""
    report = work / "report.json"
    if not report.is_file():
        return None
    return _rename(report, str(read_report(report).get("date", "undated")).replace(":", ""))


def _kept_of(gpu: str | None, target: Path) -> Document:
    empty: Document = {"stages": {}}
    if not target.is_file():
        return empty
    kept = read_report(target)
    if gpu is None or gpu_of(kept) in (None, gpu):
        return kept
    other = _rename(target, record_name(gpu_of(kept) or ""))
    print(f"this report is of {gpu}; that of {gpu_of(kept)} is now {other}: collect both", file=sys.stderr)
    earlier = target.with_name(f"report-{record_name(gpu)}.json")
    return read_report(earlier) if earlier.is_file() else empty


def _rename(report: Path, suffix: str) -> Path:
    target = report.with_name(f"report-{suffix}.json")
    os.replace(report, target)
    return target
