"""The installed TensorRT; only this module imports it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...bundle import Machine, version_numbers
from ...errors import BackendError
from ..extras import advise_tensorrt
from .library import TensorRtLibrary, import_library
from .log import TensorRtLog

if TYPE_CHECKING:
    from ..gpu import Gpu

__all__ = ["TensorRT", "open_tensorrt"]

_OLDEST = (8, 5)


@dataclass(frozen=True)
class TensorRT(TensorRtLibrary):
    """An installed TensorRT release, and the GPU that it builds for and runs on."""

    backend = "tensorrt"
    title = "TensorRT"

    gpu: Gpu

    @property
    def machine(self) -> Machine:
        """The release and GPU that plans are bound to."""
        gpu = self.gpu
        return Machine(self.version, gpu.compute_capability, gpu.name, cuda=gpu.cuda, driver=gpu.driver)


def open_tensorrt(gpu: Gpu, *, building: bool = False) -> TensorRT:
    """Import TensorRT.

    Args:
        gpu: The GPU; finding it shows that there is a driver, without which some releases crash.
        building: Whether to build plans: requires an ONNX parser, and logs warnings at debug level.

    Raises:
        BackendError: TensorRT is not installed, does not import, is too old or cannot build; says what to install.
    """
    advice = advise_tensorrt(gpu.cuda)
    module = import_library("tensorrt", TensorRT.title, advice)
    if version_numbers(module.__version__) < _OLDEST:
        raise BackendError(f"wanted TensorRT 8.5 or newer, found {module.__version__}; {advice}")
    if building and not hasattr(module, "OnnxParser"):
        raise BackendError(f"the tensorrt that is installed has no ONNX parser (a lean runtime?); {advice}")
    return TensorRT(module, gpu, TensorRtLog(module, building=building))
