"""Tables of the records, in Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..running.report import line_of

__all__ = ["BLOCKS"]

Document = dict[str, Any]
_VERSIONS = ("cpu", "device", "python", "vdmrt", "torch", "onnxruntime", "numpy")


def gpu_details(results: Path) -> Iterator[str]:
    """Yield everything recorded on GPUs, a section for each device."""
    for name, document in _records(results, gpu=True):
        yield f"### {document['device']}"
        yield f"{_link(name)}, last added to on {document['date']} by `{document['command']}`."
        yield "\n".join(f"- {note}" for note in document.get("notes", ()))
        for stage, found in document["stages"].items():
            yield from _stage(stage, found, document["date"])


def _stage(name: str, found: Document, date: str) -> Iterator[str]:
    yield f"**{name}**, {found.get('date', date)[:10]}: {found['status']} in {found.get('seconds', 0):.0f} s"
    if name == "environment":
        yield "\n".join(f"- {line_of(record)}" for record in found["records"] if "value" not in record)
    figures = [record for record in found["records"] if "value" in record or "missing" in record]
    if figures:
        rows = [[record["what"], _value(record), record.get("wanted", ""), _verdict(record)] for record in figures]
        yield _table(["figure", "measured", "wanted", ""], rows)


def gpu_summary(results: Path) -> Iterator[str]:
    """Yield a line for each device: how many figures held."""
    rows = []
    for name, document in _records(results, gpu=True):
        records = [record for stage in document["stages"].values() for record in stage["records"]]
        judged = [record["held"] for record in records if "held" in record]
        cut = [stage for stage, found in document["stages"].items() if found["status"] not in ("held", "missed")]
        link = f"[{document['device']}](benchmarks/results/{name}.json)"
        rows.append(
            [link, document["date"], str(sum(judged)), str(len(judged) - sum(judged)), ", ".join(cut) or "none"]
        )
    yield _table(["device", "date", "figures held", "missed", "stages that did not end well"], rows)


def rtx_verdict(results: Path) -> Iterator[str]:
    """Yield what each GPU that was asked said to a plan of TensorRT for RTX."""
    rows = []
    for _, document in _records(results, gpu=True):
        for record in document["stages"].get("rtx-verdict", {}).get("records", []):
            if "verdict" in record:
                said = record.get("said", "")
                rows.append([document["device"], record["what"], record["verdict"], said])
    yield _table(["device", "plan", "verdict", "in its own words"], rows) if rows else "No GPU has been asked yet."


def cpu_details(results: Path) -> Iterator[str]:
    """Yield the figures of every benchmark that needs no GPU."""
    for name, document in _records(results, gpu=False):
        machine = ", ".join(f"{key} {document['machine'][key]}" for key in _VERSIONS if key in document["machine"])
        settings = ", ".join(f"{key} {value}" for key, value in document.get("settings", {}).items())
        yield f"### {name}"
        yield f"{_link(name)}, {document['date']}, by `python benchmarks/{name}.py`: {machine}."
        if settings:
            yield f"Settings: {settings}."
        figures = document.get("gates") or document["records"]
        rows = [[figure["what"], _value(figure), figure.get("wanted", ""), _verdict(figure)] for figure in figures]
        yield _table(["figure", "measured", "wanted", ""], rows)


def kernel_forms(results: Path) -> Iterator[str]:
    """Yield what TensorRT for RTX made of each form of XL/2's graphs."""
    document = json.loads((results / "kernels.json").read_text(encoding="utf-8"))
    head = ["stage", "form", "kernels", "fused attentions", "MB moved", "of which outside products and attentions"]
    keys = ("kernels", "fused_attentions", "moved_mb", "moved_by_kernels_that_compute_nothing_mb", "roofline_ms")
    rows = [[form["stage"], form["form"], *(f"{form[key]:,}" for key in keys)] for form in document["details"]["forms"]]
    yield _table([*head, "roofline, ms"], rows)


# By the name in the page's markers.
BLOCKS = {
    "gpu-details": gpu_details,
    "gpu-summary": gpu_summary,
    "rtx-verdict": rtx_verdict,
    "cpu-details": cpu_details,
    "kernel-forms": kernel_forms,
}


def _records(results: Path, *, gpu: bool) -> Iterator[tuple[str, Document]]:
    for path in sorted(results.glob("*.json")):
        if path.name.startswith("gpu_") is gpu:
            yield path.stem, json.loads(path.read_text(encoding="utf-8"))


def _link(name: str) -> str:
    return f"[{name}.json](../benchmarks/results/{name}.json)"


def _value(record: Document) -> str:
    if "missing" in record:
        # Of a traceback the last line that is not indented is the error.
        reason = [line for line in record["missing"].strip().splitlines() if line and not line[0].isspace()]
        return f"not there: {reason[-1][:160]}" if reason else "not there"
    value = "not finite" if record["value"] is None else f"{record['value']:.4g}"
    return f"{value} {record.get('unit', '')}".strip()


def _verdict(record: Document) -> str:
    return {True: "held", False: "**missed**", None: ""}[record.get("held")]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def _cell(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|")
