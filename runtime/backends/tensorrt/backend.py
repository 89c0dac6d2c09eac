"""TensorRT backend: runs plans on one GPU. The caller has checked each plan and trusts it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....errors import BackendError
from ....hosts.driver import find_gpu
from ....hosts.tensorrt.release import open_tensorrt
from ..._core import cuda_device
from .program import TensorRtProgram

if TYPE_CHECKING:
    from ....bundle import BackendName, Machine
    from ....hosts.tensorrt.library import TensorRtLibrary
    from ..._core import Device
    from ..stage_source import BuiltStage, StageSource

__all__ = ["TensorRtBackend"]


class TensorRtBackend:
    """TensorRT on one GPU. All attributes are read-only.

    Attributes:
        name: "tensorrt".
        device_name: "cuda:0" and so on.
        machine: Machine description that plans must match.
    """

    __slots__ = ("_device", "_device_index", "_found", "_lean", "_lean_path", "_log", "_programs", "_runtime")
    name: BackendName = "tensorrt"

    def __init__(
        self,
        *,
        device_index: int = 0,
        lean_runtime: Path | None = None,
    ) -> None:
        """Find the GPU, import TensorRT and create its runtime.

        Args:
            device_index: Number of the GPU, in the driver's order.
            lean_runtime: TensorRT's library that runs version-compatible plans of another release, as
                ``libnvinfer_lean.so.10``; of the release that built them. It is native code, loaded on first use.

        Raises:
            BackendError: There is no driver, no such GPU, or no TensorRT.
            DeviceError: The GPU cannot be used.
            ValueError: ``device_index`` is negative.
        """
        self._found = self._open_library(device_index)
        self._device_index = device_index
        self._lean_path = lean_runtime
        self._lean: Any = None
        self._programs: list[TensorRtProgram] = []
        self._log = self._found.log
        self._device: Device | None = self.open_device()
        try:
            self._device.activate()
            # engine_host_code_allowed stays False: a plan that contains host code is refused.
            self._runtime: Any = self._make_runtime()
        except BaseException:
            self._device.close()
            raise

    @property
    def device_name(self) -> str:
        """Name of the device."""
        return f"cuda:{self._device_index}"

    @property
    def machine(self) -> Machine:
        """Machine description that plans must match."""
        return self._found.machine

    @property
    def _tensorrt(self) -> Any:
        return self._found.module

    def describe(self) -> str:
        """Return release and GPU in one line."""
        return self._found.describe()

    def open_device(self) -> Device:
        """Return a new queue on the GPU.

        Raises:
            DeviceError: The GPU cannot be used.
        """
        return cuda_device(self._device_index)

    def _open_library(self, index: int) -> TensorRtLibrary:
        return open_tensorrt(find_gpu(index, "TensorRT"))

    def load(self, source: StageSource) -> TensorRtProgram:
        """Load the plan of a stage.

        Raises:
            BackendError: There is no plan, TensorRT refuses it, or its tensors differ from the graph's.
            RuntimeError: The backend is closed.
        """
        if self._runtime is None or self._device is None:
            raise RuntimeError("the backend is closed")
        built = source.built
        if built is None:
            raise BackendError(f"{source.file}: {self._found.title} runs plans, and this is a graph; build an engine")
        self._device.activate()
        program = self._load(built, source, self._device)
        program.check(str(built.file))
        self._programs.append(program)
        return program

    def _load(self, built: BuiltStage, source: StageSource, device: Device) -> TensorRtProgram:
        loaded = self._deserialize(self._runtime_for(built), built)
        if built.stripped:
            self._refit(loaded, source.file, built.file)
        _set_weight_budget(loaded)
        return TensorRtProgram(self._tensorrt, loaded, self._log, source.graph, device)

    def _deserialize(self, runtime: Any, built: BuiltStage) -> Any:
        loaded = runtime.deserialize_cuda_engine(built.data)
        if loaded is None:
            raise BackendError(f"{built.file}: {self._found.name} refuses the plan: {self._log.take_errors()}")
        return loaded

    def close(self) -> None:
        """Destroy contexts, engines and the runtime, in this order. Closing twice is allowed."""
        with contextlib.ExitStack() as stack:  # in reverse order, despite failures
            stack.callback(self._drop_runtime)
            while self._programs:
                stack.callback(self._programs.pop().close)

    def _drop_runtime(self) -> None:
        device, self._device = self._device, None
        if device is None:
            return
        try:
            device.activate()
        finally:
            self._lean = None  # before the runtime that loaded it
            self._runtime = None
            device.close()

    def _make_runtime(self) -> Any:
        try:
            return self._tensorrt.Runtime(self._log.logger)
        except TypeError as error:  # "factory function returned nullptr"
            raise BackendError(
                f"{self._found.name} does not start on {self.machine.gpu}: {self._log.take_errors()}"
            ) from error

    def _runtime_for(self, built: BuiltStage) -> Any:
        """Return the runtime that loads a plan; a plan of another release needs the lean runtime of that release."""
        if built.release == self.machine.tensorrt:
            return self._runtime
        if self._lean is None:
            path = self._lean_path
            if path is None or not path.is_file():
                raise BackendError(f"wanted the lean runtime of TensorRT {built.release} at {path}, which is no file")
            self._lean = self._runtime.load_runtime(str(path))
            if self._lean is None:
                raise BackendError(f"{path}: is no lean runtime that loads here: {self._log.take_errors()}")
        return self._lean

    def _refit(self, loaded: Any, graph: Path, plan: Path) -> None:
        """Refit an engine that was built without weights with those of the exported graph."""
        if not hasattr(self._tensorrt, "OnnxParserRefitter"):
            raise BackendError(f"{plan}: holds no weights, and TensorRT {self.machine.tensorrt} cannot put them in")
        refitter = self._tensorrt.Refitter(loaded, self._log.logger)
        parser = self._tensorrt.OnnxParserRefitter(refitter, self._log.logger)
        if not parser.refit_from_file(str(graph)) or not refitter.refit_cuda_engine():
            raise BackendError(f"{plan}: the weights of {graph} do not fit it: {self._log.take_errors()}")


def _set_weight_budget(loaded: Any) -> None:
    """Let TensorRT choose how many weights stay on the device, if the engine can stream them."""
    if getattr(loaded, "streamable_weights_size", 0):
        loaded.weight_streaming_budget_v2 = loaded.get_weight_streaming_automatic_budget()
