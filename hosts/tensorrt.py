"""TensorRT as it is installed: the module, its release and what that has; nothing else imports it."""

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
    """An installed release, and the GPU that it builds for and runs on.

    Attributes:
        module: The imported package.
        gpu: Which GPU.
        log: What it logs.
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
        """What plans are bound to here."""
        gpu = self.gpu
        return Machine(self.version, gpu.compute_capability, gpu.name, cuda=gpu.cuda, driver=gpu.driver)

    @property
    def strongly_typed(self) -> bool:
        """Whether types come from the graph: from 10 on."""
        return self.has("NetworkDefinitionCreationFlag", "STRONGLY_TYPED")

    @property
    def has_levels(self) -> bool:
        """Whether the builder has optimization levels: from 8.6 on."""
        return hasattr(self.module.IBuilderConfig, "builder_optimization_level")

    @property
    def has_monitor(self) -> bool:
        """Whether a build reports its progress, and can be stopped: from 10 on."""
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
        gpu: Proof that the driver was asked first: some releases crash without one.
        building: Whether plans are to be built: needs an ONNX parser, and logs its many warnings for debugging only.

    Raises:
        BackendError: It is not installed, does not import, is too old or cannot build; names what to install.
    """
    advice = advise_tensorrt(gpu.cuda)
    if importlib.util.find_spec("tensorrt") is None:
        raise BackendError(f"TensorRT is not installed; {advice}")
    try:
        module = importlib.import_module("tensorrt")  # heavy: only where a bundle is built or run
    except (ImportError, OSError) as error:  # OSError: a library of its own that does not load
        raise BackendError(f"TensorRT does not import: {error}; {advice}") from error
    if version_numbers(module.__version__) < _OLDEST:
        raise BackendError(f"wanted TensorRT 8.5 or newer, found {module.__version__}; {advice}")
    if building and not hasattr(module, "OnnxParser"):
        raise BackendError(f"the tensorrt that is installed has no ONNX parser (a lean runtime?); {advice}")
    return TensorRT(module, gpu, TensorRtLog(module, building=building))
