"""The results on disk, whole after every change, and as a table for people."""

from __future__ import annotations

import datetime
import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vdmrt.bundle import write_file

from .settings import Settings
from .stage import Result

__all__ = ["Report", "gpu_of", "has_ended", "line_of", "merge_stages", "read_report"]

_CUT_OFF = ("running", "lost")
Document = dict[str, Any]


class Report:
    """The document that is written.

    Attributes:
        path: The file; a run adds its stages to those that are there.
        document: What is written to it.
        goes_on_elsewhere: Whether nothing was at ``path``: the machine is fresh, however much an earlier one did.
    """

    def __init__(
        self,
        path: Path,
        settings: Settings,
        *,
        earlier: Path | None = None,
        copies: Path | None = None,
        origin: Mapping[str, str] | None = None,
    ) -> None:
        """Read what is there.

        Args:
            path: The file.
            settings: Of the run.
            earlier: A report that is gone on with where there is none at ``path``: the machine is another.
            copies: Folder that gets a copy of everything after each change.
            origin: GPU, driver and commit of this run, kept with each stage. A report of another GPU is not
                continued: this one begins empty.
        """
        self.path, self._copies, self._origin = path, copies, dict(origin or {})
        self.document: dict[str, Any] = {"stages": {}}
        begun = path if path.is_file() else earlier
        self.goes_on_elsewhere = begun is not path
        if begun is not None and begun.is_file():
            self._continue(begun)
        self.document |= {
            **self._origin,
            "date": _now(),
            "command": sys.argv[1:],
            "settings": {"device": settings.device, "rehearsal": settings.rehearse, "seed": settings.seed},
        }

    def _continue(self, begun: Path) -> None:
        document, gpu = read_report(begun), self._origin.get("gpu")
        if gpu and gpu_of(document) not in (None, gpu):
            print(f"the report so far is of {gpu_of(document)}; this is {gpu}: a new one begins", file=sys.stderr)
        else:
            self.document = document

    def keep(self, stage: str, result: Result | list[dict[str, Any]]) -> None:
        """Keep how a stage ended, or what it has recorded so far, and write JSON and the table beside it."""
        done = result.to_json() if isinstance(result, Result) else {"status": "running", "records": result}
        self.document["stages"][stage] = {**done, "date": _now(), **self._origin}
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
        return has_ended(self.document, stage)

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


def read_report(path: Path) -> Document:
    """Read a report.

    Raises:
        ValueError: There is no such file, or it is something else.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; give the report.json of a run") from error
    except ValueError as error:
        raise ValueError(f"{path} is not a report: it is not JSON; give the report.json of a run") from error
    if not (isinstance(document, dict) and all(isinstance(document.get(key), dict) for key in ("stages", "settings"))):
        raise ValueError(f"{path} is not a report: it has no stages and settings; give the report.json of a run")
    return document


def has_ended(document: Document, stage: str) -> bool:
    """Whether a stage ran to an end, whichever; one that was cut off with the machine did not."""
    return document["stages"].get(stage, {}).get("status", "running") not in _CUT_OFF


def gpu_of(document: Document) -> str | None:
    """Return the name of the GPU of a report, None where it names none."""
    records = document["stages"].get("environment", {}).get("records", [])
    recorded = (record.get("name") for record in records if record["what"] == "GPU 0")
    name: str | None = document.get("gpu") or next(recorded, None)
    return name


def merge_stages(kept: Document, brought: Document) -> Document:
    """Return the stages of both; one that ran again replaces the older one unless that loses figures."""
    return kept | {name: stage for name, stage in brought.items() if _replaces(stage, kept.get(name))}


def _replaces(new: Document, old: Document | None) -> bool:
    if old is None or not _has_figures(old):
        return True
    return _has_figures(new) and (new["status"] not in _CUT_OFF or old["status"] in _CUT_OFF)


def _has_figures(stage: Document) -> bool:
    return any("missing" not in record for record in stage["records"])


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
