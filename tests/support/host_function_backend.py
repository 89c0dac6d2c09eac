"""ONNX Runtime's CPU provider behind a CUDA stream: runs are enqueued as host functions.

Device memory of the fake driver is host memory, so real values pass through every path of a lane on a GPU: streams,
uploads, pitched copies, capture and replay.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

from vdmrt.errors import DeviceError
from vdmrt.runtime._core import Device, cuda_device, host_device
from vdmrt.runtime.backends.backend import Call, Program
from vdmrt.runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from vdmrt.runtime.backends.stage_source import StageSource

__all__ = ["HostFunctionBackend"]

_HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class HostFunctionBackend:
    """Runs graphs on the CPU, in order on the stream of a GPU.

    Attributes:
        capturable: Whether its programs declare that they can be captured.
        scratch_nbytes: Scratch memory that its programs request but do not use.
        escapes_capture: Whether its programs run outside the stream, as a library with its own stream does.
    """

    name = "onnxruntime"

    def __init__(
        self, index: int = 0, *, capturable: bool = True, scratch_nbytes: int = 4096, escapes_capture: bool = False
    ) -> None:
        self._inner = OnnxRuntimeBackend(threads=1)
        self._index = index
        self.device_name = f"cuda:{index}"
        self.capturable = capturable
        self.scratch_nbytes = scratch_nbytes
        self.escapes_capture = escapes_capture

    def describe(self) -> str:
        """Return the backend's description."""
        return self._inner.describe()

    def open_device(self) -> Device:
        """Open a new stream."""
        return cuda_device(self._index)

    def load(self, source: StageSource) -> Program:
        """Load a stage in ONNX Runtime."""
        return _HostFunctionProgram(self, self._inner.load(source))

    def close(self) -> None:
        """Do nothing: it holds no resources."""


class _HostFunctionProgram:
    def __init__(self, backend: HostFunctionBackend, inner: Program) -> None:
        self._backend, self._inner = backend, inner
        self.capturable, self.scratch_nbytes = backend.capturable, backend.scratch_nbytes

    def bind(self, device: Device, addresses: Mapping[str, int], scratch: int = 0) -> Call:
        call = self._inner.bind(host_device(), addresses)
        return call if self._backend.escapes_capture else _HostFunctionCall(call, device)

    def close(self) -> None:
        self._inner.close()


class _HostFunctionCall:
    def __init__(self, inner: Call, device: Device) -> None:
        self._inner, self._device = inner, device
        self._function = _HOST_FUNCTION(lambda _: inner.enqueue())

    def enqueue(self) -> None:
        driver = ctypes.CDLL("libcuda.so.1")
        self._device.activate()
        code = driver.cuLaunchHostFunc(ctypes.c_void_p(self._device.stream), self._function, None)
        if code != 0:
            raise DeviceError(f"returned {code}", call="cuLaunchHostFunc")

    def close(self) -> None:
        self._inner.close()
