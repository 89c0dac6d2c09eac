"""Audit of plans from the inspector's output of each release."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest

from vdmrt.engines import audit_layers, check_precision, read_layers
from vdmrt.engines.tensorrt.audit import check_quantized
from vdmrt.engines.tensorrt.quantized_weights import find_quantized_weights
from vdmrt.errors import EngineError

LONG = {"fp16": "Row major linear FP16 format", "fp32": "Row major linear FP32", "int32": "Row major linear Int32"}
SHORT = {"fp16": "Half", "fp32": "Float", "int32": "Int32"}


def side(name: str, words: str, shape: tuple[int, ...] = (2, 4)) -> dict[str, Any]:
    return {"Name": name, "Location": "Device", "Dimensions": list(shape), "Format/Datatype": words}


CACHE = {"past_k.0", "past_v.0"}


def layer(name: str, kind: str, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]], **more: Any) -> Any:
    return {"Name": name, "LayerType": kind, "Inputs": inputs, "Outputs": outputs, **more}


def read(*layers: Any) -> Any:
    return read_layers(json.dumps({"Layers": layers, "Bindings": []}))


@pytest.mark.parametrize("words", [LONG, SHORT])
def test_types_are_parsed_in_both_notations(words: dict[str, str]) -> None:
    (found,) = read(layer("x", "MatrixMultiply", [side("a", words["fp16"])], [side("b", words["fp32"])]))

    assert [(part.dtype, part.nbytes) for part in (*found.inputs, *found.outputs)] == [("fp16", 16), ("fp32", 32)]
    assert found.is_product
    assert found.dtype == "fp16"


@pytest.mark.parametrize(
    ("words", "dtype"),
    [
        ("Thirty-two wide channel vectorized row major Int8 format.", "int8"),
        ("Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("Row major linear BFloat16 format", "bf16"),
        ("Row major linear FP8 format", "fp8"),
        ("Bool", "bool"),
        ("N/A due to dynamic shapes", ""),
    ],
)
def test_every_format_has_its_type(words: str, dtype: str) -> None:
    (found,) = read(layer("x", "Reformat", [side("a", words)], []))

    assert found.inputs[0].dtype == dtype


@pytest.mark.parametrize(
    ("kind", "name", "more", "wanted"),
    [
        ("gemm", "__myl_Fc_myl0_5", {}, True),
        ("MatrixMultiply", "node_1", {}, True),
        ("CaskGemmConvolution", "node_1", {"ParameterType": "Convolution"}, True),
        ("kgen", "_gemm_mha_v2_myl0_3", {}, True),
        ("kgen", "__myl_AddCastMul_myl0_3", {}, False),
        ("Reformat", "Reformatting CopyNode for node_MatMul_3", {}, False),
        ("PointWiseV2", "PWN(node_MatMul_3)", {}, False),
        ("Myelin", "{ForeignNode[a...MatMul]}", {}, False),
    ],
)
def test_products_are_recognized_by_their_kind(kind: str, name: str, more: dict[str, str], wanted: bool) -> None:
    (found,) = read(layer(name, kind, [], [], **more))

    assert found.is_product is wanted


def test_layers_given_by_name_alone_are_counted() -> None:
    audit = audit_layers(read("node_1", "node_2"), CACHE)

    assert (audit.layers, audit.precisions, audit.products) == (2, {"unknown": 2}, {})


def test_an_opaque_layer_hides_its_products() -> None:
    audit = audit_layers(read(layer("{ForeignNode[a...b]}", "Myelin", [side("past_k.0", LONG["fp16"])], [])), CACHE)

    assert audit.unknown_products == 1
    assert audit.cache_copies == ()


def test_layers_that_only_move_the_cache_are_copies() -> None:
    past, other = side("past_k.0", SHORT["fp16"], (8, 4)), side("t", SHORT["fp16"], (4, 8))

    audit = audit_layers(
        read(
            layer("transpose", "kgen", [past], [other]),
            layer("product", "gemm", [side("past_v.0", SHORT["fp16"])], [other]),
            layer("view", "NoOp", [past], [past]),
        ),
        CACHE,
    )

    assert [(copy.layer, copy.tensor, copy.nbytes) for copy in audit.cache_copies] == [("transpose", "past_k.0", 64)]


def test_a_half_product_in_float32_is_refused_by_name() -> None:
    layers = read(
        layer("node_a", "gemm", [side("x", "Half")], [side("y", "Half")]),
        layer("node_b", "gemm", [side("y", "Float")], [side("z", "Float")], Metadata="[ONNX Layer: node_b]"),
    )
    products = {"node_a": "float16", "node_b": "float16"}

    with pytest.raises(
        EngineError, match="denoise: fp16 was requested, but 1 of 2 matrix products run in float32, .*b'"
    ):
        check_precision("denoise", layers, products, wanted=True)


def test_a_float32_product_of_the_graph_may_run_in_float32() -> None:
    layers = read(
        layer("node_a", "gemm", [side("x", "Half")], [side("y", "Half")]),
        layer("node_b", "gemm", [side("y", "Float")], [side("z", "Float")]),
    )

    check_precision("denoise", layers, {"node_a": "float16", "node_b": "float32"}, wanted=True)
    check_precision("denoise", layers, None, wanted=True)
    assert audit_layers(layers, CACHE).products == {"fp16": 1, "fp32": 1}


def test_a_plan_entirely_in_float32_is_refused_even_without_known_nodes() -> None:
    layers = read(layer("__myl_Fc", "gemm", [side("x", "Float")], [side("y", "Float")]))

    with pytest.raises(EngineError, match="1 of 1 matrix products run in float32, such as '__myl_Fc'"):
        check_precision("denoise", layers, None, wanted=True)
    check_precision("denoise", layers, None, wanted=False)


@pytest.mark.parametrize("text", ["", "{}", "[3]", '{"Layers": 4}'])
def test_text_that_is_not_inspector_output_is_refused(text: str) -> None:
    with pytest.raises(EngineError, match="inspector returned no readable JSON"):
        read_layers(text)


QUANTIZED = {"a.weight.dq": "node_a", "b.weight.dq": "node_b"}


def product(name: str, left: str, right: str, nodes: str) -> Any:
    """Return a product of an input and a constant, in the form of TensorRT's compiler."""
    metadata = " ".join(f"[ONNX Layer: {node}]" for node in nodes.split())
    constants = [side("w", right, (4, 6)), side("alpha", "Float", (1,))]
    return layer(name, "gemm", [side("x", left)], [side("y", "Half", (2, 6))], Constants=constants, Metadata=metadata)


def test_a_plan_without_8_bit_products_is_refused() -> None:
    lost = read(layer("x", "gemm", [side("a", "Half"), side("w", "Half")], [side("b", "Half")]))
    kept = read(layer("x", "gemm", [side("a", "Int8"), side("w", "Int8")], [side("b", "Half")]))
    hidden = read(layer("{ForeignNode[x]}", "Myelin", [side("a", "Half")], [side("b", "Half")]))

    with pytest.raises(
        EngineError, match="int8 was requested, but none of 1 matrix products reads it; they read fp16; the plan is"
    ):
        check_quantized("denoise", lost, "int8", QUANTIZED)
    check_quantized("denoise", kept, "int8", QUANTIZED)
    check_quantized("denoise", hidden, "int8", QUANTIZED)


@pytest.mark.parametrize("operands", [("Half", "Half"), ("Half", "Int8"), ("Int8", "Half")])
def test_a_plan_that_widens_a_quantized_weight_is_refused_by_name(operands: tuple[str, str]) -> None:
    layers = read(
        product("fc_a", "Int8", "Int8", "node_a a.weight.dq"),
        product("fc_b", *operands, "node_b"),
    )

    with pytest.raises(
        EngineError, match=r"fill: int8 was requested, but 1 of 2 quantized weights are widened .* as 'b\.weight\.dq'"
    ):
        check_quantized("fill", layers, "int8", QUANTIZED)
    audit = audit_layers(layers, CACHE, QUANTIZED)
    assert (audit.quantized_weights, audit.quantized_products, audit.widened_weights) == (2, 1, 1)
    assert audit.describe_weights() == "1 of 2 quantized weights are multiplied in 8 bits, 1 widened first"


def test_a_product_may_multiply_several_quantized_weights() -> None:
    layers = read(product("fc_a+fc_b", "FP8", "FP8", "node_a a.weight.dq node_b b.weight.dq"))

    check_quantized("fill", layers, "fp8", QUANTIZED)
    assert audit_layers(layers, CACHE, QUANTIZED).quantized_products == 2


def test_weights_that_the_inspector_does_not_list_are_not_called_widened() -> None:
    shown = product("fc_a", "Int8", "Int8", "node_a a.weight.dq")
    bare = layer("node_b", "CaskGemmMatrixMultiply", [side("x", "Int8")], [side("y", "Half")])
    opaque = layer("{ForeignNode[b]}", "Myelin", [side("x", "Int8")], [side("y", "Half")])

    for hidden in (bare, opaque):
        layers = read(shown, hidden)
        check_quantized("fill", layers, "int8", QUANTIZED)
        audit = audit_layers(layers, CACHE, QUANTIZED)
        assert (audit.quantized_weights, audit.quantized_products, audit.widened_weights) == (2, 1, 0)
        assert audit.describe_weights().endswith("are multiplied in 8 bits, the layers of 1 are not listed")


def test_quantized_weights_are_those_that_a_node_dequantizes_from_a_constant() -> None:
    node = onnx.helper.make_node
    graph = onnx.helper.make_graph(
        [
            node("DequantizeLinear", ["w", "s"], ["wide"], name="a.weight.dq"),
            node("DequantizeLinear", ["past", "s"], ["floating"], name="past.dq"),
            node("MatMul", ["floating", "wide"], ["y"], name="node_a"),
        ],
        "g",
        [],
        [],
        [onnx.numpy_helper.from_array(np.zeros((4, 6), np.int8), "w")],
    )

    assert find_quantized_weights(graph) == {"a.weight.dq": "node_a"}
