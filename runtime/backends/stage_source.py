"""What a backend loads: a stage whose files were found, compared with their hashes and, as native code, trusted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...bundle import Graph, Precision, Stage

__all__ = ["BuiltStage", "StageSource"]


@dataclass(frozen=True, kw_only=True)
class BuiltStage:
    """What an engine has for a stage: a plan of TensorRT, or an optimized graph of ONNX Runtime.

    Attributes:
        key: The engine's name.
        file: Where it was read.
        data: Its content, as it was hashed.
        release: Of the library that built it.
        stripped: Whether a plan was built without its weights.
        weights_folder: What an optimized graph's weights files are relative to.
    """

    key: str
    file: Path
    data: bytes
    release: str
    stripped: bool
    weights_folder: Path


@dataclass(frozen=True, kw_only=True)
class StageSource:
    """A stage to load. A backend need not know where it comes from.

    Attributes:
        stage: What the graph computes.
        precision: Of the graph.
        graph: Its row of model.json, with every tensor.
        file: The exported graph, ONNX, with its weights in a file beside it; there for certain only where it is to run.
        built: What an engine has for it; None where the exported graph is to run.
    """

    stage: Stage
    precision: Precision
    graph: Graph
    file: Path
    built: BuiltStage | None = None
