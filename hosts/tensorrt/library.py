"""An installed library of the TensorRT family: the module, its release and its features."""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ...bundle import BACKENDS
from ...errors import BackendError

if TYPE_CHECKING:
    from ...bundle import BackendName, Machine
    from ..gpu import Gpu
    from .log import TensorRtLog

__all__ = ["TensorRtLibrary", "import_library"]

# By the name of the package that is imported.
_TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}


@dataclass(frozen=True)
class TensorRtLibrary(ABC):
    """A release of TensorRT or of TensorRT for RTX. Both have nearly the same Python API.

    Attributes:
        backend: The backend that it runs.
        title: Its name.
        module: The imported package.
        gpu: The GPU that it builds for or runs on; None builds without one.
        log: Its log.
    """

    backend: ClassVar[BackendName]
    title: ClassVar[str]

    module: Any
    gpu: Gpu | None
    log: TensorRtLog

    @property
    def version(self) -> str:
        """As "10.3.0"."""
        return str(self.module.__version__)

    @property
    def name(self) -> str:
        """Title and version."""
        return f"{self.title} {self.version}"

    @property
    def parser_version(self) -> str:
        """Its release for :func:`~vdmrt.engines.lower_graphs`."""
        return self.version

    @property
    @abstractmethod
    def machine(self) -> Machine:
        """The release and GPU that plans are compared with."""

    @property
    def strongly_typed(self) -> bool:
        """Whether networks are strongly typed: TensorRT from 10 on, and TensorRT for RTX."""
        return self.has("NetworkDefinitionCreationFlag", "STRONGLY_TYPED")

    @property
    def has_levels(self) -> bool:
        """Whether the builder has optimization levels: TensorRT from 8.6 on."""
        return hasattr(self.module.IBuilderConfig, "builder_optimization_level")

    @property
    def has_monitor(self) -> bool:
        """Whether a build reports progress and can be canceled: TensorRT from 10 on, and TensorRT for RTX."""
        return hasattr(self.module, "IProgressMonitor")

    @property
    def has_targets(self) -> bool:
        """Whether plans are built ahead of time for stated GPUs, with no GPU: TensorRT for RTX."""
        return BACKENDS[self.backend].builds_anywhere

    def has(self, enum: str, member: str) -> bool:
        """Whether the release has a member of an enumeration."""
        return hasattr(getattr(self.module, enum, None), member)

    def describe(self) -> str:
        """Return release and GPU in one line."""
        on = f", {self.gpu.name} (compute capability {self.gpu.compute_capability})" if self.gpu else ""
        return f"{self.name}{on}"


def import_library(name: str, title: str, advice: str) -> Any:
    """Import a package, which is heavy: on first use.

    Raises:
        BackendError: It is not installed, or does not import; the message names the other library of the family if
            that is installed instead, and ends with the advice.
    """
    if not _is_installed(name):
        other = next((each for each in _TITLES if each != name and _is_installed(each)), None)
        instead = f", only {_TITLES[other]}, which is another library" if other else ""
        raise BackendError(f"{title} is not installed{instead}; {advice}")
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: one of its libraries does not load
        raise BackendError(f"{title} does not import: {error}; {advice}") from error


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
