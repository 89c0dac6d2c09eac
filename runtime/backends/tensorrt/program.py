"""Programs of TensorRT: deserialized engines, their execution contexts, and calls on them."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from ....errors import BackendError, DeviceError, TensorMismatchError
from .layers import LayerRuns, TensorRtProfiler

if TYPE_CHECKING:
    from ....bundle import Graph, TensorSpec
    from ....hosts.tensorrt.log import TensorRtLog
    from ..._core import Device
    from ..layer_times import LayerTime
    from .layers import LayerRun

__all__ = ["CreateContext", "TensorRtCall", "TensorRtProgram", "TensorRtTimedProgram"]

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
# Makes an IExecutionContext of an engine for a queue; whether the caller gives it scratch memory. None if refused.
CreateContext = Callable[[Any, "Device", bool], Any]
# Alignment that setTensorAddress requires, and setDeviceMemory of TensorRT 10 (8.5 accepts 256).
_ADDRESS_ALIGNMENT, _SCRATCH_ALIGNMENT = 256, 512


class TensorRtProgram:
    """A deserialized engine. Any number of contexts share it, in any number of threads."""

    def __init__(
        self,
        tensorrt: Any,
        engine: Any,
        log: TensorRtLog,
        graph: Graph,
        device: Device,
        create: CreateContext | None = None,
    ) -> None:
        """Take ownership of an engine whose weight streaming budget was set.

        Args:
            tensorrt: The module.
            engine: ICudaEngine; this object is its only owner from now on.
            log: Log of the runtime that created the engine.
            graph: Graph that the engine was built from.
            device: Device on the engine's GPU.
            create: Creates an IExecutionContext of the engine for a queue, without memory of its own where the
                caller gives it scratch memory; None does that by the API of every TensorRT.
        """
        self._tensorrt = tensorrt
        self._create: CreateContext = create or partial(_create_context, tensorrt)
        self._engine: Any = engine
        self._log = log
        self._graph = graph
        self._device = device
        self._contexts: weakref.WeakValueDictionary[Device, TensorRtContext] = weakref.WeakValueDictionary()
        # Read once: the value depends only on the weight streaming budget, which is already set.
        self._scratch_nbytes = int(_device_memory_nbytes(engine))
        self._capturable = not _streams_weights(engine)

    @property
    def scratch_nbytes(self) -> int:
        """Bytes of device memory that each context needs from the caller; 0 if none."""
        return self._scratch_nbytes

    @property
    def capturable(self) -> bool:
        """Whether a run may be captured into a CUDA graph: not while weights are streamed from the host."""
        return self._capturable

    def describe_layers(self) -> str:
        """Return the layer information of TensorRT's inspector as JSON.

        Raises:
            RuntimeError: The program is closed.
        """
        form = self._tensorrt.LayerInformationFormat.JSON
        return str(self._open_engine().create_engine_inspector().get_engine_information(form))

    def check(self, name: str) -> None:
        """Compare the engine with the tensor table of model.json.

        Args:
            name: Name of the plan, for error messages.

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
                raise BackendError(f"{name}: model.json has '{tensor}' and the plan does not; build the engine again")
            if tensor not in wanted:
                raise BackendError(f"{name}: the plan has '{tensor}' and model.json does not; build the engine again")
        for tensor, (spec, side) in wanted.items():
            self._check_tensor(name, tensor, _describe(spec, side))

    def bind(self, device: Device, addresses: Mapping[str, int], scratch: int = 0) -> TensorRtCall:
        """Bind every input and output to an address; the calls of one queue share an execution context.

        Args:
            device: The queue that the call runs on.
            addresses: Addresses by tensor name; names of other tensors are ignored.
            scratch: Address of ``scratch_nbytes`` bytes, on a 512-byte boundary, that the caller keeps alive and does
                not use otherwise while a call of the queue runs; 0 if none are needed.

        Raises:
            TensorMismatchError: A tensor has no address, or one that is not on a 256-byte boundary.
            DeviceError: TensorRT refuses.
            RuntimeError: The program is closed.
            ValueError: ``scratch`` is missing or not aligned.
        """
        bound = self._checked(addresses)
        return self._context_on(device, scratch).open_call(bound)

    def timed(self) -> TensorRtTimedProgram:
        """Return a program of the same engine whose contexts record the time of each layer; close it before this one.

        Raises:
            RuntimeError: The program is closed.
        """
        parts = self._tensorrt, self._open_engine(), self._log, self._graph, self._device
        return TensorRtTimedProgram(*parts, self._create)

    def close(self) -> None:
        """Destroy the remaining contexts, then the engine. Closing twice is allowed."""
        with contextlib.ExitStack() as stack:  # in reverse order, despite failures
            stack.callback(self._drop_engine)
            for context in list(self._contexts.values()):
                stack.callback(context.close)

    def _drop_engine(self) -> None:
        if self._engine is None:
            return
        try:
            self._device.activate()
        finally:
            self._engine = None

    def _open_engine(self) -> Any:
        if self._engine is None:
            raise RuntimeError("the program is closed")
        return self._engine

    def _checked(self, addresses: Mapping[str, int]) -> dict[str, int]:
        """Return the addresses of the graph's tensors."""
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
        return bound

    def _context_on(self, device: Device, scratch: int) -> TensorRtContext:
        """Return the queue's execution context, which closing its last call destroys."""
        context = self._contexts.get(device)
        if context is None or context.closed:
            context = self._contexts[device] = self._make_context(device, scratch)
        return context

    def _make_context(self, device: Device, scratch: int) -> TensorRtContext:
        self._open_engine()
        if self._scratch_nbytes and not scratch:
            raise ValueError(f"the context needs {self._scratch_nbytes} bytes of scratch memory, got none")
        if scratch % _SCRATCH_ALIGNMENT:
            raise ValueError(f"scratch must be on a {_SCRATCH_ALIGNMENT}-byte boundary, got {scratch:#x}")
        device.activate()
        return TensorRtContext(self._make_execution_context(device, scratch), self._log, device, self._device)

    def _check_tensor(self, name: str, tensor: str, wanted: str) -> None:
        engine = self._engine
        dtype = str(engine.get_tensor_dtype(tensor).name)
        found = _format(
            engine.get_tensor_mode(tensor), _TYPES.get(dtype, dtype), tuple(engine.get_tensor_shape(tensor))
        )
        if found != wanted:
            raise BackendError(f"{name}: wanted '{tensor}' as {wanted}, found {found}; build the engine again")
        location = engine.get_tensor_location(tensor)
        layout = engine.get_tensor_format(tensor)
        if location != self._tensorrt.TensorLocation.DEVICE or layout != self._tensorrt.TensorFormat.LINEAR:
            raise BackendError(
                f"{name}: wanted '{tensor}' linear in device memory, found {layout.name} in {location.name} memory; "
                "build the engine again"
            )

    def _make_execution_context(self, device: Device, scratch: int) -> Any:
        """Create an IExecutionContext on the caller's scratch."""
        made = self._create(self._engine, device, bool(self._scratch_nbytes))
        if made is None:
            raise DeviceError(self._log.take_errors(), call="create_execution_context")
        if self._scratch_nbytes:
            if hasattr(made, "set_device_memory"):  # 10.1
                made.set_device_memory(scratch, self._scratch_nbytes)
            else:
                made.device_memory = scratch
        return made


class TensorRtTimedProgram(TensorRtProgram):
    """An engine with TensorRT's profiler attached; it shares ownership with the program that it was created from."""

    @property
    def capturable(self) -> bool:
        """False: the profiler waits for the device after each run."""
        return False

    @cached_property
    def _runs(self) -> LayerRuns:
        return LayerRuns()

    def layer_times(self) -> list[LayerTime]:
        """Return the layers that ran, in order of execution."""
        return self._runs.layer_times(self.describe_layers())

    def _make_context(self, device: Device, scratch: int) -> TensorRtContext:
        context = super()._make_context(device, scratch)
        context.profile_layers(self._tensorrt, self._runs.record)
        return context


class TensorRtContext:
    """An execution context on one queue. Its calls run one at a time, in order, in one thread at a time."""

    def __init__(self, execution_context: Any, log: TensorRtLog, device: Device, engine_device: Device) -> None:
        self._execution_context: Any = execution_context
        self._log = log
        self._device = device
        self._engine_device = engine_device
        self._stream = device.stream
        self._open_calls = 0
        self._set: TensorRtCall | None = None
        self._profiler: TensorRtProfiler | None = None

    @property
    def closed(self) -> bool:
        """Whether the context was destroyed."""
        return self._execution_context is None

    def profile_layers(self, tensorrt: Any, on_run: Callable[[LayerRun], None]) -> None:
        """Report the time of each layer of every run from now on; each run then waits for the device."""
        self._profiler = TensorRtProfiler(tensorrt, self._execution_context, on_run)

    def open_call(self, addresses: Mapping[str, int]) -> TensorRtCall:
        """Return a call with these addresses."""
        self._open_calls += 1
        return TensorRtCall(self, addresses)

    def close_call(self) -> None:
        """Count a call as closed; the last one destroys the context."""
        self._open_calls -= 1
        if self._open_calls == 0:
            self.close()

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
        """Destroy the context; its queue must be empty. Closing twice is allowed."""
        if self._execution_context is None:
            return
        try:
            # The engine's device, because the lane may have closed its own; both are on the same GPU.
            self._engine_device.activate()
        finally:
            self._set = None
            self._execution_context = None
            self._profiler = None  # after the context, which calls it

    def _set_addresses(self, call: TensorRtCall) -> None:
        # If an address is refused, the rest still belong to another call; so none counts as set until all are.
        self._set = None
        for name, address in call.addresses.items():
            if not self._execution_context.set_tensor_address(name, address):
                raise DeviceError(f"'{name}': {self._log.take_errors()}", call="set_tensor_address")
        self._set = call


class TensorRtCall:
    """An execution context with an address for each tensor.

    Attributes:
        addresses: Addresses by name. The caller owns the memory.
    """

    def __init__(self, context: TensorRtContext, addresses: Mapping[str, int]) -> None:
        self._context = context
        self._closed = False
        self.addresses = addresses

    def enqueue(self) -> None:
        """Run once, in order on the context's queue, and return before the device has finished.

        Raises:
            DeviceError: TensorRT reports a failure.
            RuntimeError: The call or its context is closed.
        """
        if self._closed:
            raise RuntimeError("the execution context is closed")
        self._context.run(self)

    def close(self) -> None:
        """Release the context, which the last call of a queue destroys. Closing twice is allowed."""
        if not self._closed:
            self._closed = True
            self._context.close_call()


def _create_context(tensorrt: Any, engine: Any, device: Device, has_scratch: bool) -> Any:
    """Return an IExecutionContext: with scratch memory by strategy in TensorRT 10, by another call in 8.5."""
    strategies = getattr(tensorrt, "ExecutionContextAllocationStrategy", None)
    if not has_scratch:
        return engine.create_execution_context()
    if strategies is not None:
        return engine.create_execution_context(strategies.USER_MANAGED)
    return engine.create_execution_context_without_device_memory()


def _device_memory_nbytes(engine: Any) -> int:
    # The older name was removed in 11 and ignores weight streaming; the newer was added in 10.1.
    name = "device_memory_size_v2" if hasattr(engine, "device_memory_size_v2") else "device_memory_size"
    return int(getattr(engine, name))


def _streams_weights(engine: Any) -> bool:
    streamable = getattr(engine, "streamable_weights_size", 0)  # 10.0
    return bool(streamable) and engine.weight_streaming_budget_v2 < streamable


def _describe(spec: TensorSpec, mode: Any) -> str:
    return _format(mode, spec.dtype, spec.shape)


def _format(mode: Any, dtype: str, shape: tuple[int, ...]) -> str:
    return f"{mode.name.lower()} {dtype} {list(shape)}"
