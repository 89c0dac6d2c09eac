"""Time per layer from TensorRT's own profiler, on a lane of its own whose steps are not captured."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...bundle import Bundle, Graph, Stage
from ...runtime._core import Device
from ...runtime.backends.tensorrt_backend import TensorRtBackend
from ...runtime.backends.tensorrt_profiler import LayerTimes
from ...runtime.backends.tensorrt_program import TensorRtContext, TensorRtProgram
from ...runtime.session.model import Model
from ..measuring.settings import Settings
from .layer_times import LayerTime, median_run, roll

__all__ = ["find_nodes", "read_layer_kinds", "time_layers"]

_STAGES = (Stage.DENOISE, Stage.FILL)


def time_layers(model: Model, backend: TensorRtBackend, settings: Settings) -> dict[str, list[LayerTime]]:
    """Run a few chunks with TensorRT's profiler on; return the layers of "denoise" and "fill".

    Args:
        model: Loaded; its engines are used, its lanes are left alone.
        backend: What runs it.
        settings: Sampler and steps.

    Raises:
        DeviceError: There is not enough memory for another lane, or TensorRT tells no times.
    """
    programs: dict[str, _TimedProgram] = {stage: _TimedProgram(model.program(stage)) for stage in _STAGES}
    # Frames are not decoded here, and the codec's engines would be loaded once more.
    bundle = replace(model.bundle, manifest=replace(model.manifest, codec=None, components={}))
    with Model(bundle, _TimedBackend(backend, programs), model.precision, cuda_graph=False) as timed:
        roll(timed, settings)
    return {stage: program.read() for stage, program in programs.items()}


def read_layer_kinds(inspected: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return the kind of each layer and the ONNX nodes that its metadata names, by the layer's name.

    Args:
        inspected: JSON of TensorRT's inspector. A plan without detailed verbosity says names only, and is left out.
    """
    kinds = {}
    for layer in json.loads(inspected).get("Layers", ()):
        if isinstance(layer, dict):
            nodes = re.findall(r"\[ONNX Layer: ([^\]]+)\]", str(layer.get("Metadata", "")))
            kinds[str(layer.get("Name", ""))] = (str(layer.get("LayerType", "")), tuple(nodes))
    return kinds


def find_nodes(name: str) -> tuple[str, ...]:
    """Return what may be names of ONNX nodes in a layer's name: "a + b", "PWN(a, b)", "{ForeignNode[a...b]}"."""
    return tuple(part for part in re.split(r"\.\.\.|[\s+,()\[\]{}]+", name) if part)


class _TimedProgram:
    """A loaded engine whose contexts tell the time of each layer."""

    capturable = False

    def __init__(self, program: Any) -> None:
        self._program: TensorRtProgram = program
        self._runs: dict[str, list[float]] = {}

    @property
    def scratch_nbytes(self) -> int:
        return self._program.scratch_nbytes

    def create_context(self, device: Device, scratch: int) -> TensorRtContext:
        context = self._program.create_context(device, scratch)
        context.profile_layers(self._hear)
        return context

    def read(self) -> list[LayerTime]:
        kinds = read_layer_kinds(self._program.describe_layers())
        layers = []
        for name, milliseconds in median_run(self._runs).items():
            kind, nodes = kinds.get(name, ("", ()))
            layers.append(LayerTime(name, kind or "layer", milliseconds, nodes or find_nodes(name)))
        return layers

    def close(self) -> None:
        """The engine is the model's."""

    def _hear(self, run: LayerTimes) -> None:
        times: dict[str, float] = {}
        for name, milliseconds in run:  # 8.5 copies under one name more than once
            times[name] = times.get(name, 0.0) + milliseconds
        for name, milliseconds in times.items():
            self._runs.setdefault(name, []).append(milliseconds)


class _TimedBackend:
    """TensorRT with the engines that a model has loaded already."""

    def __init__(self, backend: TensorRtBackend, programs: Mapping[str, _TimedProgram]) -> None:
        self._programs = programs
        self.name, self.device_name = backend.name, backend.device_name
        self.describe, self.open_device = backend.describe, backend.open_device

    def load(self, bundle: Bundle, stage: str, graph: Graph) -> _TimedProgram:
        return self._programs[stage]

    def close(self) -> None:
        """The backend is the model's."""
