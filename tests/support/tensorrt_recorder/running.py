"""The recorder's runtime and execution contexts: check order and lifetimes, and run nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .caching import compile_kernel
from .inspecting import shown_layers
from .natives import RecorderError
from .plans import HEADER_NBYTES, decode_plan
from .validity import judge

__all__ = ["BEHAVIORS"]


class _Logger:
    def _start(self, **_: Any) -> None:
        self._p_min_severity = None

    def log(self: Any, severity: Any, msg: str) -> None:
        """Do nothing; TensorRT prints here, and the recorder keeps the call anyway."""


class _Dims:
    """Dimensions; comparable only with lists and tuples."""

    def _start(self, **sides: Any) -> None:
        shape = sides.get("shape", tuple(sides.values()))
        self._sides = [int(side) for side in shape]

    def __len__(self) -> int:
        return len(self._sides)

    def __getitem__(self, index: int) -> int:
        return self._sides[index]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (list, tuple)):
            raise TypeError("__eq__(): incompatible function arguments. Supported: list, tuple")
        return self._sides == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return str(tuple(self._sides))


class _Runtime:
    def _start(self: Any, logger: Any, lean: str | None = None) -> None:
        if self._recorder.is_rtx:  # needs no driver to be made
            self._warn_of_others(logger)
        elif not self._recorder.driver:
            if self._recorder.major >= 11:
                raise RecorderError("Runtime() of TensorRT 11 without a driver crashes the process: ask cuInit first")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger
        self._lean = lean
        self._p_engine_host_code_allowed = False
        self._p_max_threads = 1

    def load_runtime(self: Any, path: str) -> Any:
        """Load a lean runtime; here a file that contains its version."""
        try:
            version = Path(path).read_text()
        except OSError as error:
            self._recorder.say(self, "ERROR", f"IRuntime::loadRuntime: {path}: {error.strerror}")
            return None
        if not re.fullmatch(r"\d+\.\d+[.\d]*", version):
            self._recorder.say(self, "ERROR", f"IRuntime::loadRuntime: {path}: invalid ELF header")
            return None
        return self._recorder.create("Runtime", logger=self._logger, lean=version)

    @property
    def logger(self: Any) -> Any:
        return self._logger

    @property
    def engine_header_size(self: Any) -> int:
        return HEADER_NBYTES

    def get_engine_validity(self: Any, buffer: Any) -> tuple[Any, int]:
        recorder = self._recorder
        found = judge(recorder, bytes(memoryview(buffer)))
        if found.reason:
            recorder.say(self, found.severity, found.reason)
        diagnostics = sum(int(recorder.enum("EngineInvalidityDiagnostics", name)) for name in found.diagnostics)
        return recorder.enum("EngineValidity", found.validity), diagnostics

    def deserialize_cuda_engine(self: Any, **arguments: Any) -> Any:
        recorder = self._recorder
        data = bytes(memoryview(arguments["serialized_engine"]))
        try:
            document = decode_plan(data)
            self._check_rtx(data) if recorder.is_rtx else self._check(document)
        except ValueError as error:
            recorder.say(self, "ERROR", f"IRuntime::deserializeCudaEngine: Error Code 1: Serialization ({error})")
            return None
        return recorder.create("ICudaEngine", runtime=self, document=document)

    def _check_rtx(self: Any, data: bytes) -> None:
        found = judge(self._recorder, data)
        if found.validity == "INVALID":
            raise ValueError(found.reason)

    def _warn_of_others(self: Any, logger: Any) -> None:
        """Warn through the new logger, as TensorRT for RTX does, while a runtime with another one is alive."""
        self._logger = logger
        if any(other is not logger for other in self._recorder.loggers_of("Runtime")):
            text = "The logger passed into createInferRuntime differs from one already registered."
            self._recorder.say(self, "WARNING", text)

    def _check(self: Any, document: dict[str, Any]) -> None:
        recorder = self._recorder
        compatible = "VERSION_COMPATIBLE" in document["flags"]
        here = self._lean or recorder.version
        # A plan that contains no runtime needs the runtime of its own release.
        carried = compatible and "EXCLUDE_LEAN_RUNTIME" not in document["flags"] and _reads(here, document)
        if document["version"] != here and not carried:
            raise ValueError(
                "Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed.Version tag does not match. "
                f"Note: Current Version: {here}, Serialized Engine Version: {document['version']}"
            )
        carries_code = compatible and "EXCLUDE_LEAN_RUNTIME" not in document["flags"]
        if carries_code and not self._p_engine_host_code_allowed:
            raise ValueError("Attempt to deserialize an engine with host code without setting engine_host_code_allowed")
        if not _fits(recorder.compute_capability, document):
            raise ValueError(
                f"The engine plan file is generated on an incompatible device, expecting compute "
                f"{recorder.compute_capability} got compute {document['compute_capability']}, please rebuild."
            )

    def __del__(self: Any) -> None:
        if self._made:
            self._recorder.ended(self)


class _Profiler:
    def _start(self) -> None:
        """Do nothing: there is no state."""

    def report_layer_time(self: Any, layer_name: str, ms: float) -> None:
        """Do nothing; TensorRT prints here, and the recorder keeps the call anyway."""


class _Context:
    def _start(self: Any, engine: Any, managed: bool, config: Any = None) -> None:
        self._engine = engine
        self._config = config
        self._logger = engine._logger
        self._managed = managed
        self._memory: int | None = None
        self._addresses: dict[str, int] = {}
        self._p_name = ""
        self._p_persistent_cache_limit = 0
        self._p_enqueue_emits_profile = True
        self._profiler: Any = None
        self._enqueued = 0
        self._timed = 0
        engine._contexts += 1
        self._compile("created")

    def __del__(self: Any) -> None:
        if self._made:
            self._engine._contexts -= 1
            self._recorder.ended(self)

    @property
    def engine(self: Any) -> Any:
        return self._engine

    @property
    def active_optimization_profile(self: Any) -> int:
        return 0

    @property
    def all_binding_shapes_specified(self: Any) -> bool:
        return True

    all_shape_inputs_specified = all_binding_shapes_specified

    @property
    def device_memory(self: Any) -> int:
        raise AttributeError("unreadable attribute")

    @device_memory.setter
    def device_memory(self: Any, value: int) -> None:
        self._give(value, 256 if self._recorder.major < 10 else 512)

    def set_device_memory(self: Any, memory: int, size: int) -> None:
        wanted = self._engine._document["scratch_nbytes"]
        if size < wanted:
            self._error("setDeviceMemoryV2", f"size >= {wanted}. {size} bytes were given")
            return
        self._give(memory, 512)

    def update_device_memory_size_for_shapes(self: Any) -> int:
        return int(self._engine._document["scratch_nbytes"])

    def get_runtime_config(self: Any) -> Any:
        return self._config

    def is_stream_capturable(self: Any, stream: int) -> bool:
        return bool(self._recorder.capturable)

    def _compile(self: Any, part: str) -> None:
        """Compile kernels as TensorRT for RTX does: some with the context, the others with its first run."""
        if self._recorder.is_rtx:
            cache = None if self._config is None else self._config._cache
            compile_kernel(self._recorder, cache, self._engine._document, part)

    @property
    def profiler(self: Any) -> Any:
        return self._profiler

    @profiler.setter
    def profiler(self: Any, value: Any) -> None:
        if value is not None and not isinstance(value, self._recorder.module.IProfiler):
            raise TypeError(f"(): incompatible function arguments. Supported: IProfiler, got {value}")
        self._profiler = value

    def report_to_profiler(self: Any) -> bool:
        if self._profiler is None or self._timed == 0:
            self._error("reportToProfiler", "mProfiler != nullptr && a run was enqueued with it")
            return False
        if not self._p_enqueue_emits_profile:
            self._report_layers()
        return True

    def _report_layers(self: Any) -> None:
        """Report the last run's layers to the profiler, with configured times."""
        recorder = self._recorder
        for layer in shown_layers(recorder, self._engine._document):
            try:
                self._profiler.report_layer_time(layer["name"], recorder.layer_ms(layer["name"], self._timed))
            except Exception as error:
                raise RecorderError(f"report_layer_time() raised {error!r}: TensorRT ends the process there") from error

    def set_tensor_address(self: Any, name: str, memory: int) -> bool:
        if name not in self._engine._tensors:
            self._error(
                "setTensorAddress", f"Given invalid tensor name: {name}. Get valid tensor names with getIOTensorName()"
            )
            return False
        alignment = self._recorder.alignment
        if memory % alignment:
            self._error("setTensorAddress", f"the address of {name} must be aligned on {alignment} byte boundary")
            return False
        self._addresses[name] = memory
        return True

    def get_tensor_address(self: Any, name: str) -> int:
        return int(self._addresses.get(name, 0))

    def get_tensor_shape(self: Any, name: str) -> Any:
        _, side = self._engine._find(name, "getTensorShape")
        return self._recorder.create("Dims", shape=side["shape"])

    def set_input_shape(self: Any, name: str, shape: Any) -> bool:
        mode, side = self._engine._find(name, "setInputShape")
        if mode != "INPUT" or list(shape) != side["shape"]:
            self._error("setInputShape", f"Static dimension mismatch while setting input shape for {name}")
            return False
        return True

    def infer_shapes(self: Any) -> list[str]:
        return [
            name
            for name, (mode, _) in self._engine._tensors.items()
            if mode == "INPUT" and not self._addresses.get(name)
        ]

    def set_optimization_profile_async(self: Any, profile_index: int, stream_handle: int) -> bool:
        return profile_index == 0

    def execute_async_v3(self: Any, stream_handle: int) -> bool:
        recorder = self._recorder
        for name, (mode, _) in self._engine._tensors.items():
            if not self._addresses.get(name):
                said = (
                    "Address is not set for input"
                    if mode == "INPUT"
                    else "Neither address or allocator is set for output"
                )
                self._error("enqueueV3", f"{said} tensor {name}. Call setTensorAddress before enqueue/execute.")
                return False
        document = self._engine._document
        if self._managed and self._memory is None and document["scratch_nbytes"]:
            self._error("enqueueV3", "mContext.deviceMemory != nullptr. The context was given no device memory")
            return False
        if "STRIP_PLAN" in document["flags"] and not self._engine._refitted:
            self._error("enqueueV3", "the engine was built without weights and was not refitted")
            return False
        if recorder.is_rtx and not self._enqueued and recorder.is_capturing(stream_handle):
            self._error("enqueueV3", "kernels are compiled. The first run compiles them, which a capture forbids")
            return False
        if not stream_handle:
            recorder.say(
                self, "WARNING",
                "Using default stream in enqueueV3() may lead to performance issues due to additional calls to "
                "cudaStreamSynchronize() by TensorRT to ensure correct synchronization. "
                "Please use non-default stream instead.",
            )  # fmt: skip
        self._enqueued += 1
        if self._enqueued == 1:
            self._compile("run")
        if recorder.on_enqueue is not None:
            recorder.on_enqueue(self, stream_handle)
        if self._profiler is not None:
            self._timed += 1
            if self._p_enqueue_emits_profile:
                self._report_layers()
        return True

    def _give(self: Any, memory: int, alignment: int) -> None:
        if memory % alignment:
            self._error("setDeviceMemory", f"memory must be aligned on {alignment} byte boundary")
            return
        self._memory = memory or None

    def _error(self: Any, call: str, text: str) -> None:
        message = (
            f"IExecutionContext::{call}: Error Code 3: API Usage Error (Parameter check failed, condition: {text})"
        )
        self._recorder.say(self, "ERROR", message)


def _fits(capability: str, document: dict[str, Any]) -> bool:
    if document["hardware_compatibility"] == "AMPERE_PLUS" and int(capability.split(".")[0]) >= 8:
        return True
    return bool(document["compute_capability"] == capability)


def _reads(version: str, document: dict[str, Any]) -> bool:
    here, built = (int(text.split(".")[0]) for text in (version, document["version"]))
    return here in (built, {8: 10, 10: 11}.get(built))


BEHAVIORS: dict[str, type] = {
    "Dims": _Dims,
    "IExecutionContext": _Context,
    "ILogger": _Logger,
    "IProfiler": _Profiler,
    "Logger": _Logger,
    "Profiler": _Profiler,
    "Runtime": _Runtime,
}
