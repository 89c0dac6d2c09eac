"""Measured results: written atomically, replaced by precision, and valid only for their graphs."""

from __future__ import annotations

import dataclasses
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vdmrt.bundle import FP16, FP32, Accuracy, Bundle, open_bundle, read_measured, record_measured
from vdmrt.errors import BundleError


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    return open_bundle(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def accuracy(bundle: Bundle, psnr: float) -> Accuracy:
    return Accuracy(FP16, "fp32", 4, 1, True, {"psnr": psnr}, bundle.manifest.graphs_sha256(FP16), "ONNX Runtime")


def test_a_result_replaces_the_older_one_of_its_precision_and_no_graph_changes(bundle: Bundle) -> None:
    before = (bundle.path / "model.json").read_bytes()

    record_measured(bundle, accuracy=[accuracy(bundle, 30)])
    record_measured(bundle, accuracy=[accuracy(bundle, 40)])

    assert read_measured(bundle).accuracy == (accuracy(bundle, 40),)
    assert (bundle.path / "model.json").read_bytes() == before


def test_a_result_of_other_graphs_is_left_out(bundle: Bundle) -> None:
    record_measured(bundle, accuracy=[dataclasses.replace(accuracy(bundle, 30), graphs_sha256="0")])

    assert read_measured(bundle).accuracy == ()


def test_results_of_two_writers_are_both_kept(bundle: Bundle) -> None:
    results = [
        Accuracy(precision, "fp32", 4, 1, True, {}, bundle.manifest.graphs_sha256(precision))
        for precision in (FP16, FP32)
    ]
    for _ in range(5):
        (bundle.path / "measured.json").unlink(missing_ok=True)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda one: record_measured(bundle, accuracy=[one]), results))

        assert set(one.precision for one in read_measured(bundle).accuracy) == {FP16, FP32}


def test_recording_leaves_no_lock(bundle: Bundle) -> None:
    before = {path.name for path in bundle.path.iterdir()}

    record_measured(bundle, accuracy=[accuracy(bundle, 30)])

    assert {path.name for path in bundle.path.iterdir()} == before | {"measured.json"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not valid JSON or is truncated: .*; delete it and measure again"),
        ('{"accuracy": 1, "speeds": [], "schema": 1}', "wanted a list, found 1; delete it and measure again"),
        ('{"accuracy": [], "speeds": [], "memory": [], "schema": 2}', "reads schema 1, found 2; install a newer vdmrt"),
    ],
)
def test_a_damaged_file_is_named(bundle: Bundle, text: str, sentence: str) -> None:
    (bundle.path / "measured.json").write_text(text)

    with pytest.raises(BundleError, match=f"measured.json.*{sentence}"):
        read_measured(bundle)
