"""The functions of exported graphs: their calls, and their results compared with torch's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.reference
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from tiny import TEXT, TINY
from torch import Tensor

from vdmrt.bundle import FUNCTION_DOMAIN, open_bundle
from vdmrt.export.families.ca2vdm.attention import MASKED, attend, attend_cached, attend_context
from vdmrt.export.functions import define_functions

ROWS, CHUNK, SLOTS, HEADS, SIZE = 2, 3, 5, 4, 8


def calls_of(bundle: Path) -> dict[str, dict[str, int]]:
    manifest = open_bundle(bundle).manifest
    return {str(stage): dict(graph.calls) for stage, graph in next(iter(manifest.graphs.values())).items()}


def test_every_attention_and_modulated_norm_is_a_call(tiny_bundle: Path) -> None:
    layers = TINY.depth

    assert calls_of(tiny_bundle) == {
        # Spatial and cross-frame attention of each layer; the last layer of a fill ends before temporal attention.
        "fill": {
            "Attention": 2 * layers,
            "CachedAttention": layers - 1,
            "ModulatedNorm": 2 * layers - 1,
            "SplitProjection": 2 * layers,
        },
        "denoise": {
            "Attention": layers,
            "CachedAttention": layers,
            "ContextAttention": layers,
            "ModulatedNorm": 2 * layers + 1,
            "SplitProjection": 2 * layers,
        },
    }


def test_attention_to_text_is_a_separate_call(text_bundle: Path) -> None:
    calls = calls_of(text_bundle)

    assert calls["denoise"]["MaskedAttention"] == TEXT.depth
    assert calls["fill"]["MaskedAttention"] == TEXT.depth - 1
    assert "ContextAttention" not in calls["denoise"]


@pytest.mark.parametrize("stage", ["fill", "denoise"])
def test_no_softmax_is_outside_of_a_function(tiny_bundle: Path, stage: str) -> None:
    model = onnx.load(tiny_bundle / "graphs" / f"{stage}.fp16.onnx", load_external_data=False)

    assert {"Softmax", "MatMul", "LayerNormalization"}.isdisjoint(node.op_type for node in model.graph.node)
    assert {function.domain for function in model.functions} == {FUNCTION_DOMAIN}
    assert {function.name for function in model.functions} == {
        node.op_type for node in model.graph.node if node.domain == FUNCTION_DOMAIN
    }


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def run_function(name: str, *operands: Tensor | npt.NDArray[np.int64]) -> list[npt.NDArray[np.float32]]:
    """Return a function's results in ONNX's reference evaluator and in ONNX Runtime."""
    (function,) = define_functions([name])
    arrays = {value.name or "": np.asarray(one) for value, one in zip(function.inputs, operands, strict=True)}
    inputs = [
        onnx.helper.make_tensor_value_info(key, onnx.helper.np_dtype_to_tensor_dtype(one.dtype), one.shape)
        for key, one in arrays.items()
    ]
    output = onnx.helper.make_tensor_value_info("attended", onnx.TensorProto.FLOAT, operands[0].shape)
    call = onnx.helper.make_node(name, list(arrays), ["attended"], domain=FUNCTION_DOMAIN)
    model = onnx.helper.make_model(
        onnx.helper.make_graph([call], "g", inputs, [output]),
        functions=[ir.to_proto(function)],
        opset_imports=[onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid(FUNCTION_DOMAIN, 1)],
        ir_version=10,
    )
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (evaluated,) = onnx.reference.ReferenceEvaluator(model).run(None, arrays)
    return [np.asarray(evaluated), np.asarray(session.run(None, arrays)[0])]


def scale() -> Tensor:
    return torch.tensor(SIZE**-0.5)


@pytest.mark.parametrize("masked", [False, True])
def test_the_body_of_an_attention_computes_what_torch_does(masked: bool) -> None:
    query, key, value = drawn(ROWS, 6, HEADS, SIZE), drawn(ROWS, 7, HEADS, SIZE), drawn(ROWS, 7, HEADS, SIZE)
    bias = torch.zeros(ROWS, 1, 1, 7)
    bias[:, ..., 4:] = MASKED

    name, more = ("MaskedAttention", [bias]) if masked else ("Attention", [])

    for found in run_function(name, query, key, value, scale(), *more):
        np.testing.assert_allclose(found, attend(query, key, value, *more), atol=1e-5)


def test_the_body_of_an_attention_to_the_context_computes_what_torch_does() -> None:
    query, key, value = drawn(ROWS, 6, HEADS, SIZE), drawn(ROWS, HEADS, 9, SIZE), drawn(ROWS, HEADS, 9, SIZE)

    for found in run_function("ContextAttention", query, key, value, scale()):
        np.testing.assert_allclose(found, attend_context(query, key, value), atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_the_body_of_an_attention_over_the_cache_computes_what_torch_does(causal: bool) -> None:
    query, key, value = (drawn(ROWS, CHUNK, HEADS, SIZE) + part for part in range(3))
    past = drawn(ROWS, HEADS, SLOTS, SIZE), drawn(ROWS, HEADS, SLOTS, SIZE) - 1
    bias = torch.zeros(ROWS, 1, CHUNK if causal else 1, SLOTS + CHUNK)
    bias[0, ..., :2] = bias[1, ..., 1:SLOTS] = MASKED
    if causal:
        bias[..., SLOTS:] = torch.full((CHUNK, CHUNK), MASKED).triu(1)
    lengths = np.array([SLOTS, CHUNK])

    for found in run_function("CachedAttention", query, *past, key, value, scale(), bias, lengths):
        np.testing.assert_allclose(found, attend_cached(query, past, (key, value), bias), atol=1e-5)


def test_invisible_slots_have_no_effect() -> None:
    query, key, value = (drawn(1, CHUNK, HEADS, SIZE) for _ in range(3))
    past = drawn(1, HEADS, SLOTS, SIZE)
    bias = torch.zeros(1, 1, 1, SLOTS + CHUNK)
    bias[..., 3] = MASKED
    other = past.clone()
    other[:, :, 3] = 100.0

    seen = [
        run_function("CachedAttention", query, one, one, key, value, scale(), bias, np.array([SLOTS, CHUNK]))
        for one in (past, other)
    ]

    for before, after in zip(*seen, strict=True):
        np.testing.assert_array_equal(before, after)
