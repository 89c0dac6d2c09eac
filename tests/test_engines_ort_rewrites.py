"""Graphs rewritten for ONNX Runtime compute what the exported ones do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from golden import relative_error
from tiny import TINY, TINY_OPTIONS

from vdmrt.bundle import FP32, Graph, open_bundle
from vdmrt.engines.forms import AS_EXPORTED, check_forms
from vdmrt.engines.onnxruntime.cpu_forms import CPU_FORMS
from vdmrt.engines.onnxruntime.cuda_forms import CUDA_FORMS
from vdmrt.engines.onnxruntime.operands import Forms
from vdmrt.engines.onnxruntime.rewrites import rewrite
from vdmrt.engines.tensorrt.functions import choose_forms
from vdmrt.errors import BuildError
from vdmrt.export import export_bundle, random_model
from vdmrt.export.functions import define_functions

MULTI_HEAD = "com.microsoft.MultiHeadAttention"
SKY = Path(__file__).parent.parent / "examples" / "sky" / "bundle"


@pytest.fixture(scope="module")
def one_row_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny model for one request, so that products can drop the row dimension."""
    folder = tmp_path_factory.mktemp("one-row") / "bundle"
    options = dataclasses.replace(TINY_OPTIONS, requests=1, precisions=(FP32,))
    return export_bundle(random_model(TINY, 4), folder, options, name="one row", random_weights=True).path


def feeds_of(graph: Graph) -> dict[str, Any]:
    drawn = np.random.default_rng(3)
    feeds: dict[str, Any] = {}
    for spec in graph.inputs:
        shape, integer = spec.shape, spec.dtype == "int32"
        feeds[spec.name] = drawn.integers(0, 2, shape, np.int32) if integer else drawn.standard_normal(shape)
        feeds[spec.name] = feeds[spec.name].astype(spec.dtype)
    feeds["slot_valid"] = np.ones_like(feeds["slot_valid"])
    return feeds


def run(path: Path, feeds: dict[str, Any]) -> list[Any]:
    return list(onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds))


@pytest.mark.parametrize("forms", [CPU_FORMS, CUDA_FORMS], ids=["cpu", "cuda"])
@pytest.mark.parametrize("stage", ["fill", "denoise"])
@pytest.mark.parametrize("fixture", ["tiny_bundle", "text_bundle", "one_row_bundle", "sky"])
def test_rewritten_graphs_compute_the_same(
    fixture: str, stage: str, forms: Forms, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    bundle = open_bundle(SKY if fixture == "sky" else request.getfixturevalue(fixture))
    for precision, graphs in bundle.manifest.graphs.items():
        source, target = bundle.locate(graphs[stage].file), tmp_path / f"{precision}.onnx"
        model = ir.load(source)
        made = rewrite(model, forms)
        ir.save(model, target, external_data="weights.bin")
        feeds = feeds_of(graphs[stage])

        found, wanted = run(target, feeds), run(source, feeds)

        assert {name: sum(counts.values()) for name, counts in made.items()} == graphs[stage].calls
        for spec, ours, theirs in zip(graphs[stage].outputs, found, wanted, strict=True):
            assert relative_error(ours, theirs) <= (1e-5 if precision == FP32 else 2e-3), (precision, spec.name)


def test_each_attention_and_norm_of_a_single_row_is_replaced(one_row_bundle: Path) -> None:
    made = rewrite(ir.load(one_row_bundle / "graphs" / "denoise.fp32.onnx"), CPU_FORMS)

    assert made == {
        "Attention": {"com.microsoft.Attention": TINY.depth},
        "CachedAttention": {"com.microsoft.FusedMatMul": TINY.depth},
        "ContextAttention": {"com.microsoft.MultiHeadAttention": TINY.depth},
        "ModulatedNorm": {"LayerNormalization": 2 * TINY.depth + 1},
        "SplitProjection": {AS_EXPORTED: TINY.depth, "part of com.microsoft.Attention": TINY.depth},
    }


@pytest.mark.parametrize("fixture", ["tiny_bundle", "one_row_bundle"])
def test_each_attention_becomes_the_one_that_cuda_fuses(fixture: str, request: pytest.FixtureRequest) -> None:
    model = ir.load(request.getfixturevalue(fixture) / "graphs" / "denoise.fp32.onnx")

    made = rewrite(model, CUDA_FORMS)

    assert made == {
        **dict.fromkeys(["Attention", "CachedAttention", "ContextAttention"], {MULTI_HEAD: TINY.depth}),
        "ModulatedNorm": {AS_EXPORTED: 2 * TINY.depth + 1},
        "SplitProjection": {AS_EXPORTED: 2 * TINY.depth},
    }
    assert [node.op_type for node in model.graph if node.domain == "com.microsoft"] == ["MultiHeadAttention"] * 6


def test_attention_under_a_text_mask_is_fused_on_cuda_too(text_bundle: Path) -> None:
    made = rewrite(ir.load(text_bundle / "graphs" / "denoise.fp32.onnx"), CUDA_FORMS)

    assert made["MaskedAttention"] == {MULTI_HEAD: 2}


@pytest.mark.parametrize(("heads", "within"), [(6, 6), (2048, 1024), (2049, 683)])
@pytest.mark.parametrize("causal", [1, 3])
@pytest.mark.parametrize("rows", [1, 2])
def test_more_heads_than_cuda_takes_are_split_into_rows(
    heads: int, within: int, causal: int, rows: int, tmp_path: Path
) -> None:
    source, target = tmp_path / "source.onnx", tmp_path / "target.onnx"
    ir.save(cached_attention(rows, heads, causal), source)
    model = ir.load(source)
    rewrite(model, CUDA_FORMS)
    ir.save(model, target)
    drawn = np.random.default_rng(1)
    inputs = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"]).get_inputs()
    feeds = {each.name: drawn.standard_normal(each.shape).astype(np.float32) for each in inputs}

    (found,), (wanted,) = run(target, feeds), run(source, feeds)

    (fused,) = [node for node in model.graph if node.op_type == "MultiHeadAttention"]
    assert fused.attributes.get_int("num_heads") == within
    assert relative_error(found, wanted) <= 1e-5


def cached_attention(rows: int, heads: int, causal: int) -> ir.Model:
    """Return a graph that attends from 3 tokens to 5 slots and themselves, with heads of 4 channels."""
    own, past = f"float[{rows},3,{heads},4]", f"float[{rows},{heads},5,4]"
    text = (
        f'<ir_version: 10, opset_import: ["" : 18, "vdmrt" : 1]> g ({own} q, {past} pk, {past} pv, {own} k, {own} v,'
        f" float[{rows},1,{causal},8] bias) => ({own} y) <float s = {{0.5}}, int64[2] lengths = {{5, 3}}>"
        " { y = vdmrt.CachedAttention(q, pk, pv, k, v, s, bias, lengths) }"
    )
    model = ir.from_proto(onnx.parser.parse_model(text))
    for function in define_functions(["CachedAttention"]):
        model.functions[function.identifier()] = function
    return model


def test_attention_over_the_cache_of_several_rows_is_not_replaced_but_counted(tiny_bundle: Path) -> None:
    made = rewrite(ir.load(tiny_bundle / "graphs" / "denoise.fp32.onnx"), CPU_FORMS)

    assert made["CachedAttention"] == {AS_EXPORTED: TINY.depth}


def test_a_graph_without_calls_is_unchanged() -> None:
    text = '<ir_version: 10, opset_import: ["" : 18]> g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }'
    model = ir.from_proto(onnx.parser.parse_model(text))

    made = rewrite(model, CPU_FORMS)

    assert made == {}
    assert [node.op_type for node in model.graph] == ["Relu"]


def test_a_function_without_a_form_is_refused() -> None:
    text = (
        '<ir_version: 10, opset_import: ["" : 18, "vdmrt" : 1]> g (float[2,3] x) => (float[2,3] y)'
        ' { y = vdmrt.Unheard(x) } <opset_import: ["" : 18], domain: "vdmrt"> Unheard (a) => (b) { b = Relu(a) }'
    )

    with pytest.raises(BuildError, match=r"no form of 'vdmrt\.Unheard', only of Attention, CachedAttention, "):
        rewrite(ir.from_proto(onnx.parser.parse_model(text)), CPU_FORMS)
    with pytest.raises(BuildError, match=r"TensorRT has no form of 'vdmrt\.Unheard', only of Attention, Cach"):
        choose_forms(onnx.parser.parse_model(text))


def test_a_graph_with_fewer_calls_than_its_manifest_counts_is_refused(tiny_bundle: Path) -> None:
    graph = open_bundle(tiny_bundle).manifest.graphs[FP32]["denoise"]
    forms = {**{name: {AS_EXPORTED: count} for name, count in graph.calls.items()}, "CachedAttention": {}}

    with pytest.raises(
        BuildError, match=r"denoise: model.json counts 2 calls of 'vdmrt.CachedAttention', 0 were found"
    ):
        check_forms("denoise", graph, forms)
