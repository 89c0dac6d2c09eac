"""Times of layers from TensorRT's profiler, and layer information from its inspector."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from ..layer_times import LayerTime, median_run

__all__ = ["LayerRun", "LayerRuns", "TensorRtProfiler", "find_nodes", "read_layer_kinds"]

# Names of layers, in order of execution, and their milliseconds; a name may occur twice.
LayerRun = Sequence[tuple[str, float]]


class LayerRuns:
    """The times of every layer over several runs."""

    def __init__(self) -> None:
        self._runs: dict[str, list[float]] = {}

    def record(self, run: LayerRun) -> None:
        """Add a run."""
        times: dict[str, float] = {}
        for name, milliseconds in run:  # 8.5 copies under one name more than once
            times[name] = times.get(name, 0.0) + milliseconds
        for name, milliseconds in times.items():
            self._runs.setdefault(name, []).append(milliseconds)

    def layer_times(self, inspected: str) -> list[LayerTime]:
        """Return the median time of each layer, with its kind and nodes from the inspector's JSON."""
        kinds = read_layer_kinds(inspected)
        layers = []
        for name, milliseconds in median_run(self._runs).items():
            kind, nodes = kinds.get(name, ("", ()))
            layers.append(LayerTime(name, kind or "layer", milliseconds, nodes or find_nodes(name)))
        return layers


def read_layer_kinds(inspected: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return the kind of each layer and the ONNX nodes that its metadata names, by the layer's name.

    Args:
        inspected: JSON of TensorRT's inspector. Layers of a plan without detailed verbosity have no kind; skipped.
    """
    kinds = {}
    for layer in json.loads(inspected).get("Layers", ()):
        if isinstance(layer, dict):
            nodes = re.findall(r"\[ONNX Layer: ([^\]]+)\]", str(layer.get("Metadata", "")))
            kinds[str(layer.get("Name", ""))] = (str(layer.get("LayerType", "")), tuple(nodes))
    return kinds


def find_nodes(name: str) -> tuple[str, ...]:
    """Return possible names of ONNX nodes in a layer's name: "a + b", "PWN(a, b)", "{ForeignNode[a...b]}"."""
    return tuple(part for part in re.split(r"\.\.\.|[\s+,()\[\]{}]+", name) if part)


class TensorRtProfiler:
    """The profiler of one execution context; it must live as long as the context does."""

    def __init__(self, tensorrt: Any, execution_context: Any, on_run: Callable[[LayerRun], None]) -> None:
        """Attach to a context.

        Args:
            tensorrt: The module.
            execution_context: IExecutionContext. Its runs must not be captured from now on.
            on_run: Called with each run once the device has finished it.
        """
        self._on_run = on_run
        self._layers: list[tuple[str, float]] = []
        self._profiler = _make_profiler(tensorrt, self._layers)
        execution_context.profiler = self._profiler
        # Requested after each run instead: the return value says whether times are available.
        execution_context.enqueue_emits_profile = False

    def finish_run(self, execution_context: Any) -> bool:
        """Wait for the last enqueued run and report its times; return False if TensorRT has none."""
        self._layers.clear()
        if not execution_context.report_to_profiler():
            return False
        self._on_run(tuple(self._layers))
        return True


def _make_profiler(tensorrt: Any, layers: list[tuple[str, float]]) -> Any:
    class Profiler(tensorrt.IProfiler):  # type: ignore[misc]
        """Profiler that records layer times."""

        def __init__(self) -> None:
            tensorrt.IProfiler.__init__(self)  # pybind11 requires the call by name

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """Record one layer."""
            # TensorRT aborts the process if this raises, so the values are only stored.
            layers.append((layer_name, ms))

    return Profiler()
