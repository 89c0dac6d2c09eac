"""A TensorRT recorder that computes: an enqueue runs the bundle's graph in ONNX Runtime, as a host function.

Device memory of the fake driver is host memory. It tests that the code around TensorRT passes on the right values; it
does not test TensorRT.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from typing import Any

import numpy as np
import onnxruntime
from tensorrt_recorder import Recorder

from vdmrt.bundle import Bundle, Precision, TensorSpec, stage_graphs

__all__ = ["let_compute"]

_HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def let_compute(
    recorder: Recorder,
    bundle: Bundle,
    precision: Precision | str,
    *,
    error: float = 0.0,
    stages: Collection[str] | None = None,
) -> None:
    """Make a recorder's contexts compute the graphs of a bundle.

    Args:
        recorder: The recorder, on an enabled fake driver.
        bundle: The bundle with the engines that it runs.
        precision: Precision of the graphs.
        error: Relative error that is added to every floating output.
        stages: Stages to compute; None for all.
    """
    driver = ctypes.CDLL("libcuda.so.1")
    graphs = stage_graphs(bundle, Precision.parse(precision))
    sessions = {
        stage: onnxruntime.InferenceSession(str(bundle.locate(graph.file)), providers=["CPUExecutionProvider"])
        for stage, graph in graphs.items()
    }
    kept: list[Any] = []  # a captured graph calls its function after the enqueue has returned

    def enqueue(context: Any, stream: int) -> None:
        stage = context.engine.name
        graph, addresses = graphs[stage], dict(context._addresses)

        def run(_: Any) -> None:
            feeds = {spec.name: _view(spec, addresses[spec.name]) for spec in graph.inputs}
            results: Any = sessions[stage].run([spec.name for spec in graph.outputs], feeds)
            for spec, result in zip(graph.outputs, results, strict=True):
                is_exact = spec.dtype == "int32" or (stages is not None and stage not in stages)
                scale = 1 if is_exact else 1 + error
                _view(spec, addresses[spec.name])[...] = result * scale

        function = _HOST_FUNCTION(run)
        kept.append(function)
        assert driver.cuLaunchHostFunc(ctypes.c_void_p(stream), function, None) == 0

    recorder.on_enqueue = enqueue


def _view(spec: TensorSpec, address: int) -> Any:
    content: Any = (ctypes.c_char * spec.nbytes).from_address(address)
    return np.frombuffer(content, spec.dtype).reshape(spec.shape)
