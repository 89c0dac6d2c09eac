"""ONNX Runtime backends for the CPU and for an NVIDIA GPU, with every tensor bound by address."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...bundle import FP8, PROVIDERS, Stage, format_count
from ...errors import BackendError
from ...hosts import install_command, thread_count
from ...hosts.onnxruntime import describe_machine, open_onnxruntime
from .._core import cuda_device, host_device
from .onnxruntime_program import OnnxRuntimeCpuProgram, OnnxRuntimeCudaProgram

if TYPE_CHECKING:
    import onnxruntime

    from ...bundle import Graph, Machine, ProviderName
    from .._core import Device
    from .onnxruntime_program import OnnxRuntimeProgram
    from .stage_source import StageSource

__all__ = ["OnnxRuntimeBackend", "OnnxRuntimeCudaBackend", "describe_provider"]

_TASK = "running a bundle with ONNX Runtime"
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


def describe_provider(provider: ProviderName) -> Machine:
    """Return the machine description that an engine of ONNX Runtime must match to run here on a provider.

    Raises:
        BackendError: ONNX Runtime is not installed, or is installed twice.
    """
    return describe_machine(open_onnxruntime(_TASK, provider), provider)


class OnnxRuntimeBackend:
    """ONNX Runtime on the CPU. All attributes are read-only.

    Attributes:
        name: "onnxruntime".
        device_name: "host", or "cuda:0" and so on.
        threads: Threads of each program's own pool.
    """

    __slots__ = ("_module", "_spinning", "_threads")
    name = "onnxruntime"
    _provider = PROVIDERS["cpu"]
    _extra = "cpu"

    def __init__(self, *, threads: int | None = None, spinning: bool = False) -> None:
        """Import ONNX Runtime.

        Args:
            threads: Threads of an operator; None uses one for each CPU that this process may use.
            spinning: Whether idle threads busy-wait: a few percent faster, with fully loaded CPUs.

        Raises:
            BackendError: ONNX Runtime is not installed, or is installed twice.
            ValueError: ``threads`` is not positive, or more than these CPUs.
        """
        self._threads = thread_count(threads)
        self._module = open_onnxruntime(_TASK, self._extra)
        self._spinning = spinning

    @property
    def device_name(self) -> str:
        """Name of the device."""
        return "host"

    @property
    def threads(self) -> int:
        """Threads of each program's own pool."""
        return self._threads

    def describe(self) -> str:
        """Return library, provider and threads in one line."""
        return f"ONNX Runtime {self._module.__version__}, CPU provider, {format_count(self.threads, 'thread')}"

    def open_device(self) -> Device:
        """Return the host."""
        return host_device()

    def load(self, source: StageSource) -> OnnxRuntimeProgram:
        """Load a stage: an engine's graph, else the exported one.

        Raises:
            BundleError: The graph differs from its description in model.json.
            BackendError: ONNX Runtime refuses the graph, or does not have the provider.
        """
        return self._wrap(self._open_session(source), source)

    def close(self) -> None:
        """Do nothing: the backend holds no resources."""

    def session_options(self, graph: Graph | None = None) -> onnxruntime.SessionOptions:
        """Return the options that a graph is loaded with."""
        options = self._module.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self._spinning else "0")
        if graph is not None and graph.quantized == FP8:
            # The CPU provider has no FP8 products: the kept Q/DQ pairs show FP8's accuracy, not its speed.
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        return options

    def _open_session(self, source: StageSource, profile: Path | None = None) -> Any:
        """Create a session; with ``profile``, one that writes a profile to that path."""
        options, built = self.session_options(source.graph), source.built
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile)
        if built is not None:
            if built.is_optimized:
                options.graph_optimization_level = self._module.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.add_session_config_entry(_WEIGHTS_FOLDER, str(built.weights_folder))
        content = built.data if built is not None else str(source.file)
        try:
            session = self._module.InferenceSession(content, options, providers=self._providers(source.stage))
        except Exception as error:  # its exceptions share no base class
            made = f" as engine {built.key} has it" if built is not None else ""
            version = self._module.__version__
            raise BackendError(f"{source.file}{made}: ONNX Runtime {version} refuses it: {error}") from error
        if session.get_providers()[0] != self._provider:
            raise BackendError(
                f"wanted ONNX Runtime's {self._provider}, but it fell back to {session.get_providers()[0]}; "
                f"run vdmrt doctor, and pip install 'vdmrt[{self._extra}]' with the CUDA that it asks for"
            )
        return session

    def _wrap(self, session: Any, source: StageSource) -> OnnxRuntimeProgram:
        return OnnxRuntimeCpuProgram(session, source, partial(self._open_session, source))

    def _providers(self, stage: Stage) -> list[Any]:
        return [self._provider]


class OnnxRuntimeCudaBackend(OnnxRuntimeBackend):
    """ONNX Runtime on an NVIDIA GPU.

    All programs run on one stream, because a session of ONNX Runtime is bound to one; the lanes share it.
    """

    __slots__ = ("_cuda_graph", "_device", "_tf32")
    _provider = PROVIDERS["cuda"]
    _extra = "cuda"

    def __init__(self, *, index: int = 0, cuda_graph: bool = True, tf32: bool = False) -> None:
        """Open the GPU and import ONNX Runtime.

        Args:
            index: Number of the GPU.
            cuda_graph: Whether ONNX Runtime captures and replays denoising steps.
            tf32: Whether float32 products may be rounded to TF32.

        Raises:
            DeviceError: There is no driver, or no GPU of that number.
            BackendError: ONNX Runtime is not installed, installed twice, or lacks the CUDA provider.
        """
        self._device = cuda_device(index)
        super().__init__(threads=1)
        self._cuda_graph = cuda_graph
        self._tf32 = tf32
        found = self._module.get_available_providers()
        if self._provider not in found:
            raise BackendError(
                f"this ONNX Runtime {self._module.__version__} has {', '.join(found)} but no {self._provider}; "
                f"run {install_command('cuda', remove=['onnxruntime'])}"
            )
        if hasattr(self._module, "preload_dlls"):
            self._module.preload_dlls(directory="")

    @property
    def device_name(self) -> str:
        """Name of the device."""
        return self._device.name

    def describe(self) -> str:
        """Return library, provider and GPU in one line."""
        return f"ONNX Runtime {self._module.__version__}, CUDA provider, {self._device.name}"

    def open_device(self) -> Device:
        """Return the backend's only queue."""
        return self._device

    def _wrap(self, session: Any, source: StageSource) -> OnnxRuntimeProgram:
        options, captures = self._module.RunOptions, self._captures(source.stage)
        return OnnxRuntimeCudaProgram(session, source, self._device, options, captures=captures)

    def _captures(self, stage: Stage) -> bool:
        return self._cuda_graph and stage == Stage.DENOISE

    def _providers(self, stage: Stage) -> list[Any]:
        options = {
            "device_id": str(self._device.index),
            "user_compute_stream": str(self._device.stream),
            "use_tf32": "1" if self._tf32 else "0",
            "enable_cuda_graph": "1" if self._captures(stage) else "0",
        }
        return [(self._provider, options)]
