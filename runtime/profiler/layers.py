"""Time per node of the graphs, from ONNX Runtime's own profile, grouped by transformer block."""

from __future__ import annotations

import json
import re
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...bundle import Graph, read_fields
from ...errors import BackendError
from ..model import Model
from ..onnxruntime_backend import OnnxRuntimeBackend, OnnxRuntimeProgram
from .measurement import Rollout
from .report import Layer
from .settings import Settings

__all__ = ["find_blocks", "group_layers", "profile_layers", "read_node_times"]

_CHUNKS = 3
# Fields of onnx.proto: ModelProto.graph, GraphProto.node and .initializer, NodeProto, TensorProto.name.
_GRAPH, _NODE, _INITIALIZER, _INPUT, _OUTPUT, _NAME, _TENSOR_NAME = 7, 1, 5, 1, 2, 3, 8
_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.|^(?:past|present|context)_[kv]\.(\d+)$")
_INSERTED = "InsertedPrecisionFreeCast_"


def profile_layers(model: Model, settings: Settings) -> tuple[Layer, ...]:
    """Run a few chunks with ONNX Runtime's profiler on, in sessions of their own, and return every node's time.

    Args:
        model: Loaded; its bundle, precision and threads are used, the model itself is left alone.
        settings: Sampler and steps.

    Raises:
        BackendError: The backend has no profiler that is read here.
    """
    if not isinstance(model.backend, OnnxRuntimeBackend) or model.backend.device_name != "host":
        raise BackendError(f"layers are timed on onnxruntime only, and this runs on {model.backend.name}")
    with tempfile.TemporaryDirectory() as folder:
        backend = _ProfilingBackend(Path(folder), model.backend.threads)
        backend.engine = model.backend.engine
        with Model(model.bundle, backend, model.precision) as profiled:
            rollout = Rollout(profiled, replace(settings, decoding="off"))
            with rollout.session:
                rollout.start()
                for _ in range(_CHUNKS):
                    rollout.step()
            graphs = model.bundle.graphs(model.precision)[1]
            return tuple(
                layer
                for stage in ("denoise", "fill")
                for layer in group_layers(
                    stage,
                    read_node_times(backend.finish(graphs[stage])),
                    find_blocks(model.bundle.locate(graphs[stage].file).read_bytes()),
                )
            )


def read_node_times(profile: str) -> list[tuple[str, str, float]]:
    """Return name, operator and median milliseconds of each node, in order of execution.

    Args:
        profile: The JSON that ONNX Runtime wrote; where a node ran more than once, its first run is left out.
    """
    times: dict[tuple[str, str], list[float]] = {}
    for event in json.loads(profile):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            key = (event["name"].removesuffix("_kernel_time"), event["args"].get("op_name", ""))
            times.setdefault(key, []).append(event["dur"] / 1e3)
    return [(*key, statistics.median(runs[1:] or runs)) for key, runs in times.items()]


def find_blocks(graph: bytes) -> dict[str, int]:
    """Return the transformer block of every node and of every node's outputs, by name; -1 outside the blocks.

    A node that reads a weight, or the cache, of a block is of that block; what lies between two such nodes belongs to
    the later one, because norms and modulations stand before the products they serve.

    Args:
        graph: An ONNX file.
    """
    (body,) = (content for field, content in read_fields(memoryview(graph)) if field == _GRAPH)
    fields = list(read_fields(body))
    weights = {_text(content, _TENSOR_NAME) for field, content in fields if field == _INITIALIZER}
    blocks: dict[str, int] = {}
    waiting: list[str] = []
    for field, content in fields:
        if field != _NODE:
            continue
        parts = [(part, bytes(value).decode()) for part, value in read_fields(content) if part in (1, 2, 3)]
        waiting += [name for part, name in parts if part in (_NAME, _OUTPUT)]
        anchor = _anchor([name for part, name in parts if part in (_INPUT, _OUTPUT)], weights)
        if anchor is not None:
            blocks |= dict.fromkeys(waiting, anchor)
            waiting.clear()
    return blocks | dict.fromkeys(waiting, -1)


def group_layers(stage: str, times: Sequence[tuple[str, str, float]], blocks: Mapping[str, int]) -> Iterator[Layer]:
    """Yield the layers of a graph; a node that an optimizer made and named itself is of the block before it.

    Args:
        stage: "denoise" or "fill".
        times: As :func:`read_node_times` returns them.
        blocks: As :func:`find_blocks` returns them.
    """
    whole = sum(milliseconds for _, _, milliseconds in times) or 1.0
    block = -1
    for name, operator, milliseconds in times:
        known = name.removeprefix(_INSERTED).partition("/")[0]
        block = blocks.get(name, blocks.get(known, block))
        yield Layer(stage, block, name, operator, milliseconds, milliseconds / whole)


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


def _anchor(names: Sequence[str], weights: set[str]) -> int | None:
    """Return the block that names of tensors tell, -1 for a weight outside the blocks, None where they tell nothing."""
    for name in names:
        found = _BLOCK.search(name)
        if found:
            return int(found[1] or found[2])
    return -1 if any(name in weights and name.endswith((".weight", ".bias")) for name in names) else None


def _text(message: memoryview, wanted: int) -> str:
    return next((bytes(content).decode() for field, content in read_fields(message) if field == wanted), "")
