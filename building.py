"""Builds an engine and checks it: the one place that composes the builders with what runs their engines."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from .bundle import BACKENDS
from .calibration.progress import hide_progress
from .engines import BuildOptions, ModelOptions, build_engines, build_models, runs_here
from .errors import EngineError

if TYPE_CHECKING:
    from .bundle import BackendName, Bundle, Engine, Precision, ProviderName
    from .calibration.progress import Show

__all__ = ["build_engine"]

_log = logging.getLogger("vdmrt")


def build_engine(
    bundle: Bundle,
    *,
    backend: BackendName = "tensorrt",
    provider: ProviderName = "cpu",
    precision: Precision | None = None,
    options: BuildOptions | None = None,
    gpu: int = 0,
    force: bool = False,
    check: Literal["auto", "full", "off"] = "auto",
    progress: Callable[[str], None] = _log.info,
    show: Show = hide_progress,
) -> Engine:
    """Build an engine of a bundle, as ``vdmrt build`` does, and check it through the backend that will run it.

    An engine that is there, and was checked as asked for, is returned as it is; see
    :func:`~vdmrt.engines.build_engines` and :func:`~vdmrt.calibration.verify.engine_check.check_engine`.

    Args:
        bundle: Gets ``engines/<key>``.
        backend: What is to run it.
        provider: Of ONNX Runtime; "cuda" is built without a GPU, and checked where there is one.
        precision: Of the graphs; None takes what the backend takes first.
        options: How TensorRT builds; None takes every default.
        gpu: For which GPU, in the driver's order; for TensorRT, and TensorRT for RTX where no target is given.
        force: Whether to build what is there already, or does not seem to fit.
        check: "auto" skips what takes minutes; "full" checks again where that was skipped. An engine for other GPUs
            than this machine's is not checked.
        progress: Called with a line of text now and then, from any thread.
        show: Shows the progress of the check.

    Raises:
        BackendError: The builder is not installed, does not run here, or refuses a graph.
        BundleError: The bundle does not have that precision, or a file of it was altered.
        ValueError: ``backend`` is unknown.
        EngineError: It does not fit, cannot be written, or failed its check; then it is kept and never run.
    """
    on_cuda = provider == "cuda"
    if on_cuda and backend != "onnxruntime":
        raise ValueError(f"the provider cuda is for onnxruntime, got the backend {backend}; leave it out")
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    lacks = "no GPU with ONNX Runtime's CUDA provider" if on_cuda else "no GPU that the engine is built for"
    if check == "full" and not runs_here(backend, options or BuildOptions(), gpu, provider):
        raise EngineError(f"--check full runs the engine, and this machine has {lacks}; leave it out")
    if backend == "onnxruntime":
        models = ModelOptions(provider=provider)
        engine = build_models(bundle, precision=precision, options=models, force=force, progress=progress)
    else:
        engine = build_engines(
            bundle, backend=backend, precision=precision, options=options, gpu=gpu, force=force, progress=progress
        )
    was_checked = engine.manifest.fully_checked if check == "full" else bool(engine.manifest.checks)
    if check == "off" or (was_checked and not force):
        return engine
    targets = engine.manifest.targets  # for a graph with FP8 fewer than were asked for
    if not runs_here(backend, BuildOptions(targets=targets, portable=not targets), gpu, provider):
        progress(f"not checked: this machine has {lacks}")
        return engine
    from .calibration.verify.engine_check import check_engine  # what runs engines; not needed to build them

    device = f"cuda:{gpu}" if on_cuda or BACKENDS[backend].is_native else "cpu"
    return check_engine(bundle, engine, full=check == "full", device=device, show=show)
