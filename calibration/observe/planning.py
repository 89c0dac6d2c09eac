"""Memory of the statistics of a calibration, before anything is observed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..graph.linears import find_linears, sites_of
from .statistics import ChannelStatistics

if TYPE_CHECKING:
    from ..graph.graph_file import GraphFile

__all__ = ["planned_nbytes"]


def planned_nbytes(graphs: Mapping[str, GraphFile]) -> int:
    """Return the size in bytes of the statistics of some graphs, without those of the cache."""
    linears = {stage: find_linears(graph) for stage, graph in graphs.items()}
    sites = sites_of(linears.values())
    channels = {(stage, sites[one.name]): one.inputs for stage, found in linears.items() for one in found}
    return sum(ChannelStatistics.empty(count).nbytes for count in channels.values())
