"""TensorRT found and opened: the driver first, for without one some releases end the process."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..bundle import Machine
from ..errors import BackendError
from .driver import CudaDriver, probe_driver

__all__ = ["TensorRt", "open_tensorrt"]

_OLDEST = (8, 5)
# By the newest CUDA that a driver runs.
_PACKAGES = {13: "tensorrt-cu13", 12: "tensorrt-cu12", 11: "tensorrt-cu11"}


@dataclass(frozen=True)
class TensorRt:
    """TensorRT and the GPU that it runs on.

    Attributes:
        module: ``tensorrt``.
        machine: What plans are bound to.
    """

    module: Any
    machine: Machine

    def describe(self) -> str:
        """Say in one line what is there."""
        here = self.machine
        return f"TensorRT {here.tensorrt}, {here.gpu} (compute capability {here.compute_capability})"


def open_tensorrt(index: int = 0, probe: Callable[[], CudaDriver] = probe_driver) -> TensorRt:
    """Look for a GPU, then import TensorRT.

    Args:
        index: Which GPU, in the driver's order.
        probe: Asks the driver.

    Raises:
        BackendError: There is no driver, no such GPU, or no TensorRT that imports and is new enough.
        ValueError: ``index`` is negative.
    """
    if index < 0:
        raise ValueError(f"a GPU's index must be at least 0, got {index}")
    driver = probe()
    if not driver.gpus:
        raise BackendError(f"TensorRT needs an NVIDIA GPU: {driver.note}; take --backend onnxruntime on this machine")
    if index >= len(driver.gpus):
        found = ", ".join(f"{i}: {gpu.name}" for i, gpu in enumerate(driver.gpus))
        raise BackendError(f"wanted GPU {index}, the driver sees {len(driver.gpus)} ({found})")
    module = _import_tensorrt(driver)
    gpu = driver.gpus[index]
    return TensorRt(module, Machine(module.__version__, gpu.compute_capability, gpu.name, cuda=driver.version or ""))


def _import_tensorrt(driver: CudaDriver) -> Any:
    if importlib.util.find_spec("tensorrt") is None:
        raise BackendError(f"TensorRT is not installed; {_advise(driver)}")
    try:
        module = importlib.import_module("tensorrt")  # heavy: only where a bundle is run
    except (ImportError, OSError) as error:  # OSError: a library of its own that does not load
        raise BackendError(f"TensorRT does not import: {error}; {_advise(driver)}") from error
    version = tuple(int(part) for part in module.__version__.split(".")[:2])
    if version < _OLDEST:
        raise BackendError(f"wanted TensorRT 8.5 or newer, found {module.__version__}; {_advise(driver)}")
    return module


def _advise(driver: CudaDriver) -> str:
    version = driver.version or "0"
    major = int(version.partition(".")[0])
    package = _PACKAGES.get(min(major, max(_PACKAGES)))
    if package is None:
        return f"this driver runs CUDA {version}, which no release supports any more: install a newer driver first"
    return f"this driver runs CUDA {version}: pip install {package}"
