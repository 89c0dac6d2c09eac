"""The page of a kernel report, without a browser."""

from __future__ import annotations

import re

import pytest
from kernel_logs import BLOCK, layer_line

from vdmrt.engines import read_layers
from vdmrt.engines.kernels.comparison import Difference
from vdmrt.engines.kernels.gates import judge_kernels
from vdmrt.engines.kernels.html import render_kernels
from vdmrt.engines.kernels.kernel import make_kernels
from vdmrt.engines.kernels.report import KernelReport
from vdmrt.engines.kernels.stage import StageReport
from vdmrt.engines.tensorrt.rtx.build_log import inspection_of


@pytest.fixture
def report() -> KernelReport:
    """Return a report of one block, whose first kernel has markup in its name."""
    named = layer_line("<script>x</script>", "kgen", [("a", (2,), "Half")], [("b", (2,), "Half")], nodes=["n"])
    kernels = make_kernels(read_layers(inspection_of([named, *BLOCK])), {"n": 0}, {"past_k.0"})
    stage = StageReport("denoise.onnx", "tensorrt_rtx", "1.7.1", kernels, True, 1.0, 1000)
    return KernelReport("rtx-<1>", "TensorRT for RTX 1.7.1, fp16", {"denoise": stage})


def test_the_page_shows_a_block_and_is_self_contained(report: KernelReport) -> None:
    page = render_kernels(report)

    for text in (
        "denoise, block 0: 6 kernels",
        "Bytes moved by denoise, block 0",
        "fused attention",
        "blocks.0.attn.qkv",
    ):
        assert text in page
    assert page.count('<rect class="mark') == 6
    assert not re.search(r"(?:src|href)=\"(?!data:,)|url\(|@import|https?://", page)


def test_the_page_says_that_a_roofline_is_no_measurement(report: KernelReport) -> None:
    assert "arithmetic on the compiled plan, not a measurement" in render_kernels(report)


def test_names_of_kernels_are_escaped(report: KernelReport) -> None:
    page = render_kernels(report)

    assert "<script>x" not in page and "rtx-<1>" not in page
    assert "&lt;script&gt;x" in page


def test_limits_and_a_comparison_have_sections(report: KernelReport) -> None:
    page = render_kernels(
        report,
        judge_kernels(report, most_kernels=5),
        against="rtx-0",
        differences=[Difference("denoise", "kernels", 6, 8)],
    )

    assert "FAIL: 1 of 1 limit missed" in page
    assert "Against rtx-0" in page and "0.750" in page
