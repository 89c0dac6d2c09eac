"""The recorder's runtime configuration, and the cache of the kernels that TensorRT for RTX compiles at first use."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from .memory import host_memory

if TYPE_CHECKING:
    from .recorder import Recorder

__all__ = ["BEHAVIORS", "compile_kernel"]

_MAGIC = b"vdmrt recorder runtime cache\n"


class _RuntimeConfig:
    def _start(self: Any, engine: Any) -> None:
        self._logger = engine._logger
        self._strategy = self._recorder.enum("ExecutionContextAllocationStrategy", "STATIC")
        self._p_cuda_graph_strategy = self._recorder.enum("CudaGraphStrategy", "DISABLED")
        self._p_dynamic_shapes_kernel_specialization_strategy = self._recorder.enum(
            "DynamicShapesKernelSpecializationStrategy", "LAZY"
        )
        self._cache: Any = None

    def get_execution_context_allocation_strategy(self: Any) -> Any:
        return self._strategy

    def set_execution_context_allocation_strategy(self: Any, strategy: Any = None) -> None:
        self._strategy = strategy or self._recorder.enum("ExecutionContextAllocationStrategy", "STATIC")

    def create_runtime_cache(self: Any) -> Any:
        return self._recorder.create("IRuntimeCache", config=self)

    def set_runtime_cache(self: Any, cache: Any = None) -> bool:
        self._cache = cache
        return True

    def get_runtime_cache(self: Any) -> Any:
        return self._cache


class _RuntimeCache:
    def _start(self: Any, config: Any) -> None:
        self._logger = config._logger
        self._kernels: set[str] = set()

    def __del__(self: Any) -> None:
        if self._made:
            self._recorder.ended(self)

    def serialize(self: Any) -> Any:
        document = {"environment": _environment(self._recorder), "kernels": sorted(self._kernels)}
        return host_memory(self._recorder, _MAGIC + json.dumps(document).encode() + b"\n")

    def deserialize(self: Any, blob: Any) -> bool:
        reason, kernels = _read(self._recorder, bytes(memoryview(blob)))
        if reason:
            self._recorder.say(self, "WARNING", f"IRuntimeCache::deserialize: {reason}")
            return False
        self._kernels |= kernels
        return True

    def reset(self: Any) -> bool:
        self._kernels.clear()
        return True


def compile_kernel(recorder: Recorder, cache: Any, document: dict[str, Any], part: str) -> None:
    """Compile a part of an engine's kernels, unless the cache (or None) has it."""
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
    kernel = f"{document['name']}:{part}:{digest}"
    if cache is None:
        recorder.compiled.append(kernel)
    elif kernel not in cache._kernels:
        recorder.compiled.append(kernel)
        cache._kernels.add(kernel)


def _environment(recorder: Recorder) -> dict[str, Any]:
    return {
        "version": recorder.version,
        "gpu": recorder.gpu,
        "compute_capability": recorder.compute_capability,
        "driver": list(recorder.driver_version),
    }


def _read(recorder: Recorder, data: bytes) -> tuple[str, set[str]]:
    """Return why a serialized cache is rejected, or "" and its kernels."""
    if not recorder.driver or not recorder.has_context():
        return "no CUDA context is current", set()
    if not data.startswith(_MAGIC) or not data.endswith(b"}\n"):
        return "the runtime cache is malformed", set()
    document = json.loads(data[len(_MAGIC) :])
    made, here = document["environment"], _environment(recorder)
    made_by, driver = made.pop("driver"), here.pop("driver")
    if made != here:
        return f"the runtime cache was made in another environment: {made}, not {here}", set()
    if made_by[0] != driver[0] or made_by > driver:
        return f"the runtime cache was made with driver {made_by}, which {driver} cannot use", set()
    return "", set(document["kernels"])


BEHAVIORS: dict[str, type] = {"IRuntimeCache": _RuntimeCache, "IRuntimeConfig": _RuntimeConfig}
