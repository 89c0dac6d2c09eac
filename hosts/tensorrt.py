"""The installed TensorRT: the module, its release and its features; only this module imports it."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..bundle import Machine, version_numbers
from ..errors import BackendError
from .extras import advise_tensorrt
from .tensorrt_log import TensorRtLog

if TYPE_CHECKING:
    from .gpu import Gpu

__all__ = ["TensorRT", "open_tensorrt"]

_OLDEST = (8, 5)


@dataclass(frozen=True)
class TensorRT:
    """An installed TensorRT release, and the GPU that it builds for and runs on.

    Attributes:
        module: The imported package.
        gpu: The GPU.
        log: Its log.
    """

    module: Any
    gpu: Gpu
    log: TensorRtLog

    @property
    def version(self) -> str:
        """As "10.3.0"."""
        return str(self.module.__version__)

    @property
    def machine(self) -> Machine:
        """The release and GPU that plans are bound to."""
        gpu = self.gpu
        return Machine(self.version, gpu.compute_capability, gpu.name, cuda=gpu.cuda, driver=gpu.driver)

    @property
    def strongly_typed(self) -> bool:
        """Whether networks are strongly typed: from 10 on."""
        return self.has("NetworkDefinitionCreationFlag", "STRONGLY_TYPED")

    @property
    def has_levels(self) -> bool:
        """Whether the builder has optimization levels: from 8.6 on."""
        return hasattr(self.module.IBuilderConfig, "builder_optimization_level")

    @property
    def has_monitor(self) -> bool:
        """Whether a build reports progress and can be canceled: from 10 on."""
        return hasattr(self.module, "IProgressMonitor")

    def has(self, enum: str, member: str) -> bool:
        """Whether the release has a member of an enumeration."""
        return hasattr(getattr(self.module, enum, None), member)

    def describe(self) -> str:
        """Return release and GPU in one line."""
        return f"TensorRT {self.version}, {self.gpu.name} (compute capability {self.gpu.compute_capability})"


def open_tensorrt(gpu: Gpu, *, building: bool = False) -> TensorRT:
    """Import TensorRT.

    Args:
        gpu: The GPU; finding it shows that there is a driver, without which some releases crash.
        building: Whether to build plans: requires an ONNX parser, and logs warnings at debug level.

    Raises:
        BackendError: TensorRT is not installed, does not import, is too old or cannot build; says what to install.
    """
    advice = advise_tensorrt(gpu.cuda)
    if importlib.util.find_spec("tensorrt") is None:
        raise BackendError(f"TensorRT is not installed; {advice}")
    try:
        module = importlib.import_module("tensorrt")  # heavy, so imported on first use
    except (ImportError, OSError) as error:  # OSError: one of its libraries does not load
        raise BackendError(f"TensorRT does not import: {error}; {advice}") from error
    if version_numbers(module.__version__) < _OLDEST:
        raise BackendError(f"wanted TensorRT 8.5 or newer, found {module.__version__}; {advice}")
    if building and not hasattr(module, "OnnxParser"):
        raise BackendError(f"the tensorrt that is installed has no ONNX parser (a lean runtime?); {advice}")
    return TensorRT(module, gpu, TensorRtLog(module, building=building))
