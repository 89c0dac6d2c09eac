"""The choice of a precision where none is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from vdmrt.bundle import (
    FP16,
    FP32,
    BackendName,
    Bundle,
    Precision,
    choose_measured_precision,
    choose_precision,
    open_bundle,
    precision_candidates,
)
from vdmrt.errors import BundleError


def with_precisions(path: Path, *names: str) -> Bundle:
    """Return a bundle with graphs of these precisions."""
    bundle = open_bundle(path)
    graphs = dict.fromkeys(map(Precision.parse, names), bundle.manifest.graphs[FP16])
    return Bundle(bundle.path, dataclasses.replace(bundle.manifest, graphs=graphs))


@pytest.mark.parametrize(
    ("backend", "candidates"),
    [("tensorrt", (FP16, FP32)), ("tensorrt-rtx", (FP16, FP32)), ("onnxruntime", (FP32, FP16))],
)
def test_each_backend_has_its_order_of_exported_precisions(
    tiny_bundle: Path, backend: BackendName, candidates: tuple[Precision, ...]
) -> None:
    bundle = with_precisions(tiny_bundle, "int8", "fp32", "fp16", "fp16-mixed")

    assert precision_candidates(bundle, None, backend) == candidates
    assert choose_precision(bundle, None, backend) == candidates[0]


def test_a_named_precision_is_the_only_candidate(tiny_bundle: Path) -> None:
    bundle, int8 = with_precisions(tiny_bundle, "fp32", "int8"), Precision.parse("int8")

    assert precision_candidates(bundle, int8, "onnxruntime") == (int8,)
    assert choose_measured_precision(bundle, FP32) == FP32


def test_calibrated_precisions_are_the_default_only_without_exported_ones(tiny_bundle: Path) -> None:
    assert precision_candidates(with_precisions(tiny_bundle, "fp16", "int8"), None, "onnxruntime") == (FP16,)
    assert precision_candidates(with_precisions(tiny_bundle, "int8", "fp8"), None, "tensorrt") == (
        Precision.parse("int8"),
    )


def test_verify_uses_the_last_precision(tiny_bundle: Path) -> None:
    assert choose_measured_precision(with_precisions(tiny_bundle, "fp32", "fp16", "int8"), None) == Precision.parse(
        "int8"
    )


@pytest.mark.parametrize("backend", ["tensorrt", "onnxruntime"])
def test_a_precision_that_the_bundle_does_not_have_is_refused(tiny_bundle: Path, backend: BackendName) -> None:
    with pytest.raises(BundleError, match="has fp32, fp16, not 'int8'; make it with vdmrt calibrate"):
        precision_candidates(open_bundle(tiny_bundle), Precision.parse("int8"), backend)
