"""Times of graph nodes, from a profile of ONNX Runtime."""

from __future__ import annotations

import json

from .layer_times import LayerTime, median_run

__all__ = ["read_node_times"]

_INSERTED = "InsertedPrecisionFreeCast_"


def read_node_times(profile: str) -> list[LayerTime]:
    """Return each node's time, in order of execution.

    Args:
        profile: The JSON that ONNX Runtime wrote.
    """
    runs: dict[str, list[float]] = {}
    operators: dict[str, str] = {}
    for event in json.loads(profile):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            operators.setdefault(name, event["args"].get("op_name", ""))
            runs.setdefault(name, []).append(event["dur"] / 1e3)
    return [LayerTime(name, operators[name], ms, (name, _made_for(name))) for name, ms in median_run(runs).items()]


def _made_for(name: str) -> str:
    """Return the name of the node that an inserted node belongs to, from the inserted node's name."""
    return name.removeprefix(_INSERTED).partition("/")[0]
