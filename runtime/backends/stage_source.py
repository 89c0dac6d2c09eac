"""Stage sources: the checked files of a stage that a backend loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...bundle import Graph, Precision, Stage

__all__ = ["BuiltStage", "StageSource"]


@dataclass(frozen=True, kw_only=True)
class BuiltStage:
    """An engine's file for a stage: a plan of TensorRT, or a graph of ONNX Runtime.

    Attributes:
        key: Name of the engine.
        file: Path of the file.
        data: Content of the file, whose hash was checked.
        sha256: That hash.
        release: Release of the library that built it.
        stripped: Whether a plan was built without its weights.
        is_optimized: Whether an optimizer ran when the engine was built, so that loading must not repeat it.
        weights_folder: Folder that paths of an optimized graph's weights are relative to.
    """

    key: str
    file: Path
    data: bytes
    sha256: str
    release: str
    stripped: bool
    is_optimized: bool
    weights_folder: Path


@dataclass(frozen=True, kw_only=True)
class StageSource:
    """A stage to load, independent of its origin.

    Attributes:
        stage: Stage that the graph computes.
        precision: Precision of the graph.
        graph: Its entry in model.json, with every tensor.
        file: The exported ONNX graph, with its weights in a file beside it; may be missing if an engine's file runs.
        built: The engine's file; None to run the exported graph.
    """

    stage: Stage
    precision: Precision
    graph: Graph
    file: Path
    built: BuiltStage | None = None
