"""TensorRT for RTX backend: finishes compiling plans on one GPU, keeps the kernels, and runs them.

NVIDIA's pages on engine compatibility and the runtime cache:
https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/engine-compatibility.html
https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/work-with-runtime-cache.html
"""

from __future__ import annotations

import contextlib
import logging
from functools import partial
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

_log = logging.getLogger("vdmrt")


class TensorRtRtxBackend(TensorRtBackend):
    """TensorRT for RTX on one GPU. All attributes are read-only.

    Attributes:
        name: "tensorrt-rtx".
        device_name: "cuda:0" and so on.
        machine: Machine description that plans must match.
    """

    __slots__ = ("_caches",)
    name: BackendName = "tensorrt-rtx"

    def __init__(self, *, device_index: int = 0) -> None:
        """Find the GPU, import TensorRT for RTX and create its runtime.

        Args:
            device_index: Number of the GPU, in the driver's order.

        Raises:
            BackendError: There is no driver, no such GPU, no TensorRT for RTX, or it does not run on the GPU.
            DeviceError: The GPU cannot be used.
            ValueError: ``device_index`` is negative.
        """
        self._caches: list[KernelCache] = []
        super().__init__(device_index=device_index)

    def close(self) -> None:
        """Save new kernels, and destroy contexts, engines and the runtime. Closing twice is allowed."""
        with contextlib.ExitStack() as stack:  # in reverse order, despite failures
            stack.callback(super().close)
            if self._device is not None and self._caches:
                self._device.activate()
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
        cache = KernelCache(self.machine, built.sha256, self._log)
        self._caches.append(cache)
        create = partial(_create_context, self._tensorrt, cache)
        return TensorRtProgram(self._tensorrt, loaded, self._log, source.graph, device, create)

    def _check_validity(self, built: BuiltStage) -> None:
        """Compare the plan's header with this machine, before the plan is loaded."""
        header = built.data[: self._runtime.engine_header_size]
        validity, reasons = self._runtime.get_engine_validity(header)
        members = self._tensorrt.EngineInvalidityDiagnostics.__members__
        named = ", ".join(name for name, member in members.items() if int(reasons) & int(member))
        if validity == self._tensorrt.EngineValidity.INVALID:
            raise BackendError(
                f"{built.file}: {self._found.name} does not run this plan on {self.machine.gpu}: "
                f"{named or self._log.take_errors()}; build it again with vdmrt build --backend tensorrt-rtx"
            )
        if validity == self._tensorrt.EngineValidity.SUBOPTIMAL:
            gpu = self.machine
            _log.warning(
                "%s: may be slower on %s than a plan for it; build one with vdmrt build --backend tensorrt-rtx "
                "--target sm%s", built.file, gpu.gpu, gpu.compute_capability.replace(".", "")
            )  # fmt: skip


def _create_context(tensorrt: Any, cache: KernelCache, engine: Any, queue: Device, has_scratch: bool) -> Any:
    """Return an IExecutionContext, which compiles the kernels that the cache lacks; None if it is refused.

    Plans are built with REQUIRE_USER_ALLOCATION, which guarantees that their runs can be captured.
    """
    config = engine.create_runtime_config()
    if config is None:
        return None
    strategies = tensorrt.ExecutionContextAllocationStrategy
    config.set_execution_context_allocation_strategy(strategies.USER_MANAGED if has_scratch else strategies.STATIC)
    cache.attach(config)
    made = engine.create_execution_context(config)
    if made is not None:
        cache.save()
    return made
