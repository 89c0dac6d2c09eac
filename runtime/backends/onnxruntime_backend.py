"""Runs graphs on ONNX Runtime, on the CPU or on an NVIDIA GPU, with every tensor bound by address."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...bundle import FP8, Bundle, Graph, Precision, check_external_data, format_count
from ...errors import (
    BackendError,
    BundleError,
    DeviceError,
    TensorMismatchError,
)
from ...hosts import install_command, thread_count
from ...hosts.onnxruntime import describe_machine, open_onnxruntime
from .._core import Device, cuda_device, host_device
from .onnxruntime_engine import EngineGraphs, find_engine_graphs

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["OnnxRuntimeBackend", "OnnxRuntimeCudaBackend"]

_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(float8e4m3fn)": "float8_e4m3fn",
}
# ONNX's number of the type: numpy, by whose types the others are bound, has no FP8.
_FLOAT8 = 17
_TASK = "running a bundle with ONNX Runtime"
_NO_CUDA_GRAPH = "-1"
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


class OnnxRuntimeBackend:
    """ONNX Runtime on the CPU.

    Attributes:
        name: "onnxruntime".
        device_name: "host", or "cuda:0" and so on.
        threads: Threads of each program's own pool.
        engine: Whose optimised graphs run where they fit; None runs those that were exported.
    """

    name = "onnxruntime"
    device_name = "host"
    _provider = "CPUExecutionProvider"
    _extra = "cpu"

    def __init__(self, *, threads: int | None = None, spinning: bool = False) -> None:
        """Import ONNX Runtime.

        Args:
            threads: Threads of a product; None takes one for each CPU this process may use.
            spinning: Whether idle threads wait busily. A few percent faster, at the price of full CPUs.

        Raises:
            BackendError: ONNX Runtime is not installed, or is installed twice.
            ValueError: ``threads`` is not positive, or more than these CPUs.
        """
        self.threads = thread_count(threads)
        self._module = open_onnxruntime(_TASK, self._extra)
        self._spinning = spinning
        self.engine: EngineGraphs | None = None

    def use_engine(self, bundle: Bundle, precision: Precision | None, *, verify: bool = True) -> None:
        """Run a bundle's optimised graphs where one of its engines fits; one that does not is warned of.

        Args:
            bundle: Where the engines are.
            precision: Of the graphs; None takes the first candidate that has an engine.
            verify: Whether the SHA-256 of the engine's weights is checked.

        Raises:
            BundleError: The bundle does not have that precision.
        """
        machine = describe_machine(self._module, self._provider)
        self.engine = find_engine_graphs(bundle, precision, machine, verify=verify)

    def describe(self) -> str:
        """Say in one line what runs where."""
        engine = f", engine {self.engine.key}" if self.engine else ""
        threads = format_count(self.threads, "thread")
        return f"ONNX Runtime {self._module.__version__}, CPU provider, {threads}{engine}"

    def open_device(self) -> Device:
        """Return the host."""
        return host_device()

    def load(self, bundle: Bundle, stage: str, graph: Graph) -> OnnxRuntimeProgram:
        """Load a graph of a bundle, from the engine in use where that has it.

        Raises:
            BundleError: A file is missing or its weights lie elsewhere, or the graph is not what model.json says.
            EngineError: A file of the engine is missing or was altered.
            BackendError: ONNX Runtime refuses the graph, or has not the provider.
        """
        path = bundle.locate(graph.file)
        options = self._options(graph)
        optimised = self.engine.read(bundle, stage, graph) if self.engine else None
        if optimised is None:
            check_external_data(path, bundle.locate(graph.weights).name if graph.weights else None)
        else:
            # All that it would do was done when the engine was built.
            options.graph_optimization_level = self._module.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.add_session_config_entry(_WEIGHTS_FOLDER, str(bundle.path))
        try:
            session = self._module.InferenceSession(optimised or str(path), options, providers=self._providers(stage))
        except Exception as error:  # its exceptions share no base class
            made = f" as engine {self.engine.key} has it" if self.engine and optimised else ""
            raise BackendError(f"{path}{made}: ONNX Runtime {self._module.__version__} refuses it: {error}") from error
        if session.get_providers()[0] != self._provider:
            raise BackendError(
                f"wanted ONNX Runtime's {self._provider}, but it fell back to {session.get_providers()[0]}; "
                f"run vdmrt doctor, and pip install 'vdmrt[{self._extra}]' with the CUDA that it asks for"
            )
        program = self._wrap(session, graph, stage)
        program.check(path)
        return program

    def close(self) -> None:
        """Nothing is held."""

    def _wrap(self, session: Any, graph: Graph, stage: str) -> OnnxRuntimeProgram:
        return OnnxRuntimeProgram(session, graph)

    def _providers(self, stage: str) -> list[Any]:
        return [self._provider]

    def _options(self, graph: Graph | None = None) -> onnxruntime.SessionOptions:
        options = self._module.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self._spinning else "0")
        if graph is not None and graph.quantised == FP8:
            # The CPU provider has no FP8 products: the pairs stay and round, which shows the accuracy, not the speed.
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        return options


class OnnxRuntimeCudaBackend(OnnxRuntimeBackend):
    """ONNX Runtime on an NVIDIA GPU.

    All programs run on one stream, because a session of ONNX Runtime is made for one; lanes take turns on it.

    Attributes:
        cuda_graph: Whether ONNX Runtime captures the denoise graph itself, and replays it.
    """

    _provider = "CUDAExecutionProvider"
    _extra = "cuda"

    def __init__(self, *, index: int = 0, cuda_graph: bool = True, tf32: bool = False) -> None:
        """Open the GPU and import ONNX Runtime.

        Args:
            index: Number of the GPU.
            cuda_graph: Whether denoising steps are captured by ONNX Runtime and replayed.
            tf32: Whether float32 products may be rounded to TF32.

        Raises:
            DeviceError: There is no driver, or no GPU of that number.
            BackendError: ONNX Runtime is not installed, installed twice, or lacks the CUDA provider.
        """
        self._device = cuda_device(index)
        self.device_name = self._device.name
        super().__init__(threads=1)
        self.cuda_graph = cuda_graph
        self._tf32 = tf32
        found = self._module.get_available_providers()
        if self._provider not in found:
            raise BackendError(
                f"this ONNX Runtime {self._module.__version__} has {', '.join(found)} but no {self._provider}; "
                f"run {install_command('cuda', remove=['onnxruntime'])}"
            )
        if hasattr(self._module, "preload_dlls"):
            self._module.preload_dlls(directory="")

    def describe(self) -> str:
        """Say in one line what runs where."""
        return f"ONNX Runtime {self._module.__version__}, CUDA provider, {self._device.name}"

    def open_device(self) -> Device:
        """Return the one queue of this backend."""
        return self._device

    def _wrap(self, session: Any, graph: Graph, stage: str) -> OnnxRuntimeProgram:
        options = self._module.RunOptions
        captures = self.cuda_graph and stage == "denoise"
        return OnnxRuntimeCudaProgram(session, graph, self._device, options, captures=captures)

    def _providers(self, stage: str) -> list[Any]:
        options = {
            "device_id": str(self._device.index),
            "user_compute_stream": str(self._device.stream),
            "use_tf32": "1" if self._tf32 else "0",
            "enable_cuda_graph": "1" if self.cuda_graph and stage == "denoise" else "0",
        }
        return [(self._provider, options)]


class OnnxRuntimeProgram:
    """A graph loaded by ONNX Runtime.

    Attributes:
        scratch_nbytes: 0: ONNX Runtime has an arena of its own.
        capturable: False: it captures graphs itself, or not at all.
    """

    scratch_nbytes = 0
    capturable = False
    _memory = "cpu"

    def __init__(self, session: Any, graph: Graph) -> None:
        self._session: Any = session
        self._graph = graph

    def check(self, path: Path) -> None:
        """Hold the loaded graph against the tensor table of model.json.

        Raises:
            BundleError: A name, dtype or shape differs.
        """
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

    def create_context(self, device: Device, scratch: int) -> OnnxRuntimeContext:
        """Make a context; ONNX Runtime's sessions need none of their own."""
        return OnnxRuntimeContext(self, device)

    def bind(self, device: Device, addresses: Mapping[str, int]) -> OnnxRuntimeCall:
        """Set the address of every input and output by name.

        Raises:
            TensorMismatchError: A tensor has no address.
        """
        return OnnxRuntimeCall(self._session, self._binding(device, addresses))

    def close(self) -> None:
        """Let go of the session."""
        self._session = None

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


class OnnxRuntimeCudaProgram(OnnxRuntimeProgram):
    """A graph loaded by ONNX Runtime's CUDA provider."""

    _memory = "cuda"
    _graph_ids = itertools.count(1)

    def __init__(self, session: Any, graph: Graph, device: Device, make_run_options: Any, *, captures: bool) -> None:
        super().__init__(session, graph)
        self._device = device
        self._make_run_options = make_run_options
        self._captures = captures
        self._lock = threading.Lock()

    def bind(self, device: Device, addresses: Mapping[str, int]) -> OnnxRuntimeCall:
        """Set the address of every input and output by name; each call is captured as a graph of its own."""
        options = self._make_run_options()
        if self._captures:
            # Only a session that captures may run on without waiting. Any other gives pinned buffers back in a host
            # function on the stream (CudaStream::CleanUpOnRunEnd in its core/providers/cuda/cuda_stream_handle.cc)
            # which holds a reference to their arena. Were it the last one, because the session was closed meanwhile,
            # the arena would call cudaFreeHost in the host function, and CUDA forbids that: error 800, thrown through
            # C, an abort as seen on an H100. A run that waits has passed its host function; a session that captures
            # has none, and frees on its own thread after a wait. By their source: no GPU has seen it since.
            options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        options.add_run_config_entry("gpu_graph_id", str(next(self._graph_ids)) if self._captures else _NO_CUDA_GRAPH)
        return OnnxRuntimeCudaCall(self._session, self._binding(device, addresses), options, self._lock)

    def close(self) -> None:
        """Let go of the session, once the stream has passed all of its work: it frees buffers from there."""
        self._device.synchronize()
        super().close()


class OnnxRuntimeContext:
    """A program on a queue."""

    def __init__(self, program: OnnxRuntimeProgram, device: Device) -> None:
        self._program = program
        self._device = device
        self._calls: list[OnnxRuntimeCall] = []

    def bind(self, addresses: Mapping[str, int]) -> OnnxRuntimeCall:
        """Set the address of every input and output by name.

        Raises:
            TensorMismatchError: A tensor has no address.
        """
        call = self._program.bind(self._device, addresses)
        self._calls.append(call)
        return call

    def close(self) -> None:
        """Let go of the session in every call: its program destroys it, while the queue that it runs on is there."""
        while self._calls:
            self._calls.pop().close()


class OnnxRuntimeCall:
    """A loaded graph with its addresses."""

    def __init__(self, session: Any, binding: Any) -> None:
        self._session: Any = session
        self._binding: Any = binding

    def enqueue(self) -> None:
        """Run once and wait; ONNX Runtime releases the GIL.

        Raises:
            DeviceError: ONNX Runtime reports a failure.
        """
        self._run(None)

    def close(self) -> None:
        """Let go of the session. Closing twice is allowed."""
        self._session = self._binding = None

    def _run(self, options: Any) -> None:
        if self._session is None:
            raise RuntimeError("the execution context is closed")
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
        """Put one run on the stream. One at a time: the lanes share the session's stream and its arena.

        Raises:
            DeviceError: ONNX Runtime reports a failure.
        """
        with self._lock:
            self._run(self._options)
