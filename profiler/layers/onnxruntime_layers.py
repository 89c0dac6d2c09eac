"""Time per node from ONNX Runtime's own profile, in sessions of their own."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from ...bundle import Graph, Stage
from ...runtime.backends.onnxruntime_backend import OnnxRuntimeBackend, OnnxRuntimeProgram
from ...runtime.session.model import Model
from ..measuring.settings import Settings
from .layer_times import LayerTime, median_run, roll

__all__ = ["read_node_times", "time_nodes"]

_INSERTED = "InsertedPrecisionFreeCast_"


def time_nodes(model: Model, backend: OnnxRuntimeBackend, settings: Settings) -> dict[str, list[LayerTime]]:
    """Run a few chunks with ONNX Runtime's profiler on; return the nodes of "denoise" and "fill".

    Args:
        model: Loaded; its bundle and precision are used, the model itself is left alone.
        backend: Whose threads are used.
        settings: Sampler and steps.
    """
    with tempfile.TemporaryDirectory() as folder:
        profiling = _ProfilingBackend(Path(folder), backend.threads)
        profiling.engine = backend.engine
        with Model(model.bundle, profiling, model.precision) as profiled:
            roll(profiled, settings)
            graphs = model.bundle.graphs(model.precision)
            return {stage: read_node_times(profiling.finish(graphs[stage])) for stage in (Stage.DENOISE, Stage.FILL)}


def read_node_times(profile: str) -> list[LayerTime]:
    """Return each node's time, in order of execution.

    Args:
        profile: The JSON that ONNX Runtime wrote.
    """
    runs: dict[str, list[float]] = {}
    operators: dict[str, str] = {}
    for event in json.loads(profile):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            operators.setdefault(name, event["args"].get("op_name", ""))
            runs.setdefault(name, []).append(event["dur"] / 1e3)
    return [LayerTime(name, operators[name], ms, (name, _made_for(name))) for name, ms in median_run(runs).items()]


def _made_for(name: str) -> str:
    """Return the node that an optimizer made another one for, as the other one's name tells it."""
    return name.removeprefix(_INSERTED).partition("/")[0]


class _ProfilingBackend(OnnxRuntimeBackend):
    """ONNX Runtime with its profiler on."""

    def __init__(self, folder: Path, threads: int) -> None:
        super().__init__(threads=threads)
        self._folder = folder
        self._loaded: list[tuple[Graph, OnnxRuntimeProgram]] = []

    def load(self, *given: Any, **named: Any) -> OnnxRuntimeProgram:
        program = super().load(*given, **named)
        (graph,) = (one for one in (*given, *named.values()) if isinstance(one, Graph))
        self._loaded.append((graph, program))
        return program

    def finish(self, graph: Graph) -> str:
        """End the profile of a graph and return it."""
        program = next(program for loaded, program in self._loaded if loaded is graph)
        return Path(program._session.end_profiling()).read_text()

    def _options(self, graph: Graph | None = None) -> Any:
        options = super()._options(graph)
        options.enable_profiling = True
        options.profile_file_prefix = str(self._folder / "nodes")
        return options
