"""Runs a bundle's TensorRT engines: found, checked and trusted before any byte of them is loaded."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from ...bundle import (
    Bundle,
    Engine,
    Graph,
    check_external_data,
    find_engine,
    read_plan,
)
from ...errors import BackendError
from ...hosts.driver import find_gpu
from ...hosts.tensorrt import open_tensorrt
from .._core import Device, cuda_device
from .tensorrt_program import TensorRtProgram

__all__ = ["TensorRtBackend"]


class TensorRtBackend:
    """TensorRT on one GPU.

    Attributes:
        name: "tensorrt".
        device_index: Which GPU, in the driver's order.
        machine: What plans must have been built for.
    """

    name = "tensorrt"

    def __init__(
        self,
        *,
        engine: Engine | None = None,
        device_index: int = 0,
        trust_plans: bool = False,
        lean_runtime: Path | None = None,
    ) -> None:
        """Look for the GPU, import TensorRT and make its runtime.

        Args:
            engine: Whose plans are loaded; None takes the newest that fits the first graph that is loaded.
            device_index: Which GPU, in the driver's order.
            trust_plans: Whether plans are loaded that this user has no record of building. They are native code.
            lean_runtime: TensorRT's library that runs version-compatible plans of another release, as
                ``libnvinfer_lean.so.10``; of the release that built them. It is native code, and is loaded at need.

        Raises:
            BackendError: There is no driver, no such GPU, or no TensorRT.
            DeviceError: The GPU cannot be used.
            ValueError: ``device_index`` is negative.
        """
        found = open_tensorrt(find_gpu(device_index, "TensorRT"))
        self._tensorrt = found.module
        self._found = found
        self.machine = found.machine
        self.device_index = device_index
        self.device_name = f"cuda:{device_index}"
        self._trust_plans = trust_plans
        self._lean_path = lean_runtime
        self._lean: Any = None
        self._programs: list[TensorRtProgram] = []
        self._engine = engine
        self._log = found.log
        self._device: Device | None = self.open_device()
        try:
            self._device.activate()
            # engine_host_code_allowed stays False: a plan that brings code of its own for the host is refused.
            self._runtime: Any = self._make_runtime()
        except BaseException:
            self._device.close()
            raise

    def describe(self) -> str:
        """Say in one line what runs where."""
        return self._found.describe()

    def open_device(self) -> Device:
        """Return a queue of its own on the GPU.

        Raises:
            DeviceError: The GPU cannot be used.
        """
        return cuda_device(self.device_index)

    def load(self, bundle: Bundle, stage: str, graph: Graph) -> TensorRtProgram:
        """Load the plan of a stage.

        Args:
            bundle: Where the engines lie.
            stage: "fill", "denoise", "vae_encode" or "vae_decode".
            graph: What the plan must have been built from.

        Raises:
            BundleError: The bundle is damaged.
            EngineError: No engine was given and none fits, says both sides and the command that builds one; or the plan
                is missing, truncated, altered or foreign.
            BackendError: TensorRT refuses the plan, or its tensors are not those of ``graph``.
            RuntimeError: The backend is closed.
            ValueError: The engine was built from another graph.
        """
        if self._runtime is None or self._device is None:
            raise RuntimeError("the backend is closed")
        engine = self._engine_of(bundle, stage, graph)
        name = str(engine.path / engine.plan(stage).file.file)
        plan = read_plan(engine, stage, trust_plans=self._trust_plans)
        self._device.activate()
        runtime = self._runtime_for(engine)
        loaded = runtime.deserialize_cuda_engine(plan)
        if loaded is None:
            version = self.machine.tensorrt
            raise BackendError(f"{name}: TensorRT {version} refuses the plan: {self._log.take_errors()}")
        if engine.manifest.stripped:
            self._refit(loaded, bundle, graph, name)
        _set_weight_budget(loaded)
        program = TensorRtProgram(self._tensorrt, loaded, self._log, graph, self._device)
        program.check(name)
        self._programs.append(program)
        return program

    def close(self) -> None:
        """Destroy contexts, engines and the runtime, in this order. Closing twice is allowed."""
        with contextlib.ExitStack() as stack:  # the last first, and all of them where one fails
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
                f"TensorRT {self.machine.tensorrt} does not start on {self.machine.gpu}: {self._log.take_errors()}"
            ) from error

    def _runtime_for(self, engine: Engine) -> Any:
        """Return what loads an engine's plans: those of another release carry no code, and want a runtime of theirs."""
        built = engine.manifest.machine.tensorrt
        if built == self.machine.tensorrt:
            return self._runtime
        if self._lean is None:
            path = self._lean_path
            if path is None or not path.is_file():
                raise BackendError(f"wanted the lean runtime of TensorRT {built} at {path}, which is no file")
            self._lean = self._runtime.load_runtime(str(path))
            if self._lean is None:
                raise BackendError(f"{path}: is no lean runtime that loads here: {self._log.take_errors()}")
        return self._lean

    def _engine_of(self, bundle: Bundle, stage: str, graph: Graph) -> Engine:
        """Return the engine that was given; else find one, once, of the precision that the graph is of."""
        if self._engine is None:
            precisions = (name for name, stages in bundle.manifest.graphs.items() if stages.get(stage) == graph)
            self._engine = find_engine(
                bundle,
                next(precisions, None),
                self.machine,
                gpu=self.device_index,
                lean_runtime=self._lean_path is not None,
                trust_plans=self._trust_plans,
            )
        if self._engine.plan(stage).graph_sha256 != graph.file.sha256:
            raise ValueError(f"{self._engine.path}: wanted the graph of '{stage}' that it was built from, got another")
        return self._engine

    def _refit(self, loaded: Any, bundle: Bundle, graph: Graph, name: str) -> None:
        """Put the bundle's weights into an engine that was built without."""
        if not hasattr(self._tensorrt, "OnnxParserRefitter"):
            raise BackendError(f"{name}: holds no weights, and TensorRT {self.machine.tensorrt} cannot put them in")
        path = bundle.locate(graph.file)
        check_external_data(path, bundle.locate(graph.weights).name if graph.weights else None)
        refitter = self._tensorrt.Refitter(loaded, self._log.logger)
        parser = self._tensorrt.OnnxParserRefitter(refitter, self._log.logger)
        if not parser.refit_from_file(str(path)) or not refitter.refit_cuda_engine():
            raise BackendError(f"{name}: the weights of {path} do not fit it: {self._log.take_errors()}")


def _set_weight_budget(loaded: Any) -> None:
    """Let TensorRT choose how many weights stay on the device, where the engine can stream them."""
    if getattr(loaded, "streamable_weights_size", 0):
        loaded.weight_streaming_budget_v2 = loaded.get_weight_streaming_automatic_budget()
