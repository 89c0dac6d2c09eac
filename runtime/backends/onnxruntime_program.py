"""Programs of ONNX Runtime: loaded graphs and their calls."""

from __future__ import annotations

import itertools
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import BundleError, DeviceError, TensorMismatchError
from .onnxruntime_layers import read_node_times

if TYPE_CHECKING:
    from .._core import Device
    from .layer_times import LayerTime
    from .stage_source import StageSource

__all__ = ["OnnxRuntimeCall", "OnnxRuntimeCpuProgram", "OnnxRuntimeCudaProgram", "OnnxRuntimeProgram"]

_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(float8e4m3fn)": "float8_e4m3fn",
}
# ONNX's number of the type; the others are bound by numpy's types, which lack FP8.
_FLOAT8 = 17
_NO_CUDA_GRAPH = "-1"


class OnnxRuntimeProgram:
    """A graph loaded by ONNX Runtime.

    Attributes:
        scratch_nbytes: 0: ONNX Runtime allocates scratch memory in its arena.
        capturable: False: only ONNX Runtime itself can capture its runs.
    """

    scratch_nbytes = 0
    capturable = False
    _memory = "cpu"

    def __init__(self, session: Any, source: StageSource) -> None:
        """Take ownership of a session.

        Args:
            session: InferenceSession.
            source: Stage that it was created from.

        Raises:
            BundleError: A name, dtype or shape differs from the tensor table.
        """
        self._session: Any = session
        self._graph = source.graph
        # A call refers to the session; a call that is never closed must not keep the session alive.
        self._calls: weakref.WeakSet[OnnxRuntimeCall] = weakref.WeakSet()
        self._check(source.file)

    def bind(self, device: Device, addresses: Mapping[str, int], scratch: int = 0) -> OnnxRuntimeCall:
        """Bind every input and output, by name, to an address.

        Raises:
            TensorMismatchError: A tensor has no address.
        """
        call = self._make_call(device, self._binding(device, addresses))
        self._calls.add(call)
        return call

    def close(self) -> None:
        """Release the session, also in open calls."""
        for call in list(self._calls):
            call.close()
        self._session = None

    def _make_call(self, device: Device, binding: Any) -> OnnxRuntimeCall:
        return OnnxRuntimeCall(self._session, binding)

    def _check(self, path: Path) -> None:
        """Compare the loaded graph with the tensor table of model.json."""
        for found, wanted in (
            (self._session.get_inputs(), self._graph.inputs),
            (self._session.get_outputs(), self._graph.outputs),
        ):
            have = {(tensor.name, _TYPES.get(tensor.type, tensor.type), tuple(tensor.shape)) for tensor in found}
            want = {(spec.name, spec.dtype, spec.shape) for spec in wanted}
            for tensor in have ^ want:
                side = "the graph" if tensor in have else "model.json"
                raise BundleError(
                    f"only {side} has '{tensor[0]}' {tensor[1]} {list(tensor[2])}; export the bundle again",
                    path=path,
                )

    def _binding(self, device: Device, addresses: Mapping[str, int]) -> Any:
        binding = self._session.io_binding()
        for specs, bind in (
            (self._graph.inputs, binding.bind_input),
            (self._graph.outputs, binding.bind_output),
        ):
            for spec in specs:
                if spec.name not in addresses:
                    raise TensorMismatchError(spec.name, "has no address")
                dtype: Any = _FLOAT8 if spec.dtype == "float8_e4m3fn" else np.dtype(spec.dtype).type
                bind(spec.name, self._memory, device.index, dtype, list(spec.shape), addresses[spec.name])
        return binding


class OnnxRuntimeCpuProgram(OnnxRuntimeProgram):
    """A graph loaded by ONNX Runtime's CPU provider, whose nodes can be timed."""

    def __init__(self, session: Any, source: StageSource, open_profiled: Callable[[Path], Any]) -> None:
        """Take ownership of a session; ``open_profiled`` creates another that writes its profile to a path."""
        super().__init__(session, source)
        self._source = source
        self._open_profiled = open_profiled

    def timed(self) -> OnnxRuntimeTimedProgram:
        """Load the graph once more, with ONNX Runtime's profiler on."""
        return OnnxRuntimeTimedProgram(self._source, self._open_profiled)


class OnnxRuntimeTimedProgram(OnnxRuntimeProgram):
    """A graph whose every run is recorded by ONNX Runtime's profiler."""

    def __init__(self, source: StageSource, open_profiled: Callable[[Path], Any]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="vdmrt-nodes-")
        try:
            super().__init__(open_profiled(Path(self._folder.name) / "nodes"), source)
        except BaseException:
            self._folder.cleanup()
            raise

    def layer_times(self) -> list[LayerTime]:
        """Return the nodes that ran, in order of execution; ends the recording."""
        return read_node_times(Path(self._session.end_profiling()).read_text(encoding="utf-8"))

    def close(self) -> None:
        """Release the session and remove its profile."""
        super().close()
        self._folder.cleanup()


class OnnxRuntimeCudaProgram(OnnxRuntimeProgram):
    """A graph loaded by ONNX Runtime's CUDA provider."""

    _memory = "cuda"
    _graph_ids = itertools.count(1)

    def __init__(
        self, session: Any, source: StageSource, device: Device, make_run_options: Any, *, captures: bool
    ) -> None:
        """Take ownership of a session.

        Args:
            session: InferenceSession.
            source: Stage that it was created from.
            device: Device whose stream the session runs on.
            make_run_options: The class RunOptions.
            captures: Whether the session captures its calls.
        """
        super().__init__(session, source)
        self._device = device
        self._make_run_options = make_run_options
        self._captures = captures
        self._lock = threading.Lock()

    def close(self) -> None:
        """Release the session after its work on the stream is done: that work uses the session's buffers."""
        self._device.synchronize()
        super().close()

    def _make_call(self, device: Device, binding: Any) -> OnnxRuntimeCall:
        """Create a call that is captured as a separate graph."""
        options = self._make_run_options()
        if self._captures:
            # Only a session that captures may return without waiting. Any other releases pinned buffers in a host
            # function on the stream (CudaStream::CleanUpOnRunEnd in its core/providers/cuda/cuda_stream_handle.cc)
            # which holds a reference to their arena. If that is the last reference, because the session was closed
            # meanwhile, the arena calls cudaFreeHost in the host function, which CUDA forbids: error 800, thrown
            # through C, aborts the process (seen on an H100). A run that waits has completed its host function; a
            # session that captures has none, and frees on its own thread after a wait. This follows from the source
            # of ONNX Runtime and was not measured on a GPU.
            options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        options.add_run_config_entry("gpu_graph_id", str(next(self._graph_ids)) if self._captures else _NO_CUDA_GRAPH)
        return OnnxRuntimeCudaCall(self._session, binding, options, self._lock)


class OnnxRuntimeCall:
    """A loaded graph with its addresses."""

    def __init__(self, session: Any, binding: Any) -> None:
        self._session: Any = session
        self._binding: Any = binding

    def enqueue(self) -> None:
        """Run once and wait; ONNX Runtime releases the GIL.

        Raises:
            DeviceError: ONNX Runtime reports a failure.
            RuntimeError: The call is closed.
        """
        self._run(None)

    def close(self) -> None:
        """Release the session; its program destroys it while its queue still exists."""
        self._session = self._binding = None

    def _run(self, options: Any) -> None:
        if self._session is None:
            raise RuntimeError("the call is closed")
        try:
            self._session.run_with_iobinding(self._binding, options)
        except Exception as error:  # its exceptions share no base class
            raise DeviceError(f"ONNX Runtime failed: {error}", call="run") from error


class OnnxRuntimeCudaCall(OnnxRuntimeCall):
    """A loaded graph with its addresses on a GPU."""

    def __init__(self, session: Any, binding: Any, options: Any, lock: threading.Lock) -> None:
        super().__init__(session, binding)
        self._options = options
        self._lock = lock

    def enqueue(self) -> None:
        """Enqueue one run on the stream. One at a time: the lanes share the session's stream and arena.

        Raises:
            DeviceError: ONNX Runtime reports a failure.
            RuntimeError: The call is closed.
        """
        with self._lock:
            self._run(self._options)
