"""Memory measurement: bytes that a model holds and moves."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ...bundle import Role, Stage
from ..report.report import Memory

if TYPE_CHECKING:
    from ...bundle import Graph
    from ...runtime.session.model import Model

__all__ = ["measure_memory"]


def measure_memory(model: Model, cache_nbytes: int, device_used_nbytes: int | None) -> Memory:
    """Return the bytes that a lane holds and a step moves; to be called while sessions are open.

    Args:
        model: Loaded model, in use.
        cache_nbytes: Size of the KV cache of its lane.
        device_used_nbytes: Memory in use on the whole GPU.
    """
    graphs = model.bundle.graphs(model.precision)
    denoise = graphs[Stage.DENOISE]
    return Memory(
        cache_nbytes=cache_nbytes,
        device_nbytes=model.allocated_nbytes,
        device_used_nbytes=device_used_nbytes,
        host_peak_nbytes=_peak_resident(),
        denoise_nbytes=denoise.nbytes_moved,
        copied_nbytes=sum(copy.nbytes for copy in denoise.cache_copies),
        scatter_nbytes=2 * _staged_nbytes(graphs[Stage.FILL]),
    )


def _staged_nbytes(fill: Graph) -> int:
    """Return the bytes of K and V that a fill passes to the scatter: 2·L·B·T·S·C elements."""
    return sum(spec.nbytes for spec in fill.with_role(Role.PRESENT_KEY, Role.PRESENT_VALUE))


def _peak_resident() -> int:
    import resource  # missing on Windows, which the runtime does not support

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
