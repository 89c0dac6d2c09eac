"""Quantized graphs of a real model, compiled by TensorRT for RTX: every quantized weight is multiplied in 8 bits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import onnx.inliner
import pytest
from quantized_graphs import quantize_stage
from rtx_kernels import build_source, build_stage, lower

import vdmrt
from vdmrt.bundle import PlanAudit, open_bundle
from vdmrt.errors import EngineError

SKY = Path(vdmrt.__file__).parent / "examples" / "sky" / "bundle"


@pytest.mark.parametrize(
    ("stage", "precision", "weights"),
    [("denoise", "int8-fp16", 48), ("denoise", "fp8-kvf8", 48), ("fill", "int8-fp16-kv8", 51)],
)
def test_every_weight_of_the_sky_is_multiplied_in_8_bits(
    stage: str, precision: str, weights: int, tmp_path: Path
) -> None:
    audit = build_stage(quantize_stage(open_bundle(SKY), stage, precision, tmp_path), stage, tmp_path).audit

    assert isinstance(audit, PlanAudit)
    assert (audit.quantized_weights, audit.quantized_products, audit.widened_weights) == (weights, weights, 0)


def test_a_split_that_the_compiler_moves_before_the_product_is_refused(tmp_path: Path) -> None:
    bundle = quantize_stage(open_bundle(SKY), "denoise", "int8-fp16", tmp_path)
    job, source = lower(bundle, "denoise")
    exported = onnx.load(str(bundle.locate(job.graphs["denoise"].file)), load_external_data=False)
    onnx.save(onnx.inliner.inline_local_functions(exported), str(tmp_path / "inlined.onnx"))

    with pytest.raises(
        EngineError, match=r"int8 was requested, but 6 of 48 quantized weights are widened .*'blocks\.0\.attn\.qkv\.w"
    ):
        build_source(job, "denoise", dataclasses.replace(source, path=tmp_path / "inlined.onnx"), tmp_path)
