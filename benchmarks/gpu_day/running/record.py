"""What a stage found, one line of JSON for each figure, written as it comes: a killed stage keeps what it had."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Missing", "Recorder", "all_held", "read_records"]


class Missing(Exception):
    """Something that a stage needs is not on this machine; not a failure of what is checked."""


class Recorder:
    """Appends figures to a file.

    Attributes:
        path: The file, one JSON object a line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(
        self,
        what: str,
        value: float | None,
        unit: str = "",
        *,
        least: float | None = None,
        most: float | None = None,
        **details: Any,
    ) -> bool:
        """Record a figure, and hold it against what is wanted where anything is.

        Args:
            what: What the figure says.
            value: What was measured; NaN and Inf never hold and are written as null.
            unit: Of the value.
            least: What is wanted at least.
            most: What is allowed at most.
            details: How it was measured: statistic, number of runs, sizes.

        Returns:
            Whether it holds; True where nothing is wanted.
        """
        finite = value is not None and math.isfinite(value)
        line: dict[str, Any] = {"what": what, "value": value if finite else None, "unit": unit}
        held = True
        if least is not None or most is not None:
            held = finite and (least is None or value >= least) and (most is None or value <= most)  # type: ignore[operator]
            line |= {"wanted": f">= {least:g}" if least is not None else f"<= {most:g}", "held": held}
        self._write({**line, **details})
        return held

    def note(self, what: str, **details: Any) -> None:
        """Record something that is no figure."""
        self._write({"what": what, **details})

    def missing(self, what: str, why: str) -> None:
        """Record that something was not there."""
        self._write({"what": what, "missing": why})

    def _write(self, line: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=str) + "\n")


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read what a stage has recorded so far; a line that was cut off is left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def all_held(records: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether no figure missed what was wanted of it."""
    return all(record.get("held", True) for record in records)
