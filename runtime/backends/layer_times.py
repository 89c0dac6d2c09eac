"""How long each layer of a program takes, where its backend has a profiler."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from .backend import Program

__all__ = ["LayerTime", "TimedProgram", "TimesLayers", "median_run"]


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


class TimedProgram(Program, Protocol):
    """A program that runs with its backend's profiler on, and is not captured."""

    def layer_times(self) -> list[LayerTime]:
        """Return the layers that ran, in order of execution; after it nothing more is recorded."""
        ...


@runtime_checkable
class TimesLayers(Protocol):
    """A program whose layers can be timed."""

    def timed(self) -> TimedProgram:
        """Return a program of the same graph with the profiler on; close it before this one."""
        ...


def median_run(runs: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median milliseconds by name; where there was more than one run, the first is left out."""
    return {name: statistics.median(times[1:] or times) for name, times in runs.items()}
