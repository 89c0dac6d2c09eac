"""A deserialised engine, its execution contexts, and the calls that are enqueued on them."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from ...bundle import Graph, TensorSpec
from ...errors import BackendError, DeviceError, TensorMismatchError
from ...hosts.tensorrt_log import TensorRtLog
from .._core import Device
from .tensorrt_profiler import LayerTimes, TensorRtProfiler

__all__ = ["TensorRtCall", "TensorRtContext", "TensorRtProgram"]

_TYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT32": "int32",
    "INT8": "int8",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
    "BF16": "bfloat16",
    "FP8": "float8_e4m3fn",
}
# TensorRT's setTensorAddress, and setDeviceMemory as TensorRT 10 checks it (8.5 is content with 256).
_ADDRESS_ALIGNMENT, _SCRATCH_ALIGNMENT = 256, 512


class TensorRtProgram:
    """An engine. Any number of contexts share it, in any number of threads."""

    def __init__(self, tensorrt: Any, engine: Any, log: TensorRtLog, graph: Graph, device: Device) -> None:
        """Take over an engine; budgets must have been set.

        Args:
            tensorrt: The module.
            engine: ICudaEngine; this object is its only owner from now on.
            log: Of the runtime that made it.
            graph: What it was built from.
            device: Whose GPU the engine lies on.
        """
        self._tensorrt = tensorrt
        self._engine: Any = engine
        self._log = log
        self._graph = graph
        self._device = device
        self._contexts: weakref.WeakSet[TensorRtContext] = weakref.WeakSet()
        # Asked once: the engine's own answer changes with the weight streaming budget only, which is set by now.
        self._scratch_nbytes = int(_device_memory_nbytes(engine))
        self._capturable = not _streams_weights(engine)

    @property
    def scratch_nbytes(self) -> int:
        """Device memory that each context must be given; 0 where it needs none."""
        return self._scratch_nbytes

    @property
    def capturable(self) -> bool:
        """Whether a run may be captured into a CUDA graph: not while weights are streamed from the host."""
        return self._capturable

    def describe_layers(self) -> str:
        """Return what TensorRT's inspector says of the layers, as JSON.

        Raises:
            RuntimeError: The program is closed.
        """
        if self._engine is None:
            raise RuntimeError("the program is closed")
        form = self._tensorrt.LayerInformationFormat.JSON
        return str(self._engine.create_engine_inspector().get_engine_information(form))

    def check(self, name: str) -> None:
        """Hold the engine against the tensor table of model.json.

        Args:
            name: Of the plan, for the error.

        Raises:
            BackendError: A name, dtype, shape, direction, memory or layout differs.
        """
        mode = self._tensorrt.TensorIOMode
        wanted = {
            spec.name: (spec, side)
            for side, specs in ((mode.INPUT, self._graph.inputs), (mode.OUTPUT, self._graph.outputs))
            for spec in specs
        }
        found = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        for tensor in [*wanted, *found]:
            if tensor not in found:
                raise BackendError(f"{name}: model.json has '{tensor}' and the plan has not; build the engine again")
            if tensor not in wanted:
                raise BackendError(f"{name}: the plan has '{tensor}' and model.json has not; build the engine again")
        for tensor, (spec, side) in wanted.items():
            self._check_tensor(name, tensor, _say(spec, side))

    def create_context(self, device: Device, scratch: int) -> TensorRtContext:
        """Make an execution context.

        Args:
            device: The queue that it runs on.
            scratch: Address of ``scratch_nbytes`` bytes on 512-byte boundaries that the caller keeps alive and lets
                nothing else use while the context runs; 0 where none is needed.

        Raises:
            DeviceError: TensorRT refuses.
            ValueError: ``scratch`` is 0 where memory is needed, or is not aligned.
            RuntimeError: The program is closed.
        """
        if self._engine is None:
            raise RuntimeError("the program is closed")
        if self._scratch_nbytes and not scratch:
            raise ValueError(f"the context needs {self._scratch_nbytes} bytes of scratch memory, got none")
        if scratch % _SCRATCH_ALIGNMENT:
            raise ValueError(f"scratch must lie on a {_SCRATCH_ALIGNMENT}-byte boundary, got {scratch:#x}")
        device.activate()
        execution_context = self._make_execution_context(scratch)
        context = TensorRtContext(self._tensorrt, execution_context, self._log, self._graph, device, self._device)
        self._contexts.add(context)
        return context

    def close(self) -> None:
        """Destroy the contexts that are left, then the engine. Closing twice is allowed."""
        with contextlib.ExitStack() as stack:  # the last first, and all of them where one fails
            stack.callback(self._drop_engine)
            for context in list(self._contexts):
                stack.callback(context.close)

    def _drop_engine(self) -> None:
        if self._engine is None:
            return
        try:
            self._device.activate()
        finally:
            self._engine = None

    def _check_tensor(self, name: str, tensor: str, wanted: str) -> None:
        engine = self._engine
        dtype = str(engine.get_tensor_dtype(tensor).name)
        found = _spell(engine.get_tensor_mode(tensor), _TYPES.get(dtype, dtype), tuple(engine.get_tensor_shape(tensor)))
        if found != wanted:
            raise BackendError(f"{name}: wanted '{tensor}' as {wanted}, found {found}; build the engine again")
        location = engine.get_tensor_location(tensor)
        layout = engine.get_tensor_format(tensor)
        if location != self._tensorrt.TensorLocation.DEVICE or layout != self._tensorrt.TensorFormat.LINEAR:
            raise BackendError(
                f"{name}: wanted '{tensor}' linear in device memory, found {layout.name} in {location.name} memory; "
                "build the engine again"
            )

    def _make_execution_context(self, scratch: int) -> Any:
        """Make IExecutionContext on the caller's scratch: TensorRT 10 has a strategy for that, 8.5 another call."""
        strategies = getattr(self._tensorrt, "ExecutionContextAllocationStrategy", None)
        if not self._scratch_nbytes:
            made = self._engine.create_execution_context()
        elif strategies is not None:
            made = self._engine.create_execution_context(strategies.USER_MANAGED)
        else:
            made = self._engine.create_execution_context_without_device_memory()
        if made is None:
            raise DeviceError(self._log.take_errors(), call="create_execution_context")
        if self._scratch_nbytes:
            if hasattr(made, "set_device_memory"):  # 10.1
                made.set_device_memory(scratch, self._scratch_nbytes)
            else:
                made.device_memory = scratch
        return made


class TensorRtContext:
    """An execution context on one queue. Its calls run one at a time, in order, in one thread at a time."""

    def __init__(
        self,
        tensorrt: Any,
        execution_context: Any,
        log: TensorRtLog,
        graph: Graph,
        device: Device,
        engine_device: Device,
    ) -> None:
        self._tensorrt = tensorrt
        self._execution_context: Any = execution_context
        self._log = log
        self._graph = graph
        self._device = device
        self._engine_device = engine_device
        self._stream = device.stream
        self._set: TensorRtCall | None = None
        self._profiler: TensorRtProfiler | None = None

    def profile_layers(self, on_run: Callable[[LayerTimes], None]) -> None:
        """Tell the time of each layer of every run from now on; each run then waits for the device.

        Args:
            on_run: Told of each run.

        Raises:
            RuntimeError: The context is closed.
        """
        if self._execution_context is None:
            raise RuntimeError("the execution context is closed")
        self._profiler = TensorRtProfiler(self._tensorrt, self._execution_context, on_run)

    def bind(self, addresses: Mapping[str, int]) -> TensorRtCall:
        """Set the address of every input and output by name; names beside them are ignored.

        Raises:
            TensorMismatchError: A tensor has no address, or one that is not on a 256-byte boundary.
        """
        bound = {}
        for spec in (*self._graph.inputs, *self._graph.outputs):
            address = addresses.get(spec.name)
            if not address:
                raise TensorMismatchError(spec.name, "has no address")
            if address % _ADDRESS_ALIGNMENT:
                raise TensorMismatchError(
                    spec.name, f"TensorRT wants its address on a {_ADDRESS_ALIGNMENT}-byte boundary, got {address:#x}"
                )
            bound[spec.name] = address
        return TensorRtCall(self, bound)

    def run(self, call: TensorRtCall) -> None:
        """Enqueue a call of this context.

        Raises:
            DeviceError: TensorRT reports a failure.
            RuntimeError: The context is closed.
        """
        if self._execution_context is None:
            raise RuntimeError("the execution context is closed")
        self._device.activate()
        if self._set is not call:
            self._set_addresses(call)
        if not self._execution_context.execute_async_v3(self._stream):
            raise DeviceError(self._log.take_errors(), call="execute_async_v3")
        if self._profiler is not None and not self._profiler.finish_run(self._execution_context):
            raise DeviceError(self._log.take_errors(), call="report_to_profiler")

    def close(self) -> None:
        """Destroy the context; its queue must be empty by then. Closing twice is allowed."""
        if self._execution_context is None:
            return
        try:
            # On the same GPU, and open as long as the engine is: the lane may have closed its own device already.
            self._engine_device.activate()
        finally:
            self._set = None
            self._execution_context = None
            self._profiler = None  # after the context, which calls it

    def _set_addresses(self, call: TensorRtCall) -> None:
        # Where one address is refused the rest are another call's, so nothing counts as set until all are.
        self._set = None
        for name, address in call.addresses.items():
            if not self._execution_context.set_tensor_address(name, address):
                raise DeviceError(f"'{name}': {self._log.take_errors()}", call="set_tensor_address")
        self._set = call


class TensorRtCall:
    """An execution context with an address for each tensor.

    Attributes:
        addresses: By name. The memory stays its owner's.
    """

    def __init__(self, context: TensorRtContext, addresses: Mapping[str, int]) -> None:
        self._context = context
        self.addresses = addresses

    def enqueue(self) -> None:
        """Run once, in order on the context's queue, and return before the device has finished.

        Raises:
            DeviceError: TensorRT reports a failure.
            RuntimeError: The context is closed.
        """
        self._context.run(self)


def _device_memory_nbytes(engine: Any) -> int:
    # The older name is gone in 11 and does not know weight streaming; the newer came in 10.1.
    name = "device_memory_size_v2" if hasattr(engine, "device_memory_size_v2") else "device_memory_size"
    return int(getattr(engine, name))


def _streams_weights(engine: Any) -> bool:
    streamable = getattr(engine, "streamable_weights_size", 0)  # 10.0
    return bool(streamable) and engine.weight_streaming_budget_v2 < streamable


def _say(spec: TensorSpec, mode: Any) -> str:
    return _spell(mode, spec.dtype, spec.shape)


def _spell(mode: Any, dtype: str, shape: tuple[int, ...]) -> str:
    return f"{mode.name.lower()} {dtype} {list(shape)}"
