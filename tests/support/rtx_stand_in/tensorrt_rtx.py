"""TensorRT for RTX for the stages of benchmarks/gpu_day on the CPU: the recorder, and ONNX Runtime that computes.

What deserializes and runs has the names and the checks of the real bindings; the builder has only what the benchmarks
use, and writes plans of onnx_plans.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).parents[1]))  # this folder is on the path of an interpreter of its own

from onnx_plans import compute_files, plan_of_file
from tensorrt_recorder import RTX, Recorder

_recorder = Recorder(RTX, alignment=1, scratch_nbytes=0)  # torch aligns less on the CPU
compute_files(_recorder)
globals().update({name: value for name, value in vars(_recorder.module).items() if not name.startswith("__")})
__version__ = _recorder.version


class Builder:
    """Builds plans; fails if the variable RTX_STAND_IN_BUILDS_NOTHING is set, as on a GPU that is not supported."""

    def __init__(self, log: Any) -> None:
        if "RTX_STAND_IN_BUILDS_NOTHING" in os.environ:
            log.log(_recorder.module.ILogger.ERROR, "Error Code 9: this GPU's architecture is not supported")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags: int) -> list[str]:
        """Create a network, which will hold the path."""
        return []

    def create_builder_config(self) -> Any:
        """Make options."""
        return type("Config", (), {"set_compute_capability": lambda self, member, index: member.name != "SM80"})()

    def build_serialized_network(self, network: list[str], config: Any) -> bytes:
        """Build."""
        return plan_of_file(_recorder, network[0])


class OnnxParser:
    """Reads ONNX files."""

    def __init__(self, network: list[str], log: Any) -> None:
        self._network = network

    def parse_from_file(self, path: str) -> bool:
        """Read one."""
        self._network.append(path)
        return path.endswith(".onnx")

    def get_error(self, index: int) -> str:
        """Say why."""
        return "this is no ONNX file"
