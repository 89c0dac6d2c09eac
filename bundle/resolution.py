"""Which precision is taken where none is named.

The rule, the same for building, loading, running, profiling and verifying:

- A precision that is named is taken; a bundle that does not have it is refused.
- Otherwise the candidates are what was exported: fp16, then fp32 for TensorRT, which is faster at it; fp32, then fp16
  for ONNX Runtime, where it is exact and faster on a CPU. What ``vdmrt calibrate`` made changes what comes out, so
  that it is never taken without its name, unless the bundle has nothing else.
- ``vdmrt build`` builds the first candidate.
- A model runs the first candidate that has an engine for this machine, and the first one of all where none has. What
  ``vdmrt build`` built without a precision is thus what runs without one.
- ``vdmrt verify`` compares a precision with float32, so it takes the one that the bundle got last.
"""

from __future__ import annotations

from collections.abc import Mapping

from .folder import Bundle

__all__ = ["choose_measured_precision", "choose_precision", "precision_candidates"]

_EXPORTED: Mapping[str, tuple[str, ...]] = {"tensorrt": ("fp16", "fp32"), "onnxruntime": ("fp32", "fp16")}


def precision_candidates(bundle: Bundle, precision: str | None, backend: str) -> tuple[str, ...]:
    """Return the precisions that a backend may take of a bundle, the best first; at least one.

    Args:
        bundle: The bundle to choose from.
        precision: The one that is wanted; None for the rule of this module.
        backend: "tensorrt" or "onnxruntime".

    Raises:
        BundleError: The bundle does not have the precision that is wanted.
    """
    graphs = bundle.manifest.graphs
    if precision is not None:
        bundle.graphs(precision)
        return (precision,)
    exported = tuple(name for name in _EXPORTED[backend] if name in graphs)
    return exported or (next(iter(graphs)),)


def choose_precision(bundle: Bundle, precision: str | None, backend: str) -> str:
    """Return the precision that is built, and that runs where no engine fits; see :func:`precision_candidates`."""
    return precision_candidates(bundle, precision, backend)[0]


def choose_measured_precision(bundle: Bundle, precision: str | None) -> str:
    """Return the precision that is compared with float32: the one that is wanted, else the last of the bundle.

    Raises:
        BundleError: The bundle does not have the precision that is wanted.
    """
    chosen = precision or list(bundle.manifest.graphs)[-1]
    bundle.graphs(chosen)
    return chosen
