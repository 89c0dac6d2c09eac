"""Opens a bundle, chooses what runs it, and loads it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ...bundle import Precision, open_bundle
from ..backends.load_options import BACKENDS, LoadOptions
from ..backends.resolution import open_backend, resolve
from .model import Model

if TYPE_CHECKING:
    from ...bundle import Bundle
    from ..backends.resolution import Resolution

__all__ = ["BACKENDS", "load", "load_resolved", "open_model"]

_log = logging.getLogger("vdmrt")


def load(
    path: str | os.PathLike[str],
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: Precision | str | None = None,
    threads: int | None = None,
    cuda_graph: bool = True,
    trust_plans: bool = False,
    lean_runtime: str | os.PathLike[str] | None = None,
    use_engine: bool = True,
    verify: bool = True,
) -> Model:
    """Load a bundle.

    Args:
        path: The bundle's folder.
        backend: "auto" or one of :data:`BACKENDS`. "auto" takes TensorRT where the bundle has an engine that fits, else
            ONNX Runtime. What it chose is logged in one line, and why it is not TensorRT on a machine with a GPU.
        device: "cpu", "cuda", "cuda:1" and so on; "auto" takes what the backend runs on.
        precision: Of the graphs, or its name; None takes one that has an engine for this machine: for TensorRT fp16
            before fp32, for ONNX Runtime fp32 before fp16, and the first where none has. What ``vdmrt calibrate`` made
            is named.
        threads: Threads of the CPU provider, at most one for each CPU that this process may use; None takes as many.
        cuda_graph: Whether denoising steps on a GPU are captured once and replayed.
        trust_plans: Whether TensorRT plans may be loaded that this user's own cache did not record building: a plan is
            native code.
        lean_runtime: TensorRT's library for version-compatible plans of another release, as ``libnvinfer_lean.so.10``.
        use_engine: Whether ONNX Runtime's CPU provider runs the graphs of an engine of the bundle that fits; False runs
            the exported ones. TensorRT has engines only.
        verify: Whether every file's SHA-256 is checked first. Lengths are always checked.

    Returns:
        The model; close it, or use it in a ``with``.

    Raises:
        BundleError: The folder is no bundle, of a newer schema, altered, or does not have that precision.
        EngineError: TensorRT was asked for, and no engine of the bundle fits.
        BackendError: The backend is not installed, does not run on the device, or refuses a graph.
        DeviceError: There is no driver, or no GPU of that number.
        ValueError: The backend, the device or the precision is unknown, they do not go together, or a number is out of
            range.
    """
    options = LoadOptions(
        backend=backend,
        device=device,
        precision=None if precision is None else Precision.parse(precision),
        threads=threads,
        cuda_graph=cuda_graph,
        trust_plans=trust_plans,
        lean_runtime=None if lean_runtime is None else Path(lean_runtime),
        use_engine=use_engine,
    )
    return open_model(path, options, verify=verify)


def open_model(path: str | os.PathLike[str], options: LoadOptions, *, verify: bool = True) -> Model:
    """Load a bundle as the options say; see :func:`load`."""
    bundle = open_bundle(path)
    if options.precision is not None:
        bundle.graphs(options.precision)
    if verify:
        bundle.verify()
    return load_resolved(bundle, resolve(bundle, options), options, verify=verify)


def load_resolved(bundle: Bundle, resolution: Resolution, options: LoadOptions, *, verify: bool = True) -> Model:
    """Load a bundle on what was decided; ``verify`` is of the engine's weights."""
    for warning in resolution.warnings:
        _log.warning("%s", warning)
    backend, sources = open_backend(resolution, options), resolution.sources(bundle, options, verify=verify)
    try:
        model = Model(bundle, backend, resolution.precision, sources=sources, cuda_graph=options.cuda_graph)
        _log.info("backend %s, %s: %s", backend.name, model.precision, model.describe())
        return model
    except BaseException:
        backend.close()
        raise
