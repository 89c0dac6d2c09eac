"""How long each layer of a program takes, where its backend has a profiler."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["LayerTime", "median_run"]


@dataclass(frozen=True)
class LayerTime:
    """A layer of a loaded graph.

    Attributes:
        name: As the backend calls it.
        operator: What it does, as the backend calls it.
        milliseconds: Median of one run.
        nodes: Nodes of the ONNX graph that it may stand for, by name; others than the graph's are ignored.
    """

    name: str
    operator: str
    milliseconds: float
    nodes: tuple[str, ...]


def median_run(runs: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median milliseconds by name; where there was more than one run, the first is left out."""
    return {name: statistics.median(times[1:] or times) for name, times in runs.items()}
