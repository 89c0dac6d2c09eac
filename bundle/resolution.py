"""Which precision is taken where none is named.

The rule, the same for building, loading, running, profiling and verifying:

- A precision that is named is taken; a bundle that does not have it is refused.
- Otherwise the candidates are what was exported, in the order of :class:`~vdmrt.bundle.Precision`: for ONNX Runtime
  fp32, which is exact and faster on a CPU, then fp16; for TensorRT, which is faster at fp16, the other way round. What
  ``vdmrt calibrate`` made changes what comes out, so that it is never taken without its name, unless the bundle has
  nothing else; then the first in that order is taken.
- ``vdmrt build`` builds the first candidate.
- A model runs the first candidate that has an engine for this machine, and the first one of all where none has. What
  ``vdmrt build`` built without a precision is thus what runs without one.
- ``vdmrt verify`` compares a precision with float32, so it takes the one that the bundle got last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .precision import Precision

if TYPE_CHECKING:
    from .folder import Bundle

__all__ = ["choose_measured_precision", "choose_precision", "precision_candidates"]


def precision_candidates(bundle: Bundle, precision: Precision | None, backend: str) -> tuple[Precision, ...]:
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
    exported = sorted((one for one in graphs if one.is_exported), reverse=backend == "tensorrt")
    return tuple(exported) or (min(graphs),)


def choose_precision(bundle: Bundle, precision: Precision | None, backend: str) -> Precision:
    """Return the precision that is built, and that runs where no engine fits; see :func:`precision_candidates`."""
    return precision_candidates(bundle, precision, backend)[0]


def choose_measured_precision(bundle: Bundle, precision: Precision | None) -> Precision:
    """Return the precision that is compared with float32: the one that is wanted, else the last of the bundle.

    Raises:
        BundleError: The bundle does not have the precision that is wanted.
    """
    chosen = precision or list(bundle.manifest.graphs)[-1]
    bundle.graphs(chosen)
    return chosen
