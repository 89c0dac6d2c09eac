"""Which backend runs a bundle on which device, and why."""

from __future__ import annotations

import logging

from ...bundle import Bundle, Precision, choose_precision, find_engine, list_engines
from ...errors import EngineError
from ...hosts.driver import find_gpu, probe_driver
from ...hosts.onnxruntime import find_providers
from .backend import Backend
from .load_options import LoadOptions, gpu_index

__all__ = ["make_backend"]

_log = logging.getLogger("vdmrt")
_CUDA_PROVIDER, _CPU_PROVIDER = "ONNX Runtime's CUDA provider", "ONNX Runtime on the CPU"


def make_backend(bundle: Bundle, options: LoadOptions, *, verify: bool = True) -> tuple[Backend, Precision]:
    """Make the backend that was asked for, and choose the precision that it runs.

    "auto" takes TensorRT where an engine of a precision that may be taken fits this GPU and this TensorRT and is
    trusted; else ONNX Runtime, on the GPU where its CUDA provider is installed, and says why.

    Args:
        bundle: What is to run.
        options: What was asked for.
        verify: Whether the SHA-256 of an engine's weights is checked.

    Raises:
        BundleError: The bundle does not have the precision.
        EngineError: TensorRT was asked for, and no engine fits.
        BackendError: The backend is not installed, or does not run on the device.
        DeviceError: There is no driver, or no GPU of that number.
    """
    index = gpu_index(options.device)
    if options.backend == "tensorrt":
        return _tensorrt(bundle, options, index or 0)
    if options.backend == "onnxruntime":
        return _onnxruntime(bundle, options, index, verify)
    return _automatic(bundle, options, index, verify)


def _automatic(bundle: Bundle, options: LoadOptions, index: int | None, verify: bool) -> tuple[Backend, Precision]:
    if options.device == "cpu":
        return _onnxruntime(bundle, options, None, verify)
    driver = probe_driver()
    gpus = driver.gpus
    if not gpus and index is None:
        if driver.broken or not driver.asked:
            _log.warning("running on %s: %s", _CPU_PROVIDER, driver.note)
        return _onnxruntime(bundle, options, None, verify)
    why = f"{bundle.path}: has no TensorRT engine; build one with vdmrt build"
    if list_engines(bundle, "tensorrt"):
        try:
            return _tensorrt(bundle, options, index or 0)
        except EngineError as error:
            why = str(error)
    if index is not None or _has_cuda_provider():
        _log.warning("running on %s, not on TensorRT: %s", _CUDA_PROVIDER, why)
        return _onnxruntime(bundle, options, index or 0, verify)
    _log.warning(
        "running on %s although %s is there: ONNX Runtime has no CUDA provider (pip install 'vdmrt[cuda]'), and "
        "TensorRT cannot run the bundle: %s",
        _CPU_PROVIDER,
        gpus[0].name,
        why,
    )
    return _onnxruntime(bundle, options, None, verify)


def _has_cuda_provider() -> bool:
    try:
        return "CUDAExecutionProvider" in find_providers()
    except ImportError:
        return False


def _onnxruntime(bundle: Bundle, options: LoadOptions, index: int | None, verify: bool) -> tuple[Backend, Precision]:
    from .onnxruntime_backend import OnnxRuntimeBackend, OnnxRuntimeCudaBackend

    precision = choose_precision(bundle, options.precision, "onnxruntime")
    if index is not None:
        return OnnxRuntimeCudaBackend(index=index, cuda_graph=options.cuda_graph), precision
    backend = OnnxRuntimeBackend(threads=options.threads)
    if options.use_engine:
        backend.use_engine(bundle, options.precision, verify=verify)
    return backend, backend.engine.precision if backend.engine else precision


def _tensorrt(bundle: Bundle, options: LoadOptions, index: int) -> tuple[Backend, Precision]:
    from ...hosts.tensorrt import open_tensorrt
    from .tensorrt_backend import TensorRtBackend

    machine = open_tensorrt(find_gpu(index, "TensorRT")).machine
    has_lean_runtime = options.lean_runtime is not None
    engine = find_engine(
        bundle,
        options.precision,
        machine,
        gpu=index,
        lean_runtime=has_lean_runtime,
        trust_plans=options.trust_plans,
    )
    backend = TensorRtBackend(
        engine=engine, device_index=index, trust_plans=options.trust_plans, lean_runtime=options.lean_runtime
    )
    return backend, engine.manifest.precision
