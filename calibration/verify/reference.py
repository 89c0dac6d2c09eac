"""Float32 reference of a bundle: its fp32 graphs, or its FP16 graphs widened into a temporary bundle."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from ...bundle import FP16, FP32, Artifact, Bundle, BundleWriter, Stage, link_or_copy, sha256_of
from ..graph.graph_file import (
    WeightsFile,
    load_graph,
    save_graph,
)
from ..graph.widening import widen

if TYPE_CHECKING:
    from ...bundle import Graph, Precision, TensorSpec
    from ..graph.graph_file import (
        GraphFile,
    )

__all__ = ["reference_bundle", "reference_graphs", "source_precision"]


def source_precision(bundle: Bundle) -> Precision:
    """Return the precision that gives the weights to quantize: fp32 where the bundle has it, otherwise fp16.

    Raises:
        BundleError: The bundle has neither.
    """
    precision = FP32 if FP32 in bundle.manifest.graphs else FP16
    bundle.graphs(precision)
    return precision


def reference_graphs(bundle: Bundle) -> dict[str, GraphFile]:
    """Return the fill and the denoise graph in float32."""
    graphs = bundle.manifest.graphs[source_precision(bundle)]
    return {stage: widen(load_graph(bundle, graphs[stage])) for stage in (Stage.FILL, Stage.DENOISE)}


def reference_bundle(bundle: Bundle, folder: Path) -> Bundle:
    """Return a bundle with fp32 graphs: this one, or one created in ``folder``, with its codec."""
    if FP32 in bundle.manifest.graphs:
        return bundle
    (folder / "graphs").mkdir(parents=True, exist_ok=True)
    weights = WeightsFile(folder / "graphs" / f"weights.{FP32}.bin")
    weights.path.unlink(missing_ok=True)
    stages = bundle.manifest.graphs[FP16]
    files = {}
    for stage, graph in reference_graphs(bundle).items():
        files[stage] = folder / "graphs" / f"{stage}.{FP32}.onnx"
        save_graph(graph, files[stage], weights)
    widened = {stage: _widened(stages[stage], file, weights.path) for stage, file in files.items()}
    manifest = dataclasses.replace(bundle.manifest, graphs={FP32: widened}, calibrations=())
    made = {artifact.file for graph in widened.values() for artifact in (graph.file, graph.weights) if artifact}
    for artifact in manifest.artifacts():
        if artifact.file not in made:
            link_or_copy(bundle.locate(artifact), folder / artifact.file)
    BundleWriter(folder).finish(manifest)
    return Bundle(folder.resolve(), manifest)


def _widened(graph: Graph, file: Path, weights: Path) -> Graph:
    return dataclasses.replace(
        graph,
        file=_artifact(file),
        weights=_artifact(weights),
        inputs=tuple(map(_in_float32, graph.inputs)),
        outputs=tuple(map(_in_float32, graph.outputs)),
    )


def _in_float32(spec: TensorSpec) -> TensorSpec:
    return dataclasses.replace(spec, dtype="float32") if spec.dtype == "float16" else spec


def _artifact(path: Path) -> Artifact:
    return Artifact(f"graphs/{path.name}", sha256_of(path), path.stat().st_size)
