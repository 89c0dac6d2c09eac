"""Backends that run engines: their differences, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["BACKENDS", "PROVIDERS", "BackendName", "BackendTraits", "ProviderName"]

BackendName = Literal["tensorrt", "tensorrt-rtx", "onnxruntime"]
ProviderName = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class BackendTraits:
    """What distinguishes a backend for those who store, select and build its engines.

    Attributes:
        title: Name of the library.
        is_native: Whether it runs plans, which are native code and loaded only from a trusted source, on GPUs only.
        builds_anywhere: Whether its engines are built without the GPU that runs them.
    """

    title: str
    is_native: bool
    builds_anywhere: bool


BACKENDS: Mapping[str, BackendTraits] = {
    "tensorrt": BackendTraits("TensorRT", is_native=True, builds_anywhere=False),
    "tensorrt-rtx": BackendTraits("TensorRT for RTX", is_native=True, builds_anywhere=True),
    "onnxruntime": BackendTraits("ONNX Runtime", is_native=False, builds_anywhere=False),
}
assert tuple(BACKENDS) == get_args(BackendName)
# Execution providers of ONNX Runtime that run engines, as it names them.
PROVIDERS: Mapping[ProviderName, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
