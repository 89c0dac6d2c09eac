"""Plans of the recorder that contain an ONNX file's path, and contexts that compute it on the CPU."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tensorrt_recorder import Recorder, make_plan

__all__ = ["compute_files", "plan_of_file"]

_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int32)": "int32"}


def plan_of_file(recorder: Recorder, path: Path | str, **document: Any) -> bytes:
    """Return a plan of an ONNX file, for contexts of a recorder that computes files."""
    session = _session(str(path))
    sides = [
        [(node.name, _TYPES[node.type], tuple(node.shape)) for node in nodes]
        for nodes in (session.get_inputs(), session.get_outputs())
    ]
    return make_plan(recorder, *sides, name=str(path), **document)


def compute_files(recorder: Recorder) -> None:
    """Make a recorder's contexts compute the file of their plan when they are enqueued, on host memory."""
    recorder.on_enqueue = _compute


@functools.cache
def _session(path: str) -> Any:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def _compute(context: Any, stream: int) -> None:
    session = _session(context.engine.name)
    found = session.run(None, {node.name: _view(context, node) for node in session.get_inputs()})
    for node, values in zip(session.get_outputs(), found, strict=True):
        _view(context, node)[...] = values


def _view(context: Any, node: Any) -> Any:
    shape, dtype = tuple(node.shape), np.dtype(_TYPES[node.type])
    nbytes = int(np.prod(shape)) * dtype.itemsize
    raw: Any = (ctypes.c_uint8 * nbytes).from_address(context._addresses[node.name])
    return np.frombuffer(raw, dtype).reshape(shape)
