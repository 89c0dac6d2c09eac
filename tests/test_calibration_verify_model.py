"""A loaded model is measured only by a request that fits it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vdmrt.bundle import FP16, FP32
from vdmrt.calibration.verify.request import VerifyRequest
from vdmrt.calibration.verify.verification import verify
from vdmrt.runtime import load


def test_another_precision_than_the_loaded_models_is_refused(tiny_bundle: Path) -> None:
    with (
        load(tiny_bundle, backend="onnxruntime", precision=FP16, threads=1) as model,
        pytest.raises(ValueError, match="precision must be the loaded model's, fp16, or None, got fp32"),
    ):
        verify(VerifyRequest(bundle=tiny_bundle, precision=FP32), model=model)


def test_another_bundle_than_the_loaded_models_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    with (
        load(tiny_bundle, backend="onnxruntime", precision=FP16, threads=1) as model,
        pytest.raises(ValueError, match=f"must be the loaded model's, {tiny_bundle}, got {tmp_path}"),
    ):
        verify(VerifyRequest(bundle=tmp_path), model=model)


def test_drift_over_fp16_of_a_loaded_model_is_refused(tiny_bundle: Path) -> None:
    with (
        load(tiny_bundle, backend="onnxruntime", precision=FP32, threads=1) as model,
        pytest.raises(
            ValueError, match="the gate drift-over-fp16 needs the FP16 graphs on the same backend and device"
        ),
    ):
        verify(VerifyRequest(bundle=tiny_bundle, gates={"drift-over-fp16": 1.15}), model=model)
