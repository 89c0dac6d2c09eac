"""The results on disk, whole after every change, and as a table for people."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vdmrt.bundle import write_file

from .settings import Settings
from .stage import Result

__all__ = ["Report", "line_of"]


class Report:
    """The document that is written.

    Attributes:
        path: Where it lies; a run adds its stages to those that are there.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path = path
        self.document: dict[str, Any] = {"stages": {}}
        if path.is_file():
            self.document = json.loads(path.read_text(encoding="utf-8"))
        self.document |= {
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "command": sys.argv[1:],
            "settings": {"device": settings.device, "rehearsal": settings.rehearse, "seed": settings.seed},
        }

    def keep(self, stage: str, result: Result | list[dict[str, Any]]) -> None:
        """Keep how a stage ended, or what it has recorded so far, and write JSON and the table beside it."""
        done = result.to_json() if isinstance(result, Result) else {"status": "running", "records": result}
        self.document["stages"][stage] = done
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _replace(self.path, json.dumps(self.document, indent=1))
        _replace(self.path.with_suffix(".txt"), "\n".join(self.lines(self.document["stages"])))

    def seconds_held(self, stage: str) -> float | None:
        """Return how long a stage took that held, or None."""
        found = self.document["stages"].get(stage, {})
        return float(found["seconds"]) if found.get("status") == "held" else None

    def lines(self, stages: Iterable[str]) -> Iterable[str]:
        """Yield the table."""
        for name in stages:
            found = self.document["stages"].get(name)
            if found is None:
                continue
            yield f"{name}: {found['status']} in {found.get('seconds', 0):.0f} s"
            if found.get("why"):
                yield from (f"    {line}" for line in found["why"].strip().splitlines()[-6:])
            yield from (f"    {line_of(record)}" for record in found["records"])


def _replace(path: Path, text: str) -> None:
    write_file(path, text + "\n", fail=OSError)


def line_of(record: dict[str, Any]) -> str:
    """Return a record as a line for people."""
    if "missing" in record:
        return f"{record['what']}: NOT THERE: {record['missing']}"
    if "value" not in record:
        rest = ", ".join(f"{key} {value}" for key, value in record.items() if key != "what")
        return f"{record['what']}: {rest}"
    value = "not finite" if record["value"] is None else f"{record['value']:.4g}"
    wanted = ""
    if "held" in record:
        wanted = f"  wanted {record['wanted']} {'held' if record['held'] else 'MISSED'}"
    error = f": {record['error']}" if "error" in record else ""
    return f"{record['what']}: {value} {record.get('unit', '')}{wanted}{error}"
