"""Bytes that a model holds and moves."""

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
    """Say what a lane holds and what a step moves; call it while sessions are still open.

    Args:
        model: Loaded, in use.
        cache_nbytes: The KV cache of its lane.
        device_used_nbytes: In use on the whole GPU.
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
    """Return the bytes of K and V that a fill hands to the scatter: 2·L·B·T·S·C elements."""
    return sum(spec.nbytes for spec in fill.with_role(Role.PRESENT_KEY, Role.PRESENT_VALUE))


def _peak_resident() -> int:
    import resource  # not on Windows, where nothing else of the runtime runs either

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
