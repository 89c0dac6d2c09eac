"""A minimal backend: ONNX's reference evaluator, in numpy, on the host."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from vdmrt.bundle import Graph, TensorSpec
from vdmrt.runtime._core import Device, host_device
from vdmrt.runtime.backends.stage_source import StageSource

__all__ = ["ReferenceBackend"]


class ReferenceBackend:
    """Runs graphs in numpy, slowly and according to the standard."""

    name, device_name = "reference", "host"

    def describe(self) -> str:
        """Return the library's name."""
        return f"ONNX's reference evaluator {onnx.__version__}"

    def open_device(self) -> Device:
        """Return the host."""
        return host_device()

    def load(self, source: StageSource) -> _Program:
        """Load an exported graph."""
        return _Program(ReferenceEvaluator(str(source.file)), source.graph)

    def close(self) -> None:
        """Do nothing: it holds no resources."""


class _Program:
    scratch_nbytes, capturable = 0, False

    def __init__(self, evaluator: ReferenceEvaluator, graph: Graph) -> None:
        self._evaluator, self._graph = evaluator, graph

    def bind(self, device: Device, addresses: Mapping[str, int], scratch: int = 0) -> _Call:
        sides = [{spec.name: _view(spec, addresses[spec.name]) for spec in specs}
                 for specs in (self._graph.inputs, self._graph.outputs)]  # fmt: skip
        return _Call(self._evaluator, *sides)

    def close(self) -> None:
        """Do nothing: it holds no resources."""


class _Call:
    def __init__(self, evaluator: ReferenceEvaluator, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        self._evaluator, self._inputs, self._outputs = evaluator, inputs, outputs

    def enqueue(self) -> None:
        results: Any = self._evaluator.run(list(self._outputs), self._inputs)
        for place, result in zip(self._outputs.values(), results, strict=True):
            place[...] = result

    def close(self) -> None:
        """Do nothing: it holds no resources."""


def _view(spec: TensorSpec, address: int) -> Any:
    content: Any = (ctypes.c_char * spec.nbytes).from_address(address)
    return np.frombuffer(content, spec.dtype).reshape(spec.shape)
