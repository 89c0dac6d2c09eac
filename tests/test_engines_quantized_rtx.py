"""Quantized graphs of a real model, compiled by TensorRT for RTX: every quantized weight is multiplied in 8 bits."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.inliner
import pytest
from quantized_graphs import quantize_stage

import vdmrt
from vdmrt.bundle import FP8, INT8, EightBits, PlanAudit, Precision, open_bundle
from vdmrt.engines.tensorrt.functions import write_out
from vdmrt.engines.tensorrt.job import BuildJob
from vdmrt.engines.tensorrt.lowering import GraphSource
from vdmrt.engines.tensorrt.options import BuildOptions
from vdmrt.engines.tensorrt.plans import build_plan
from vdmrt.engines.tensorrt.quantized_weights import find_quantized_weights
from vdmrt.errors import EngineError
from vdmrt.hosts.tensorrt.rtx import open_tensorrt_rtx

SKY = Path(vdmrt.__file__).parent / "examples" / "sky" / "bundle"


def audit(
    folder: Path, stage: str, kind: EightBits, cache: EightBits | None = None, exported: bool = False
) -> PlanAudit:
    """Return the audit of the sky's stage, quantized, in TensorRT's forms or in the exported ones."""
    graph = quantize_stage(open_bundle(SKY), stage, kind, folder / "graph.onnx", cache=cache)
    model = onnx.load(str(folder / "graph.onnx"), load_external_data=False)
    model = onnx.inliner.inline_local_functions(model) if exported else write_out(model)[0]
    onnx.save(model, str(folder / "lowered.onnx"))
    source = GraphSource(folder / "lowered.onnx", quantized_weights=find_quantized_weights(model.graph))
    precision = Precision.parse("fp8" if kind == FP8 else "int8-fp16")
    job = BuildJob(open_tensorrt_rtx(), precision, {stage: graph}, BuildOptions(), lambda line: None)
    found = build_plan(job, stage, source, b"").audit
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("stage", "kind", "cache", "weights"),
    [("denoise", INT8, None, 48), ("denoise", FP8, FP8, 48), ("fill", INT8, INT8, 51)],
)
def test_every_weight_of_the_sky_is_multiplied_in_8_bits(
    stage: str, kind: EightBits, cache: EightBits | None, weights: int, tmp_path: Path
) -> None:
    found = audit(tmp_path, stage, kind, cache)

    assert (found.quantized_weights, found.quantized_products, found.widened_weights) == (weights, weights, 0)


def test_a_split_that_the_compiler_moves_before_the_product_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        EngineError, match=r"int8 was requested, but 6 of 48 quantized weights are widened .*'blocks\.0\.attn\.qkv\.w"
    ):
        audit(tmp_path, "denoise", INT8, exported=True)
