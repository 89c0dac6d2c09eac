"""Which backend runs a bundle on which device, and why."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from ..bundle import Bundle
from ..errors import BackendError
from ._cuda_driver import probe_driver
from .backend import Backend

__all__ = ["BACKENDS", "BackendChoice", "make_backend"]

BACKENDS = ("tensorrt", "onnxruntime")
_log = logging.getLogger("vdmrt")


@dataclass(frozen=True)
class BackendChoice:
    """What the caller of :func:`vdmrt.load` asked for; see there."""

    backend: str
    device: str
    precision: str | None = None
    threads: int | None = None
    cuda_graph: bool = True
    trust_plans: bool = False
    lean_runtime: Path | None = None
    use_engine: bool = True
    verify: bool = True


def make_backend(bundle: Bundle, choice: BackendChoice) -> Backend:
    """Make the backend that was asked for; for "auto" the fastest one that is there.

    Raises:
        BackendError: The name or the device is unknown, they do not go together, or the backend is not installed.
        DeviceError: There is no driver, or no GPU of that number.
    """
    if choice.backend not in ("auto", *BACKENDS):
        raise BackendError(f"backend must be auto or one of {', '.join(BACKENDS)}, got {choice.backend!r}")
    index = _gpu_index(choice.device)
    if choice.backend == "tensorrt":
        if choice.device == "cpu":
            raise BackendError("TensorRT runs on a GPU only; choose device='cuda', or backend='onnxruntime'")
        return _tensorrt(bundle, choice, index or 0)
    if choice.backend == "onnxruntime":
        return _onnxruntime(bundle, choice, index)
    return _automatic(bundle, choice, index)


def _gpu_index(device: str) -> int | None:
    """Return the GPU's number, or None for "cpu" and "auto"."""
    if device in ("auto", "cpu"):
        return None
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if match is None:
        raise BackendError(f"device must be auto, cpu, cuda or cuda:N, got {device!r}")
    return int(match[1] or 0)


def _automatic(bundle: Bundle, choice: BackendChoice, index: int | None) -> Backend:
    """TensorRT where a GPU and an engine for it are there, else ONNX Runtime, on the GPU if its provider loads."""
    if choice.device == "cpu":
        return _onnxruntime(bundle, choice, None)
    gpus = probe_driver().gpus
    if not gpus and index is None:
        return _onnxruntime(bundle, choice, None)
    from ..bundle import list_engines

    if list_engines(bundle, "tensorrt"):
        return _tensorrt(bundle, choice, index or 0)
    if index is not None or _has_cuda_provider():
        return _onnxruntime(bundle, choice, index or 0)
    _log.warning(
        "%s is there, but neither an engine in the bundle nor ONNX Runtime's CUDA provider: running on the CPU; "
        "run vdmrt build, or pip install 'vdmrt[cuda]'",
        gpus[0].name,
    )
    return _onnxruntime(bundle, choice, None)


def _has_cuda_provider() -> bool:
    try:
        import onnxruntime  # heavy: only where a bundle is run
    except ImportError:
        return False
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def _onnxruntime(bundle: Bundle, choice: BackendChoice, index: int | None) -> Backend:
    from .onnxruntime_backend import OnnxRuntimeBackend, OnnxRuntimeCudaBackend

    if index is None:
        backend = OnnxRuntimeBackend(threads=choice.threads)
        if choice.use_engine:
            backend.use_engine(bundle, choice.precision, verify=choice.verify)
        return backend
    return OnnxRuntimeCudaBackend(index=index, cuda_graph=choice.cuda_graph)


def _tensorrt(bundle: Bundle, choice: BackendChoice, index: int) -> Backend:
    from .tensorrt_backend import TensorRtBackend

    return TensorRtBackend(device_index=index, trust_plans=choice.trust_plans, lean_runtime=choice.lean_runtime)
