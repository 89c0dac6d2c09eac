"""A plan of TensorRT for RTX on torch's device: tensors bound by name, run on torch's current stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .module import Rtx

__all__ = ["Engine", "Refused", "judge_plan"]

Array = npt.NDArray[Any]
_TORCH_TYPES = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT8": "int8", "INT32": "int32", "INT64": "int64",
    "BOOL": "bool", "UINT8": "uint8", "FP8": "float8_e4m3fn",
}  # fmt: skip


class Refused(Exception):
    """TensorRT for RTX cannot run a plan here; the text is TensorRT's message."""


def judge_plan(rtx: Rtx, plan: bytes) -> dict[str, Any]:
    """Ask whether a plan fits this machine before it is loaded; the validity's name, and the reasons given."""
    runtime = rtx.trt.Runtime(rtx.log)
    validity, diagnostics = runtime.get_engine_validity(plan)
    return {"validity": getattr(validity, "name", str(validity)), "diagnostics": str(diagnostics)}


class Engine:
    """A deserialized plan with an execution context, and a torch tensor for each of its inputs and outputs.

    Attributes:
        tensors: By name; the caller fills the inputs in place.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
    """

    def __init__(self, rtx: Rtx, plan: bytes, device: str) -> None:
        """Load a plan.

        Raises:
            Refused: It cannot be deserialized or run here.
        """
        import torch

        rtx.forget()
        _leave_default_stream(device)
        # The runtime must outlive the engine.
        self._runtime = rtx.trt.Runtime(rtx.log)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise Refused("; ".join(rtx.errors()) or "deserialize_cuda_engine returned None and logged no error")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise Refused("; ".join(rtx.errors()) or "create_execution_context returned None and logged no error")
        self._rtx = rtx
        self.tensors: dict[str, Any] = {}
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            is_input = self._engine.get_tensor_mode(name) == rtx.trt.TensorIOMode.INPUT
            (self.inputs if is_input else self.outputs).append(name)
            dtype = getattr(torch, _TORCH_TYPES[self._engine.get_tensor_dtype(name).name])
            self.tensors[name] = torch.zeros(tuple(self._engine.get_tensor_shape(name)), dtype=dtype, device=device)
            self._context.set_tensor_address(name, self.tensors[name].data_ptr())

    def set(self, values: Mapping[str, Array]) -> None:
        """Copy inputs in; values of 8 bit floats come as bytes, names that the plan lacks are left out."""
        import torch

        for name, value in values.items():
            if name in self.inputs:
                target, given = self.tensors[name], torch.from_numpy(np.array(value))
                if target.dtype == torch.float8_e4m3fn:
                    target, given = target.view(torch.uint8), given.view(torch.uint8)
                target.copy_(given.reshape(target.shape))

    def get(self, name: str) -> Array:
        """Return a tensor's values; FP16 and 8 bit floats as float32."""
        import torch

        tensor = self.tensors[name]
        wide = tensor.float() if tensor.is_floating_point() else tensor.to(torch.int64)
        found: Array = wide.cpu().numpy()
        return found

    def run(self) -> None:
        """Enqueue on torch's current stream; waits for nothing.

        Raises:
            RuntimeError: It could not be enqueued.
        """
        import torch

        stream = torch.cuda.current_stream().cuda_stream if torch.cuda.is_available() else 0
        if not self._context.execute_async_v3(stream):
            raise RuntimeError(f"execute_async_v3 failed: {'; '.join(self._rtx.errors())}")

    def captured(self) -> Callable[[], None]:
        """Return what replays the run as a CUDA graph.

        Raises:
            RuntimeError: The context cannot be captured.
        """
        import torch

        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.run()  # kernels are compiled at their first run, which no capture survives
            self.run()
        stream.synchronize()
        if not self._context.is_stream_capturable(stream.cuda_stream):
            raise RuntimeError("is_stream_capturable returned False")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            self.run()
        return graph.replay


def _leave_default_stream(device: str) -> None:
    """Let this process work on a stream of its own: on the default one, TensorRT synchronizes at every run."""
    import torch

    if device != "cpu" and torch.cuda.current_stream() == torch.cuda.default_stream():
        torch.cuda.set_stream(torch.cuda.Stream())  # type: ignore[no-untyped-call]
