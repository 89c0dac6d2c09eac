"""Merges what a day brought back into the record of its device."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from vdmrt.bundle import write_file

from ..running.report import merge_stages, read_report

__all__ = ["device_of", "merge_report", "record_name"]

_LEFT_OUT = {"nvidia", "geforce"}


def merge_report(report: Path, results: Path, name: str | None = None) -> Path:
    """Add the stages of a report to the record of its device; a stage that ran again replaces its older figures.

    One without figures replaces none. Each stage keeps the driver and the commit that it ran with.

    Args:
        report: What came back.
        results: Folder of the records.
        name: Of the record; by the GPU's name where None.

    Returns:
        The record.

    Raises:
        ValueError: It is a rehearsal, names no GPU, or the record is of another device.
    """
    brought = read_report(report)
    if brought["settings"].get("rehearsal"):
        raise ValueError(f"{report} is of a rehearsal: its figures are of no GPU; give the report of a device")
    gpu = device_of(brought)
    target = results / f"{name or record_name(gpu['name'])}.json"
    document: dict[str, Any] = {"stages": {}, "notes": []}
    if target.is_file():
        document = json.loads(target.read_text(encoding="utf-8"))
        if not str(document["device"]).startswith(f"{gpu['name']}, "):
            raise ValueError(
                f"{target} is of {document['device']}, {report} of {gpu['name']}; give another name with --record"
            )
    of_run = {key: brought[key] for key in ("gpu", "commit") if key in brought} | {"driver": gpu["driver_version"]}
    ended = {
        key: of_run | stage
        for key, stage in brought["stages"].items()
        if stage["records"] or stage["status"] != "running"
    }
    document["date"], document["command"] = brought["date"][:10], "benchmarks/gpu_day run"
    document["device"] = f"{gpu['name']}, driver {gpu['driver_version']}"
    document["stages"] = merge_stages(document["stages"], ended)
    write_file(target, json.dumps(document, indent=1) + "\n", fail=OSError)
    return target


def device_of(document: dict[str, Any]) -> dict[str, str]:
    """Return what nvidia-smi said of the GPU of a report: "name" and "driver_version" at least.

    Raises:
        ValueError: Neither the run nor its stage "environment" recorded a GPU.
    """
    records = document["stages"].get("environment", {}).get("records", [])
    for record in records:
        if record["what"] == "GPU 0" and "name" in record:
            return dict(record)
    if "gpu" in document:
        return {"name": document["gpu"], "driver_version": document.get("driver", "unknown")}
    raise ValueError("the report names no GPU: its stage environment has none recorded; run that stage")


def record_name(gpu: str) -> str:
    """Return the name of a GPU's record: "NVIDIA H100 80GB HBM3" gives "gpu_h100"."""
    words = [word for word in re.split(r"[^a-z0-9]+", gpu.lower()) if word and word not in _LEFT_OUT]
    kept = [word for word in words if not re.fullmatch(r"\d+gb|hbm\w*|pcie|sxm\d*", word)]
    return "_".join(["gpu", *kept])
