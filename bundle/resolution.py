"""Choice of the precision where none is named.

The rule, the same for building, loading, running, profiling and verifying:

- A named precision is used; a bundle without it raises an error.
- Otherwise the candidates are the exported precisions, in the order of :class:`~vdmrt.bundle.Precision`: for ONNX
  Runtime fp32, which is exact and faster on a CPU, then fp16; for TensorRT, which is faster at fp16, the other way
  round. Precisions of ``vdmrt calibrate`` change the output, so they are only used when named, unless the bundle has
  nothing else; then the first in that order is used.
- ``vdmrt build`` builds the first candidate.
- A model runs the first candidate that has an engine for this machine, or the first candidate where none has. So the
  engine that ``vdmrt build`` builds without a precision is the one that runs without a precision.
- ``vdmrt verify`` compares a precision with float32, so it uses the one that was added to the bundle last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .engines.backends import BACKENDS
from .precision import Precision

if TYPE_CHECKING:
    from .engines.backends import BackendName
    from .folder import Bundle

__all__ = ["choose_measured_precision", "choose_precision", "precision_candidates"]


def precision_candidates(bundle: Bundle, precision: Precision | None, backend: BackendName) -> tuple[Precision, ...]:
    """Return the precisions of a bundle that a backend may use, best first; at least one.

    Args:
        bundle: The bundle to choose from.
        precision: The requested precision; None for the rule of this module.
        backend: The backend that runs them.

    Raises:
        BundleError: The bundle does not have the requested precision.
    """
    graphs = bundle.manifest.graphs
    if precision is not None:
        bundle.graphs(precision)
        return (precision,)
    exported = sorted((one for one in graphs if one.is_exported), reverse=BACKENDS[backend].is_native)
    return tuple(exported) or (min(graphs),)


def choose_precision(bundle: Bundle, precision: Precision | None, backend: BackendName) -> Precision:
    """Return the precision to build, or to run where no engine fits; see :func:`precision_candidates`."""
    return precision_candidates(bundle, precision, backend)[0]


def choose_measured_precision(bundle: Bundle, precision: Precision | None) -> Precision:
    """Return the precision to compare with float32: the requested one, or else the last of the bundle.

    Raises:
        BundleError: The bundle does not have the requested precision.
    """
    chosen = precision or list(bundle.manifest.graphs)[-1]
    bundle.graphs(chosen)
    return chosen
