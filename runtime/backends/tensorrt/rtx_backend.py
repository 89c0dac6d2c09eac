"""TensorRT for RTX backend: finishes compiling plans on one GPU, keeps the kernels, and runs them.

NVIDIA's pages on engine compatibility and the runtime cache:
https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/engine-compatibility.html
https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/work-with-runtime-cache.html
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from ....errors import BackendError
from ....hosts.driver import find_gpu
from ....hosts.tensorrt.rtx import open_tensorrt_rtx
from .backend import TensorRtBackend
from .kernel_cache import KernelCache
from .program import TensorRtProgram

if TYPE_CHECKING:
    from ....bundle import BackendName
    from ....hosts.tensorrt.library import TensorRtLibrary
    from ..._core import Device
    from ..stage_source import BuiltStage, StageSource

__all__ = ["TensorRtRtxBackend"]


class TensorRtRtxBackend(TensorRtBackend):
    """TensorRT for RTX on one GPU. All attributes are read-only.

    Attributes:
        name: "tensorrt-rtx".
        device_name: "cuda:0" and so on.
        machine: Machine description that plans must match.
    """

    __slots__ = ("_caches", "_cuda_graph")
    name: BackendName = "tensorrt-rtx"

    def __init__(self, *, device_index: int = 0, cuda_graph: bool = True) -> None:
        """Find the GPU, import TensorRT for RTX and create its runtime.

        Args:
            device_index: Number of the GPU, in the driver's order.
            cuda_graph: Whether runs are to be captured; a plan that does not allow it is refused then.

        Raises:
            BackendError: There is no driver, no such GPU, no TensorRT for RTX, or it does not run on the GPU.
            DeviceError: The GPU cannot be used.
            ValueError: ``device_index`` is negative.
        """
        self._caches: list[KernelCache] = []
        self._cuda_graph = cuda_graph
        super().__init__(device_index=device_index)

    def close(self) -> None:
        """Save new kernels, and destroy contexts, engines and the runtime. Closing twice is allowed."""
        with contextlib.ExitStack() as stack:  # in reverse order, despite failures
            stack.callback(super().close)
            for cache in self._caches:
                stack.callback(cache.save)

    def _drop_runtime(self) -> None:
        while self._caches:
            self._caches.pop().release()
        super()._drop_runtime()

    def _open_library(self, index: int) -> TensorRtLibrary:
        return open_tensorrt_rtx(find_gpu(index, "TensorRT for RTX"))

    def _load(self, built: BuiltStage, source: StageSource, device: Device) -> TensorRtProgram:
        self._check_validity(built)
        loaded = self._deserialize(self._runtime, built)
        cache = KernelCache(self.machine, built.sha256)
        self._caches.append(cache)

        def make_context(engine: Any, queue: Device, has_scratch: bool) -> Any:
            return self._make_context(cache, engine, queue, has_scratch)

        return TensorRtProgram(self._tensorrt, loaded, self._log, source.graph, device, make_context)

    def _check_validity(self, built: BuiltStage) -> None:
        """Compare the plan's header with this machine, before its memory is allocated."""
        header = built.data[: self._runtime.engine_header_size]
        validity, reasons = self._runtime.get_engine_validity(header)
        if validity == self._tensorrt.EngineValidity.INVALID:
            members = self._tensorrt.EngineInvalidityDiagnostics.__members__
            named = [name for name, member in members.items() if int(reasons) & int(member)]
            why = ", ".join(named) or self._log.take_errors()
            raise BackendError(
                f"{built.file}: {self._found.name} does not run this plan on {self.machine.gpu}: {why}; build it again "
                "with vdmrt build --backend tensorrt-rtx"
            )

    def _make_context(self, cache: KernelCache, engine: Any, queue: Device, has_scratch: bool) -> Any:
        """Create an execution context, which compiles the kernels that the cache lacks."""
        config = engine.create_runtime_config()
        strategies = self._tensorrt.ExecutionContextAllocationStrategy
        strategy = strategies.USER_MANAGED if has_scratch else strategies.STATIC
        config.set_execution_context_allocation_strategy(strategy)
        cache.attach(config)
        made = engine.create_execution_context(config)
        if made is None:
            return None
        if self._cuda_graph and not made.is_stream_capturable(queue.stream):
            raise BackendError(
                f"{self._found.name} cannot capture this plan into a CUDA graph: {self._log.take_errors()}; pass "
                "cuda_graph=False (--no-cuda-graph), or build it again"
            )
        cache.save()
        return made
