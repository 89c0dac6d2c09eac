"""Loading of a bundle as a model: open, resolve the backend, load the graphs."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ...bundle import BACKENDS, Precision, open_bundle
from ..backends.load_options import LoadOptions
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
        backend: "auto" or one of :data:`BACKENDS`. "auto" selects TensorRT, or else TensorRT for RTX, if the bundle has
            a compatible engine of it, else ONNX Runtime. The choice is logged in one line, on a machine with a GPU with
            the reason against TensorRT.
        device: "cpu", "cuda", "cuda:1" and so on; "auto" selects the backend's device.
        precision: Precision of the graphs, or its name; None selects one that has an engine for this machine: for
            TensorRT fp16 before fp32, for ONNX Runtime fp32 before fp16; without engines the first of these. A
            precision that ``vdmrt calibrate`` added must be named.
        threads: Threads of the CPU provider, at most one for each CPU that this process may use; None uses that
            maximum.
        cuda_graph: Whether to capture a denoising step on a GPU once and replay it.
        trust_plans: Whether to load plans that the user's cache does not list as built here: a plan is native
            code.
        lean_runtime: TensorRT's library for version-compatible plans of another release, as ``libnvinfer_lean.so.10``.
        use_engine: Whether ONNX Runtime runs the graphs of a compatible engine of the bundle; False runs
            the exported ones. TensorRT always runs engines.
        verify: Whether to check the SHA-256 of every file first. Lengths are always checked.

    Returns:
        The model; close it, or use it in a ``with``.

    Raises:
        BundleError: The folder is not a bundle, has a newer schema, was altered, or lacks that precision.
        EngineError: TensorRT, or TensorRT for RTX, was requested, and no engine of the bundle is compatible.
        BackendError: The backend is not installed, does not run on the device, or refuses a graph.
        DeviceError: There is no driver, or no GPU of that number.
        ValueError: The backend, device or precision is unknown, they do not fit together, or a number is out of range.
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
    """Load a bundle with the given options; see :func:`load`."""
    bundle = open_bundle(path)
    if options.precision is not None:
        bundle.graphs(options.precision)
    if verify:
        bundle.verify()
    return load_resolved(bundle, resolve(bundle, options), options, verify=verify)


def load_resolved(bundle: Bundle, resolution: Resolution, options: LoadOptions, *, verify: bool = True) -> Model:
    """Load a bundle on the resolved backend; ``verify`` checks the engine's weights."""
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
