"""FP16 range guard: tensors near FP16's maximum are reported with their layer."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from vdmrt.bundle import FP16, FP32, BundleWriter, open_bundle
from vdmrt.calibration.choose.guard import Guard
from vdmrt.calibration.graph.graph_file import WeightsFile, load_graph, save_graph
from vdmrt.calibration.verify.request import VerifyRequest
from vdmrt.calibration.verify.verification import verify


@pytest.fixture
def overflowing(tiny_bundle: Path, tmp_path: Path) -> Path:
    """Return the tiny bundle with a bias of 40,000 in one layer, canceled by weights of zero in the next one."""
    path = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    bundle = open_bundle(path)
    graphs = {}
    for precision, stages in bundle.manifest.graphs.items():
        opened = {stage: load_graph(bundle, graph) for stage, graph in stages.items()}
        weights = WeightsFile(path / "graphs" / f"weights.large-{precision}.bin")
        for stage, graph in opened.items():
            bias = np.array(graph.weights["blocks.0.mlp.fc1.bias"])
            bias[3] = 40_000
            graph.weights["blocks.0.mlp.fc1.bias"] = bias
            closing = np.array(graph.weights["blocks.0.mlp.fc2.weight"])
            closing[:, 3] = 0
            graph.weights["blocks.0.mlp.fc2.weight"] = closing
            save_graph(graph, path / "graphs" / f"{stage}.large-{precision}.onnx", weights)
        writer = BundleWriter(path)
        graphs[precision] = {
            stage: dataclasses.replace(
                graph,
                file=writer.record(f"graphs/{stage}.large-{precision}.onnx"),
                weights=writer.record(f"graphs/{weights.path.name}"),
            )
            for stage, graph in stages.items()
        }
    BundleWriter(bundle.path).finish(dataclasses.replace(bundle.manifest, graphs=graphs))
    return path


def test_a_layer_near_the_maximum_of_fp16_is_reported(overflowing: Path) -> None:
    verdict = verify(VerifyRequest(bundle=overflowing, precision=FP16, chunks=1, seeds=1, threads=1))

    assert verdict.missed and verdict.missed[-1].startswith("largest-fp16: ")
    assert {large.layer for large in verdict.large} == {"blocks.0.mlp.fc1"}
    assert "blocks.0.mlp.fc1 (fill" in verdict.describe()


def test_a_model_with_small_values_has_nothing_to_report(tiny_bundle: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))

    verdict = verify(VerifyRequest(bundle=path, precision=FP16, chunks=1, seeds=1, threads=1))

    assert (verdict.missed, verdict.large) == ((), ())
    assert 0 < verdict.accuracy.figures["largest-fp16"] < 30_000


def test_a_precision_without_fp16_tensors_is_not_watched(tiny_bundle: Path, tmp_path: Path) -> None:
    guard = Guard(open_bundle(tiny_bundle), FP32, tmp_path)

    assert (guard.highest, guard.over(), list(tmp_path.iterdir())) == (0.0, [], [])


def test_nan_is_reported_as_the_largest_value(tiny_bundle: Path, tmp_path: Path) -> None:
    guard = Guard(open_bundle(tiny_bundle), FP16, tmp_path)
    fill = open_bundle(tiny_bundle).manifest.graphs[FP32]["fill"]
    feeds = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in fill.inputs}
    feeds["latent"] = np.full_like(feeds["latent"], np.nan)

    guard.follow("fill", feeds)

    assert guard.highest == np.inf
    assert guard.over()[0].stage == "fill"
