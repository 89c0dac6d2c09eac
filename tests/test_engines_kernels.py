"""Figures of a kernel report, computed by hand for a short log."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from kernel_logs import BLOCK, layer_line

from vdmrt.bundle import PlanAudit
from vdmrt.engines import read_layers
from vdmrt.engines.kernels.kernel import OUTSIDE, make_kernels
from vdmrt.engines.kernels.report import KernelReport
from vdmrt.engines.kernels.stage import StageReport
from vdmrt.engines.kernels.text import describe_blocks, figure_rows
from vdmrt.engines.tensorrt.rtx.build_log import inspection_of

MOVE = layer_line("__myl_Move_myl0_9", "kgen", [("a", (2,), "Half")], [("b", (2,), "Half")])


def stage(*lines: str, blocks: dict[str, int] | None = None) -> StageReport:
    kernels = make_kernels(read_layers(inspection_of(lines)), blocks or {}, {"past_k.0", "past_v.0"})
    return StageReport(
        "graphs/denoise.fp16.onnx", "tensorrt_rtx", "1.7.1", kernels, blocks is not None, 2.34, 2_000_000
    )


def marked(name: str, *nodes: str) -> str:
    return layer_line(name, "kgen", [("a", (2,), "Half")], [("b", (2,), "Half")], nodes=nodes)


def test_each_kernel_has_its_bytes_flops_and_roofline() -> None:
    product, copy, attention, softmax, linear = stage(*BLOCK).kernels

    # Bytes / 1008 GB/s, FLOPs / 165 TFLOPS (82 in float32), or 2 µs.
    assert (product.nbytes, product.flops, product.roofline_us) == (1_008_768, 113_246_208, 2.0)
    assert (copy.nbytes, copy.flops) == (614_400 + 589_824 + 811_008, 0)
    assert (attention.nbytes, attention.flops) == (2 * 196_608 + 2 * 811_008 + 528, 12_976_128)
    assert softmax.flops == 0
    assert (linear.nbytes, linear.flops) == (201_326_592, 2 * 4096**3)
    assert linear.roofline_us == pytest.approx(1676.1, abs=0.05)


def test_a_stage_has_the_figures_of_all_kernels() -> None:
    document = stage(*BLOCK).to_json()

    assert document | {
        "graph": "graphs/denoise.fp16.onnx", "tensorrt_rtx": "1.7.1", "kernels": 5,
        "kinds": {"runtime_fusion": 1, "kgen": 3, "gemm": 1}, "fused_attentions": 1, "softmaxes_outside": 1,
        "moved_mb": 206.4, "moved_by_kernels_that_compute_nothing_mb": 2.0, "gflop": 137.6, "roofline_ms": 1.68,
        "roofline_of_kernels_that_compute_ms": 1.68, "cache_read_by_copies_mb": 0.6, "build_s": 2.3, "plan_mb": 2.0,
    } == document  # fmt: skip


def test_products_are_counted_by_the_types_of_both_operands() -> None:
    both = layer_line("gemm_1", "gemm", [("a", (8, 16), "Int8")], [("c", (8, 4), "Float")],
                      constants=[("b", (16, 4), "Int8"), ("bias", (1, 4), "Half")])  # fmt: skip
    widened = layer_line("gemm_2", "gemm", [("a", (8, 16), "Half")], [("c", (8, 4), "Half")],
                         constants=[("b", (16, 4), "FP8")])  # fmt: skip
    hidden = layer_line("gemm_3", "gemm", [("a", (8, 16), "Half")], [("c", (8, 4), "Half")])

    document = stage(both, widened, hidden, MOVE).to_json()

    assert document["products"] == {"int8 x int8": 1, "fp16 x fp8": 1, "unknown x unknown": 1}
    assert document["products_in_8_bits"] == 1


def test_copies_of_the_cache_are_counted_by_tensor() -> None:
    copied = [
        layer_line(f"__myl_Move_myl0_{number}", "kgen", [(name, (4, 5), "Half")], [("b", (4, 5), "Half")])
        for number, name in enumerate(("past_k.0", "past_v.0", "past_k.0", "context_k.0"))
    ]

    document = stage(*copied).to_json()

    assert document["cache_copies"] == [
        {"tensor": "past_k.0", "copies": 2, "mb": 0.0},
        {"tensor": "past_v.0", "copies": 1, "mb": 0.0},
    ]
    assert document["most_copies_of_a_cached_tensor"] == 2


def test_a_kernel_is_in_the_block_of_its_nodes_or_of_its_neighbors() -> None:
    lines = [
        marked("k1", "a"),
        marked("k2"),
        marked("k3", "b", "c"),
        marked("k4"),
        marked("k5", "d", "e"),
        marked("k6"),
    ]

    found = stage(*lines, blocks={"a": OUTSIDE, "b": 0, "c": 0, "d": 0, "e": 1})

    assert [kernel.block for kernel in found.kernels] == [OUTSIDE, 0, 0, 0, 1, 1]
    assert describe_blocks(found.to_json()) == "0: 3, 1: 2, outside: 1"


def test_a_subgraph_of_the_compiler_is_in_no_block() -> None:
    opaque = layer_line("{ForeignNode[a...b]}", "Myelin", [("past_k.0", (4, 5), "Half")], [], nodes=["a"])

    found = stage(opaque, blocks={"a": 3})

    assert found.kernels[0].block == OUTSIDE
    assert found.to_json()["opaque_layers"] == 1


def test_the_first_and_the_last_block_are_shown_where_they_differ() -> None:
    same = [marked(f"k{number}", f"n{number}") for number in range(5)]
    blocks = {f"n{number}": number for number in range(5)}
    last = layer_line("k5", "gemm", [("a", (2, 2), "Half")], [("b", (4, 2), "Half")], nodes=["n4"])

    assert list(stage(*same, blocks=blocks).blocks_to_show) == [0]
    assert list(stage(*same, last, blocks=blocks).blocks_to_show) == [0, 4]
    assert list(stage(*same).blocks_to_show) == []


def test_blocks_of_an_unknown_graph_are_null() -> None:
    document: dict[str, Any] = stage(*BLOCK).to_json()

    assert (document["blocks"], document["outside_blocks"]) == (None, None)
    assert describe_blocks(document) == "–"


@pytest.mark.parametrize(
    ("index", "label"),
    [(0, "blocks.0.attn.qkv"), (1, "ReshTranConc"), (2, "gemm_mha_v2"), (4, "node_linear_6")],
)
def test_a_kernel_is_labeled_by_its_weight_or_its_operators(index: int, label: str) -> None:
    assert stage(*BLOCK).kernels[index].label == label


def test_quantized_weights_are_those_of_the_audit() -> None:
    audit = PlanAudit(2, {}, {}, quantized_weights=3, quantized_products=2, widened_weights=0)
    without, found = stage(MOVE), dataclasses.replace(stage(MOVE), audit=audit)

    rows = [dict((title, values) for title, *values in figure_rows(KernelReport("key", "", {"fill": one})))
            for one in (without, found)]  # fmt: skip
    assert "quantized weights multiplied in 8 bits" not in rows[0]
    assert rows[1]["quantized weights multiplied in 8 bits"] == ["2 of 3"]
    document = found.to_json()
    assert (document["quantized_weights"], document["quantized_weights_in_8_bits"]) == (3, 2)
