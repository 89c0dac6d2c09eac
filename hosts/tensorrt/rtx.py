"""The installed TensorRT for RTX; only this module imports it.

It builds plans ahead of time without a GPU and without a driver, and finishes compiling them on the device
(https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/cpu-engines.html).
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...bundle import RTX_TARGETS, Machine, version_numbers
from ...errors import BackendError
from ..extras import install_command, installed_versions
from .library import TensorRtLibrary, import_library
from .log import TensorRtLog

if TYPE_CHECKING:
    from ..gpu import Gpu

__all__ = ["TensorRtRtx", "open_tensorrt_rtx"]

_EXTRA = "tensorrt-rtx"
_PARSER = "rtx"
_PACKAGES = (_EXTRA, *(f"{_EXTRA}-cu{cuda}{part}" for cuda in (12, 13) for part in ("", "-bindings", "-libs")))


@dataclass(frozen=True)
class TensorRtRtx(TensorRtLibrary):
    """An installed release of TensorRT for RTX, and the GPU that it runs on; without one it only builds."""

    backend = "tensorrt-rtx"
    title = "TensorRT for RTX"

    @property
    def parser_version(self) -> str:
        """Name of its parser for :func:`~vdmrt.engines.lower_graphs`."""
        return _PARSER

    @property
    def machine(self) -> Machine:
        """The release, and the GPU if there is one."""
        if self.gpu is None:
            return Machine(tensorrt_rtx=self.version)
        gpu = self.gpu
        return Machine(
            compute_capability=gpu.compute_capability,
            gpu=gpu.name,
            cuda=gpu.cuda,
            driver=gpu.driver,
            tensorrt_rtx=self.version,
        )


def open_tensorrt_rtx(gpu: Gpu | None = None) -> TensorRtRtx:
    """Import TensorRT for RTX.

    Args:
        gpu: The GPU that it runs on; None to build.

    Raises:
        BackendError: It is not installed, does not import, its packages are of different versions, or it does not run
            on the GPU.
    """
    if gpu is not None and gpu.compute_capability not in RTX_TARGETS:
        raise BackendError(
            f"TensorRT for RTX runs on GPUs of compute capability {', '.join(RTX_TARGETS)}, found {gpu.name} with "
            f"{gpu.compute_capability}; take --backend tensorrt on this GPU"
        )
    _check_packages()
    module = import_library("tensorrt_rtx", TensorRtRtx.title, install_command(_EXTRA))
    return TensorRtRtx(module, gpu, _log_of(module))


@functools.cache
def _log_of(module: Any) -> TensorRtLog:
    """Return the process's only log: a second logger beside the first makes the library warn."""
    return TensorRtLog(module)


def _check_packages() -> None:
    """Check that the bindings and the libraries, which are separate packages, are of one version."""
    found = installed_versions(_PACKAGES)
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name} {version}" for name, version in found.items())
        newest = max(found.values(), key=version_numbers)
        name = next(name for name in found if name != _EXTRA or len(found) == 1)
        raise BackendError(
            f"the packages of TensorRT for RTX are of different versions: {listed}; install them together: "
            f"pip install --force-reinstall {re.sub('-(bindings|libs)$', '', name)}=={newest}"
        )
