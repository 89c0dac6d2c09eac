"""A stand-in for TensorRT for RTX's module: a plan is an ONNX file's path, and ONNX Runtime computes it.

It has only the names that benchmarks/gpu_day uses. A plan that begins with "refused" is rejected.
"""

from __future__ import annotations

import ctypes
import enum
import os
from typing import Any

import numpy as np
import onnxruntime

__version__ = "0.stand-in"
DataType = enum.Enum("DataType", ["FLOAT", "HALF", "INT32", "INT64", "INT8"])
TensorIOMode = enum.Enum("TensorIOMode", ["INPUT", "OUTPUT"])
EngineValidity = enum.Enum("EngineValidity", ["VALID", "INVALID"])
ComputeCapability = enum.Enum("ComputeCapability", ["SM80", "SM89", "CURRENT"])
_TYPES = {"tensor(float)": DataType.FLOAT, "tensor(float16)": DataType.HALF, "tensor(int32)": DataType.INT32}
_NUMPY = {DataType.FLOAT: np.float32, DataType.HALF: np.float16, DataType.INT32: np.int32}


class ILogger:
    """Base of loggers."""

    ERROR = 1

    def log(self, severity: int, message: str) -> None:
        """Receive a line."""


class Runtime:
    """Loads plans."""

    def __init__(self, log: ILogger) -> None:
        self._log = log

    def get_engine_validity(self, plan: bytes) -> tuple[EngineValidity, str]:
        """Return whether a plan is valid."""
        return (EngineValidity.INVALID, "no kernels") if plan.startswith(b"refused") else (EngineValidity.VALID, "")

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        """Load a plan, or log the reason why it cannot be loaded."""
        if plan.startswith(b"refused"):
            self._log.log(1, "Error Code 9: this GPU's architecture is not supported")
            return None
        return Engine(onnxruntime.InferenceSession(plan.decode(), providers=["CPUExecutionProvider"]))


class Engine:
    """A loaded plan."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self._inputs: dict[str, Any] = {node.name: node for node in session.get_inputs()}
        self._nodes: dict[str, Any] = self._inputs | {node.name: node for node in session.get_outputs()}
        self.num_io_tensors = len(self._nodes)

    def get_tensor_name(self, index: int) -> str:
        """Return a name."""
        return list(self._nodes)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        """Return whether it is read or written."""
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        """Return the type."""
        return _TYPES[self._nodes[name].type]

    def get_tensor_shape(self, name: str) -> list[int]:
        """Return the shape."""
        return list(self._nodes[name].shape)

    def create_execution_context(self) -> Context:
        """Create an execution context."""
        return Context(self)


class Context:
    """Runs a plan on tensors at addresses."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._views: dict[str, Any] = {}

    def set_tensor_address(self, name: str, address: int) -> None:
        """Bind a tensor."""
        shape, dtype = self._engine.get_tensor_shape(name), np.dtype(_NUMPY[self._engine.get_tensor_dtype(name)])
        raw: Any = (ctypes.c_uint8 * (int(np.prod(shape)) * dtype.itemsize)).from_address(address)
        self._views[name] = np.frombuffer(raw, dtype).reshape(shape)

    def execute_async_v3(self, stream: int) -> bool:
        """Run once, immediately."""
        session = self._engine.session
        found = session.run(None, {node.name: self._views[node.name] for node in session.get_inputs()})
        for node, values in zip(session.get_outputs(), found, strict=True):
            self._views[node.name][...] = values
        return True


class Builder:
    """Builds plans; fails if the variable RTX_STAND_IN_BUILDS_NOTHING is set, as on a GPU that is not supported."""

    def __init__(self, log: ILogger) -> None:
        self._log = log
        if "RTX_STAND_IN_BUILDS_NOTHING" in os.environ:
            log.log(1, "Error Code 9: this GPU's architecture is not supported")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags: int) -> list[str]:
        """Create a network, which will hold the path."""
        return []

    def create_builder_config(self) -> Any:
        """Make options."""
        return type("Config", (), {"set_compute_capability": lambda self, member, index: member.name != "SM80"})()

    def build_serialized_network(self, network: list[str], config: Any) -> bytes:
        """Build."""
        return network[0].encode()


class OnnxParser:
    """Reads ONNX files."""

    def __init__(self, network: list[str], log: ILogger) -> None:
        self._network = network

    def parse_from_file(self, path: str) -> bool:
        """Read one."""
        self._network.append(path)
        return path.endswith(".onnx")

    def get_error(self, index: int) -> str:
        """Say why."""
        return "this is no ONNX file"
