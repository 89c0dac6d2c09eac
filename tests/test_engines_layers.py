"""Layers of a plan: products, attentions, operands and bytes moved."""

from __future__ import annotations

import pytest

from vdmrt.engines import Layer, Tensor


def layer(name: str, kind: str, reads: list[Tensor], writes: list[Tensor], constants: tuple[Tensor, ...] = ()) -> Layer:
    return Layer(name, kind, tuple(reads), tuple(writes), f"{kind} {name}", constants=constants)


ROWS = Tensor("x", "fp16", (512, 192))
BIAS, WEIGHT = Tensor("b", "fp16", (1, 192)), Tensor("w", "int8", (192, 576))
OUT = Tensor("y", "fp16", (512, 576))


def test_a_layer_moves_what_it_reads_and_writes() -> None:
    found = layer("__myl_FcAdd_1", "runtime_fusion", [ROWS], [OUT], (BIAS, WEIGHT))

    assert found.nbytes_moved == 2 * 512 * 192 + 2 * 192 + 192 * 576 + 2 * 512 * 576


def test_a_products_operands_are_its_largest_matching_matrices() -> None:
    found = layer("__myl_FcAdd_1", "runtime_fusion", [ROWS], [OUT], (BIAS, WEIGHT))

    assert found.operands == (ROWS, WEIGHT)


def test_what_is_added_to_a_product_is_no_operand() -> None:
    stream, square = Tensor("x_t", "fp32", (512, 192)), Tensor("w", "fp16", (192, 192))

    assert layer("__myl_FcAddCastMulAdd_1", "runtime_fusion", [stream, ROWS], [stream], (square,)).operands == (
        ROWS,
        square,
    )


def test_an_attentions_operands_are_queries_and_transposed_keys() -> None:
    query, keys = Tensor("q", "fp16", (6, 8, 32)), Tensor("k", "fp16", (6, 32, 33))
    values = Tensor("v", "fp16", (6, 33, 32))

    found = layer("_gemm_mha_v2_1", "kgen", [query, keys, values], [query])

    assert found.is_attention
    assert found.operands == (query, keys)


@pytest.mark.parametrize("reads", [[], [Tensor("x", "fp16", (4, 8))], [Tensor("s", "fp32", (1,))]])
def test_a_product_with_hidden_operands_has_none(reads: list[Tensor]) -> None:
    assert layer("gemm_1", "gemm", reads, [OUT]).operands is None


def test_a_copy_has_no_operands() -> None:
    assert layer("__myl_Move_1", "kgen", [ROWS, WEIGHT], [OUT]).operands is None


@pytest.mark.parametrize(
    ("name", "kind", "wanted"),
    [
        ("__myl_FcAddCast_myl0_21", "runtime_fusion", True),
        ("__myl_ReshMove_myl0_2", "runtime_fusion", False),
        ("node_conv_3", "correlation", True),
    ],
)
def test_products_of_the_rtx_compiler_are_recognized(name: str, kind: str, wanted: bool) -> None:
    assert layer(name, kind, [ROWS], [OUT]).is_product is wanted


def test_a_convolutions_operands_are_what_it_reads_and_its_kernel() -> None:
    picture, kernel = Tensor("x", "fp16", (1, 4, 16, 16)), Tensor("w", "int8", (8, 4, 3, 3))
    bias = Tensor("b", "fp32", (8,))

    assert layer("node_conv", "correlation", [picture], [OUT], (bias, kernel)).operands == (picture, kernel)
