"""Instrumented graphs: observers reduce the inputs of linears to a few numbers for each channel inside the graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...hosts import thread_count
from ...hosts.onnxruntime import open_onnxruntime
from ..graph.graph_file import WeightsFile, save_graph
from .statistics import ChannelStatistics

if TYPE_CHECKING:
    from ..graph.graph_file import GraphFile
    from ..graph.linears import Linear

__all__ = ["Instrument", "add_observers", "open_session"]

Array = npt.NDArray[Any]
_ROWS = 64
_KINDS = ("amax", "mean", "rows")


class Instrument:
    """Graph with observers, run on the inputs of the real graph."""

    def __init__(self, graph: GraphFile, linears: Iterable[Linear], sites: Mapping[str, str], folder: Path) -> None:
        """Write the graph with observers into ``folder`` and load it.

        Args:
            graph: The graph in float32.
            linears: Linears to observe the inputs of.
            sites: The site of each linear.
            folder: Folder for the files; the caller keeps it for the lifetime of this object.
        """
        sources = {sites[linear.name]: linear.source for linear in linears}
        observed = add_observers(graph, sources)
        stem = f"observed-{id(self)}"
        save_graph(observed, folder / f"{stem}.onnx", WeightsFile(folder / f"{stem}.bin"))
        self._session = open_session(folder / f"{stem}.onnx")
        self._inputs = [value.name for value in observed.model.graph.input]
        self._sites = list(sources)

    def observe(self, tensors: Mapping[str, Array], into: dict[str, ChannelStatistics]) -> None:
        """Run on the inputs among ``tensors`` and add the observation to the statistics, by site."""
        feeds = {name: _as_float32(tensors[name]) for name in self._inputs}
        names = [f"{kind}:{site}" for site in self._sites for kind in _KINDS]
        found = dict(zip(names, self._session.run(names, feeds), strict=True))
        for site in self._sites:
            amax, mean, rows = (found[f"{kind}:{site}"] for kind in _KINDS)
            into.setdefault(site, ChannelStatistics.empty(len(amax))).add(rows, amax=amax, mean=mean)


def add_observers(graph: GraphFile, sources: Mapping[str, str]) -> GraphFile:
    """Return the graph with three outputs for each site in place of its outputs.

    Args:
        graph: The graph in float32.
        sources: Tensor [rows, channels] by site.
    """
    import onnx
    from onnx.helper import make_node, make_tensor_value_info

    rows = _row_counts(graph)
    model = type(graph.model)()
    model.CopyFrom(graph.model)
    observed = replace(graph, model=model, weights={**graph.weights, "observed.axis": np.array([0], np.int64)})
    del model.graph.output[:]
    ends = np.array([np.iinfo(np.int64).max])
    observed.weights |= {"observed.first": np.array([0], np.int64), "observed.end": ends}
    for site, source in sources.items():
        # An odd stride avoids sampling the same column of every picture.
        stride = f"observed.stride:{site}"
        observed.weights[stride] = np.array([max(1, rows[source] // _ROWS) | 1], np.int64)
        model.graph.node.extend(
            [
                make_node("Abs", [source], [f"abs:{site}"]),
                make_node("ReduceMax", [f"abs:{site}", "observed.axis"], [f"amax:{site}"], keepdims=0),
                make_node("ReduceMean", [source, "observed.axis"], [f"mean:{site}"], keepdims=0),
                make_node(
                    "Slice", [source, "observed.first", "observed.end", "observed.axis", stride], [f"rows:{site}"]
                ),
            ]
        )
        for kind in _KINDS:
            model.graph.output.append(make_tensor_value_info(f"{kind}:{site}", onnx.TensorProto.FLOAT, None))
    return observed


def open_session(path: Path, *, threads: int | None = None, fused: bool = True) -> Any:
    """Load a graph into ONNX Runtime's CPU provider.

    Args:
        path: The graph's file.
        threads: Threads within an operator; None uses one for each CPU available to this process.
        fused: Whether Q/DQ pairs are fused; must be False for FP8, for which the CPU provider lacks kernels.

    Raises:
        ValueError: ``threads`` is not positive, or larger than the number of these CPUs.
    """
    onnxruntime = open_onnxruntime("calibrating", "calibrate")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = thread_count(threads)
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not fused:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _row_counts(graph: GraphFile) -> dict[str, int]:
    """Return the first dimension of every tensor that shape inference finds."""
    from ..graph.widening import infer_values

    return {
        name: value.type.tensor_type.shape.dim[0].dim_value
        for name, value in infer_values(graph).items()
        if value.type.tensor_type.shape.dim
    }


def _as_float32(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype == np.float16 else array
