"""Resolution of backend, device, precision and engine for a bundle, with warnings that state the reasons."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...bundle import (
    BACKENDS,
    choose_precision,
    find_engine,
    list_engines,
    precision_candidates,
)
from ...errors import EngineError
from ...hosts.driver import find_gpu, probe_driver
from ...hosts.onnxruntime import has_provider
from .load_options import gpu_index
from .stage_sources import StageSources

if TYPE_CHECKING:
    from ...bundle import (
        BackendName,
        Bundle,
        Engine,
        Machine,
        Precision,
    )
    from .backend import Backend
    from .load_options import LoadOptions

__all__ = ["Resolution", "open_backend", "resolve"]

_log = logging.getLogger("vdmrt")
_CUDA_PROVIDER, _CPU_PROVIDER = "ONNX Runtime's CUDA provider", "ONNX Runtime on the CPU"


@dataclass(frozen=True)
class Resolution:
    """The backend, device, precision and engine that run a bundle.

    Attributes:
        backend: The backend.
        gpu: The GPU's number; None for the host.
        precision: Precision of the graphs.
        engine: Engine of the plans or optimized graphs; None runs the exported graphs.
        warnings: Sentences about requested or faster choices that are unavailable, with the reason.
    """

    backend: BackendName
    gpu: int | None
    precision: Precision
    engine: Engine | None = None
    warnings: tuple[str, ...] = ()

    def sources(self, bundle: Bundle, options: LoadOptions, *, verify: bool = True) -> StageSources:
        """Return the stages that the backend loads."""
        return StageSources(bundle, self.precision, self.engine, trust_plans=options.trust_plans, verify=verify)


def resolve(bundle: Bundle, options: LoadOptions) -> Resolution:
    """Choose backend, device, precision and engine for a bundle.

    "auto" selects TensorRT, or else TensorRT for RTX, if a trusted engine of an allowed precision fits this GPU and the
    installed release; else ONNX Runtime, on the GPU if its CUDA provider is installed, with a warning that states the
    reason.

    Args:
        bundle: Bundle to run.
        options: Requested options.

    Raises:
        BundleError: The bundle lacks the precision.
        EngineError: A backend of plans was requested, and no engine fits.
        BackendError: The backend is not installed, or there is no such GPU.
    """
    index = gpu_index(options.device)
    for backend in _LIBRARIES:
        if options.backend == backend:
            return _on_plans(bundle, options, backend, index or 0)
    if options.backend == "onnxruntime" or options.device == "cpu":
        return _onnxruntime(bundle, options, index)
    return _automatic(bundle, options, index)


def open_backend(resolution: Resolution, options: LoadOptions) -> Backend:
    """Open the resolved backend.

    Raises:
        BackendError: The backend is not installed, or does not run on the device.
        DeviceError: There is no driver, or no GPU of that number.
    """
    if resolution.backend == "tensorrt-rtx":
        from .tensorrt.rtx_backend import TensorRtRtxBackend

        return TensorRtRtxBackend(device_index=resolution.gpu or 0)
    if resolution.backend == "tensorrt":
        from .tensorrt.backend import TensorRtBackend

        return TensorRtBackend(device_index=resolution.gpu or 0, lean_runtime=options.lean_runtime)
    from .onnxruntime_backend import OnnxRuntimeBackend, OnnxRuntimeCudaBackend

    if resolution.gpu is not None:
        return OnnxRuntimeCudaBackend(index=resolution.gpu, cuda_graph=options.cuda_graph)
    return OnnxRuntimeBackend(threads=options.threads)


def _automatic(bundle: Bundle, options: LoadOptions, index: int | None) -> Resolution:
    driver = probe_driver()
    gpus = driver.gpus
    if not gpus and index is None:
        unknown = driver.broken or not driver.asked
        return _onnxruntime(bundle, options, None, *([f"running on {_CPU_PROVIDER}: {driver.note}"] if unknown else []))
    found, why = _find_plans(bundle, options, index or 0)
    if found is not None:
        return found
    if index is not None or has_provider("cuda"):
        return _onnxruntime(bundle, options, index or 0, f"running on {_CUDA_PROVIDER}, not on TensorRT: {why}")
    warning = (
        f"running on {_CPU_PROVIDER} although {gpus[0].name} is there: ONNX Runtime has no CUDA provider "
        f"(pip install 'vdmrt[cuda]'), and TensorRT cannot run the bundle: {why}"
    )
    return _onnxruntime(bundle, options, None, warning)


def _find_plans(bundle: Bundle, options: LoadOptions, index: int) -> tuple[Resolution | None, str]:
    """Return the first backend of plans that runs one of the bundle's engines, or why there is none."""
    reasons: list[str] = []
    for backend in _LIBRARIES:
        if not list_engines(bundle, backend):
            continue
        try:
            found = _on_plans(bundle, options, backend, index)
        except EngineError as error:  # no engine fits; or the library is not installed, or not for this GPU
            reasons.append(str(error))
        else:
            if reasons:
                _log.info("running on %s: %s", BACKENDS[backend].title, "; ".join(reasons))
            return found, ""
    return None, "; ".join(reasons) or f"{bundle.path}: has no TensorRT engine; build one with vdmrt build"


def _onnxruntime(bundle: Bundle, options: LoadOptions, gpu: int | None, *warnings: str) -> Resolution:
    precision = choose_precision(bundle, options.precision, "onnxruntime")
    if not options.use_engine:
        return Resolution("onnxruntime", gpu, precision, warnings=warnings)
    from .onnxruntime_backend import describe_provider

    machine = describe_provider("cpu" if gpu is None else "cuda")
    try:
        engine = _find_onnxruntime_engine(bundle, options.precision, machine)
    except EngineError as error:
        warnings += (f"running the graphs as they were exported, not an engine: {error}",)
        return Resolution("onnxruntime", gpu, precision, warnings=warnings)
    built = engine.manifest.precision if engine is not None else precision
    return Resolution("onnxruntime", gpu, built, engine, warnings)


def _find_onnxruntime_engine(bundle: Bundle, precision: Precision | None, machine: Machine) -> Engine | None:
    """Return the newest engine that fits; None if the bundle has none of these precisions."""
    candidates = precision_candidates(bundle, precision, "onnxruntime")
    if not any(engine.manifest.precision in candidates for engine in list_engines(bundle, "onnxruntime")):
        return None
    return find_engine(bundle, precision, machine)


def _on_plans(bundle: Bundle, options: LoadOptions, backend: BackendName, index: int) -> Resolution:
    engine = find_engine(
        bundle,
        options.precision,
        _LIBRARIES[backend](index),
        gpu=index,
        lean_runtime=options.lean_runtime is not None,
        trust_plans=options.trust_plans,
    )
    return Resolution(backend, index, engine.manifest.precision, engine)


def _tensorrt(index: int) -> Machine:
    from ...hosts.tensorrt.release import open_tensorrt

    return open_tensorrt(find_gpu(index, "TensorRT")).machine


def _tensorrt_rtx(index: int) -> Machine:
    from ...hosts.tensorrt.rtx import open_tensorrt_rtx

    return open_tensorrt_rtx(find_gpu(index, "TensorRT for RTX")).machine


# The machine that plans must fit, by backend, in the order in which "auto" tries them: TensorRT times its kernels
# on the GPU itself, and is the only one on data-center GPUs.
_LIBRARIES: Mapping[BackendName, Callable[[int], Machine]] = {"tensorrt": _tensorrt, "tensorrt-rtx": _tensorrt_rtx}
