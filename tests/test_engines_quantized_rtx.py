"""Quantized graphs of a real model, compiled by TensorRT for RTX: every quantized weight is multiplied in 8 bits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import onnx.inliner
import pytest
from quantized_graphs import quantize_stage

import vdmrt
from vdmrt.bundle import Bundle, PlanAudit, open_bundle, stage_graphs
from vdmrt.engines import find_source, lower_graphs
from vdmrt.engines.tensorrt.job import BuildJob
from vdmrt.engines.tensorrt.lowering import GraphSource
from vdmrt.engines.tensorrt.options import BuildOptions
from vdmrt.engines.tensorrt.plans import build_plan
from vdmrt.errors import EngineError
from vdmrt.hosts.tensorrt.rtx import open_tensorrt_rtx

SKY = Path(vdmrt.__file__).parent / "examples" / "sky" / "bundle"


def lower(bundle: Bundle) -> tuple[BuildJob, str, GraphSource]:
    """Return the job and the source of the only graph of a bundle."""
    rtx = open_tensorrt_rtx()
    (precision,) = bundle.manifest.graphs
    graphs = stage_graphs(bundle, precision)
    ((stage, graph),) = graphs.items()
    lower_graphs(bundle, precision, release=rtx.parser_version)
    job = BuildJob(rtx, precision, graphs, BuildOptions(), lambda line: None)
    return job, stage, find_source(bundle, graph, rtx.parser_version)


@pytest.mark.parametrize(
    ("stage", "precision", "weights"),
    [("denoise", "int8-fp16", 48), ("denoise", "fp8-kvf8", 48), ("fill", "int8-fp16-kv8", 51)],
)
def test_every_weight_of_the_sky_is_multiplied_in_8_bits(
    stage: str, precision: str, weights: int, tmp_path: Path
) -> None:
    job, stage, source = lower(quantize_stage(open_bundle(SKY), stage, precision, tmp_path))

    audit = build_plan(job, stage, source, b"", tmp_path / "plan").audit

    assert isinstance(audit, PlanAudit)
    assert (audit.quantized_weights, audit.quantized_products, audit.widened_weights) == (weights, weights, 0)


def test_a_split_that_the_compiler_moves_before_the_product_is_refused(tmp_path: Path) -> None:
    bundle = quantize_stage(open_bundle(SKY), "denoise", "int8-fp16", tmp_path)
    job, stage, source = lower(bundle)
    exported = onnx.load(str(bundle.locate(job.graphs[stage].file)), load_external_data=False)
    onnx.save(onnx.inliner.inline_local_functions(exported), str(tmp_path / "inlined.onnx"))

    with pytest.raises(
        EngineError, match=r"int8 was requested, but 6 of 48 quantized weights are widened .*'blocks\.0\.attn\.qkv\.w"
    ):
        build_plan(job, stage, dataclasses.replace(source, path=tmp_path / "inlined.onnx"), b"", tmp_path / "plan")
