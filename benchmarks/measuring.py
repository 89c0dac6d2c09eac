"""Timing of contenders in turn, medians, and a report of results and machine."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Gate", "describe_machine", "interleave", "ratio", "report"]

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Gate:
    """A figure with a limit.

    Attributes:
        what: Description of the figure.
        value: The measured value.
        least: Lower limit; None where ``most`` is given.
        most: Upper limit.
    """

    what: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def held(self) -> bool:
        """Whether the limit was met."""
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    @property
    def wanted(self) -> str:
        """The limit, as text."""
        return f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}"


def interleave(contenders: Mapping[str, Callable[[], Any]], runs: int, warmup: int = 2) -> dict[str, list[float]]:
    """Time contenders in turn, so that changes of the machine's speed affect all of them.

    Returns:
        Seconds of each run, by contender; runs i of all contenders are adjacent in time.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for index in range(warmup + runs):
        for name, run in contenders.items():
            started = time.perf_counter()
            run()
            if index >= warmup:
                times[name].append(time.perf_counter() - started)
    return times


def ratio(numerator: list[float], denominator: list[float]) -> float:
    """Return the median of the ratios of neighboring runs."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def describe_machine() -> dict[str, str]:
    """Return the CPU's name and load, and the versions of the libraries."""
    import importlib.metadata

    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    versions = {name: importlib.metadata.version(name) for name in ("vdmrt", "torch", "onnxruntime", "numpy")}
    load = f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
    return {"cpu": model, "load_average": load, "python": platform.python_version(), **versions}


def report(name: str, settings: Mapping[str, Any], gates: list[Gate], details: Mapping[str, Any]) -> int:
    """Print a table, write ``results/<name>.json``, and return the exit status."""
    width = max(len(gate.what) for gate in gates)
    for gate in gates:
        print(f"{gate.what:<{width}}  {gate.value:8.3f}  wanted {gate.wanted:<8} {'held' if gate.held else 'MISSED'}")
    document = {
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine(),
        "settings": settings,
        "gates": [{"what": g.what, "value": g.value, "wanted": g.wanted, "held": g.held} for g in gates],
        "details": details,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    return 0 if all(gate.held for gate in gates) else 1
