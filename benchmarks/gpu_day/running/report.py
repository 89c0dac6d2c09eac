"""The results on disk, whole after every change, and as a table for people."""

from __future__ import annotations

import datetime
import json
import shutil
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
        path: The file; a run adds its stages to those that are there.
        document: What is written to it.
        goes_on_elsewhere: Whether nothing was at ``path``: the machine is fresh, however much an earlier one did.
    """

    def __init__(
        self, path: Path, settings: Settings, *, earlier: Path | None = None, copies: Path | None = None
    ) -> None:
        """Read what is there.

        Args:
            path: The file.
            settings: Of the run.
            earlier: A report that is gone on with where there is none at ``path``: the machine is another.
            copies: Folder that gets a copy of everything after each change.
        """
        self.path, self._copies = path, copies
        self.document: dict[str, Any] = {"stages": {}}
        begun = path if path.is_file() else earlier
        self.goes_on_elsewhere = begun is not path
        if begun is not None and begun.is_file():
            self.document = json.loads(begun.read_text(encoding="utf-8"))
        self.document |= {
            "date": _now(),
            "command": sys.argv[1:],
            "settings": {"device": settings.device, "rehearsal": settings.rehearse, "seed": settings.seed},
        }

    def keep(self, stage: str, result: Result | list[dict[str, Any]]) -> None:
        """Keep how a stage ended, or what it has recorded so far, and write JSON and the table beside it."""
        done = result.to_json() if isinstance(result, Result) else {"status": "running", "records": result}
        self.document["stages"][stage] = {**done, "date": _now()}
        self.save()

    def save(self) -> None:
        """Write everything."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _replace(self.path, json.dumps(self.document, indent=1))
        _replace(self.path.with_suffix(".txt"), "\n".join(self.lines(self.document["stages"])))
        if self._copies is not None:
            self._copies.mkdir(parents=True, exist_ok=True)
            for path in (self.path, self.path.with_suffix(".txt"), self.path.with_suffix(".log")):
                if path.is_file():
                    shutil.copyfile(path, self._copies / path.name)

    def ended(self, stage: str) -> bool:
        """Whether a stage ran to an end, whichever; one that was cut off with the machine did not."""
        status: str = self.document["stages"].get(stage, {}).get("status", "running")
        return status not in ("running", "lost")

    def forget(self, stages: Iterable[str]) -> None:
        """Let stages run again."""
        for name in stages:
            self.document["stages"].pop(name, None)

    def lose(self, stages: Iterable[str]) -> None:
        """Note that files which stages made were lost with their machine: they run again, their records stay."""
        for name in stages:
            if name in self.document["stages"]:
                self.document["stages"][name]["status"] = "lost"

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


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


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
