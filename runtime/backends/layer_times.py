"""Times of a program's layers, from the backend's profiler."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["LayerTime", "median_run"]


@dataclass(frozen=True)
class LayerTime:
    """The time of one layer of a loaded graph.

    Attributes:
        name: The backend's name of the layer.
        operator: The backend's name of the operation.
        milliseconds: Median time of one run.
        nodes: Names of the ONNX nodes that the layer may implement; names not in the graph are ignored.
    """

    name: str
    operator: str
    milliseconds: float
    nodes: tuple[str, ...]


def median_run(runs: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median milliseconds by name, without the first run if there are several."""
    return {name: statistics.median(times[1:] or times) for name, times in runs.items()}
