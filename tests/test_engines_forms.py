"""Forms of functions for TensorRT: each computes what the exported body does, and suits the calls that it is for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from golden import relative_error
from tiny import TINY, TINY_OPTIONS

from vdmrt.bundle import FP16, FP32, Bundle, Precision
from vdmrt.engines import lower_graphs
from vdmrt.engines.forms import AS_EXPORTED
from vdmrt.engines.tensorrt.functions import (
    FORMS,
    HEADS_FIRST,
    ONE_KEY_TENSOR,
    SUMS_OF_PRODUCTS,
    choose_forms,
    find_shapes,
    write_out,
)
from vdmrt.engines.tensorrt.residuals import flatten_residuals
from vdmrt.export import export_bundle, random_model

KEPT = FORMS["Attention"][0]
TOLERANCES = {FP32: 1e-5, FP16: 2e-3}
STAGES = ("denoise", "fill")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a bundle for one request, for which all forms are."""
    options = dataclasses.replace(TINY_OPTIONS, requests=1)
    folder = tmp_path_factory.mktemp("forms") / "bundle"
    return export_bundle(random_model(TINY, 0), folder, options, name="tiny", random_weights=True)


def load(bundle: Bundle, stage: str, precision: Precision = FP32) -> onnx.ModelProto:
    return onnx.load(str(bundle.locate(bundle.manifest.graphs[precision][stage].file)))


def run(bundle: Bundle, model: onnx.ModelProto, stage: str, precision: Precision) -> list[npt.NDArray[Any]]:
    rng = np.random.default_rng(5)
    feeds = {
        spec.name: rng.integers(0, 2, spec.shape, dtype=np.int32)
        if spec.dtype == "int32"
        else rng.standard_normal(spec.shape).astype(spec.dtype)
        for spec in bundle.manifest.graphs[precision][stage].inputs
    }
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(found) for found in session.run(None, feeds)]


@pytest.mark.parametrize("precision", [FP32, FP16], ids=str)
@pytest.mark.parametrize("stage", STAGES)
def test_every_form_computes_what_the_exported_body_does(stage: str, precision: Precision, bundle: Bundle) -> None:
    wanted = run(bundle, load(bundle, stage, precision), stage, precision)
    calls = bundle.manifest.graphs[precision][stage].calls

    for name, form in [(one, form) for one in calls for form in FORMS[one] if form.body]:
        written, forms = write_out(load(bundle, stage, precision), dict.fromkeys(calls, KEPT) | {name: form})

        assert forms[name] == {form.name: calls[name]}
        for ours, theirs in zip(run(bundle, written, stage, precision), wanted, strict=True):
            assert relative_error(ours, theirs) <= TOLERANCES[precision], (name, form.name)


@pytest.mark.parametrize("precision", [FP32, FP16], ids=str)
# The last layer of a fill ends before temporal attention, and the spatial attentions permute rows.
@pytest.mark.parametrize(("stage", "count"), [("denoise", 3 * TINY.depth), ("fill", 2 * (TINY.depth - 1))])
def test_residuals_in_two_dimensions_are_the_same(stage: str, count: int, precision: Precision, bundle: Bundle) -> None:
    model = load(bundle, stage, precision)
    wanted = run(bundle, model, stage, precision)

    moved = flatten_residuals(model, find_shapes(model))

    assert moved == count
    onnx.checker.check_model(model)
    for ours, theirs in zip(run(bundle, model, stage, precision), wanted, strict=True):
        assert relative_error(ours, theirs) <= TOLERANCES[precision]


def test_no_reshape_is_between_a_product_and_its_addition(bundle: Bundle) -> None:
    path = lower_graphs(bundle, FP16, release="rtx")["denoise"]

    nodes = onnx.load(str(path), load_external_data=False).graph.node
    readers = {name: node.op_type for node in nodes for name in node.input}
    products = [node.output[0] for node in nodes if any(name.endswith("attn_temp.proj.weight") for name in node.input)]
    assert [readers[name] for name in products] == ["Cast", "Cast"]


def test_gates_of_several_rows_keep_their_dimensions(tiny_bundle: Path) -> None:
    model = onnx.load(tiny_bundle / "graphs" / "denoise.fp16.onnx", load_external_data=False)

    assert flatten_residuals(model, find_shapes(model)) == 0


def test_one_request_gets_heads_first(bundle: Bundle) -> None:
    chosen = choose_forms(load(bundle, "denoise"))

    assert {name: form.name for name, form in chosen.items() if form.name != AS_EXPORTED} == {
        "CachedAttention": SUMS_OF_PRODUCTS,
        "ContextAttention": HEADS_FIRST,
        "SplitProjection": FORMS["SplitProjection"][0].name,
    }


def test_a_table_behind_a_product_of_another_width_is_left_alone() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]> g (float[4,8] x, float[8,12] w, int64[3] s, float[2,6,4] t) '
        "=> (float[2,6,4] y) { p = Gemm(x, w) r = Reshape(p, s) y = Add(t, r) }"
    )

    assert flatten_residuals(model, find_shapes(model)) == 0


def attention(rows: int, frames: int) -> onnx.ModelProto:
    """Return a model with one attention over a cache of 25 slots."""
    shape, past = f"float16[{rows},{frames},6,8]", f"float16[{rows},6,25,8]"
    return onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 18, "vdmrt" : 1]> g ({shape} q, {past} pk, {past} pv, {shape} k, '
        f"{shape} v, float16 s, float16[{rows},1,1,{25 + frames}] b, int64[2] n) => ({shape} y) "
        f"{{ y = vdmrt.CachedAttention(q, pk, pv, k, v, s, b, n) }} "
        '<opset_import: ["" : 18], domain: "vdmrt"> CachedAttention (q, pk, pv, k, v, s, b, n) => (y) '
        "{ y = Identity(q) }"
    )


@pytest.mark.parametrize(
    ("model", "last_only", "wanted"),
    [
        (attention(2, 16), False, SUMS_OF_PRODUCTS),
        (attention(1, 17), False, HEADS_FIRST),
        (attention(2, 17), False, ONE_KEY_TENSOR),
        (attention(1, 8), True, ONE_KEY_TENSOR),
    ],
    ids=["few queries", "many queries", "many queries of two rows", "TensorRT"],
)
def test_attention_over_the_cache_gets_the_form_that_suits_it(
    model: onnx.ModelProto, last_only: bool, wanted: str
) -> None:
    assert choose_forms(model, last_only=last_only)["CachedAttention"].name == wanted
