"""ONNX Runtime's CPU provider behind a CUDA stream: what it computes is enqueued as a host function.

On the fake driver device memory is host memory, so that real numbers flow through every path of a lane on a GPU:
streams, uploads, pitched copies, capture and replay.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

from vdmrt.bundle import Graph
from vdmrt.errors import DeviceError
from vdmrt.runtime._core import Device, cuda_device
from vdmrt.runtime.backends.onnxruntime_backend import OnnxRuntimeBackend, OnnxRuntimeCall, OnnxRuntimeProgram

__all__ = ["HostFunctionBackend"]

_HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class HostFunctionBackend(OnnxRuntimeBackend):
    """Runs graphs on the CPU, in order on the stream of a GPU.

    Attributes:
        capturable: Whether its programs say that they may be captured.
        scratch_nbytes: What its programs ask for, without use for it.
        escapes_capture: Whether its programs run beside the stream, as a library with a stream of its own does.
    """

    def __init__(
        self, index: int = 0, *, capturable: bool = True, scratch_nbytes: int = 4096, escapes_capture: bool = False
    ) -> None:
        super().__init__(threads=1)
        self.device_name = f"cuda:{index}"
        self._index = index
        self.capturable = capturable
        self.scratch_nbytes = scratch_nbytes
        self.escapes_capture = escapes_capture

    def open_device(self) -> Device:
        """Open a stream of its own."""
        return cuda_device(self._index)

    def _wrap(self, session: Any, graph: Graph, stage: str) -> OnnxRuntimeProgram:
        program = (OnnxRuntimeProgram if self.escapes_capture else _HostFunctionProgram)(session, graph)
        program.capturable = self.capturable
        program.scratch_nbytes = self.scratch_nbytes
        return program


class _HostFunctionProgram(OnnxRuntimeProgram):
    def bind(self, device: Device, addresses: Mapping[str, int]) -> OnnxRuntimeCall:
        return _HostFunctionCall(self._session, self._binding(device, addresses), device)


class _HostFunctionCall(OnnxRuntimeCall):
    def __init__(self, session: Any, binding: Any, device: Device) -> None:
        super().__init__(session, binding)
        self._device = device
        self._function = _HOST_FUNCTION(lambda _: self._run(None))

    def enqueue(self) -> None:
        driver = ctypes.CDLL("libcuda.so.1")
        self._device.activate()
        code = driver.cuLaunchHostFunc(ctypes.c_void_p(self._device.stream), self._function, None)
        if code != 0:
            raise DeviceError(f"returned {code}", call="cuLaunchHostFunc")
