"""The page of a profile, without a browser; test_profiler_browser.py opens it in one."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from vdmrt.profiler import Report, Settings, profile
from vdmrt.profiler.analysis.gates import judge_gates
from vdmrt.profiler.analysis.statistics import Interval
from vdmrt.profiler.report.html import render_html
from vdmrt.profiler.report.report import Comparison, Ratio
from vdmrt.profiler.report.text import describe_comparison


@pytest.fixture(scope="module")
def report(tiny_bundle: Path) -> Report:
    """Return a profile with layers."""
    return profile(Settings(tiny_bundle, sampler="ddim", steps=2, chunks=4, warmup=0, layers=True, roofline=False))


def test_the_page_contains_every_section_and_is_self_contained(report: Report) -> None:
    page = render_html(report)

    for title in ("Where the time of a chunk goes", "autoregressive steps", "Time between chunks", "Two chunks",
                  "Stages", "Layers", "Transformer blocks and operators", "Environment"):  # fmt: skip
        assert title in page
    assert not re.search(r"(?:src|href)=\"(?!data:,)|url\(|@import|https?://", page)


def test_text_of_a_bundle_is_escaped(report: Report) -> None:
    named = dataclasses.replace(report.workload, name="<script>alert(1)</script>", bundle='"><u>')

    page = render_html(dataclasses.replace(report, workload=named, warnings=("<i>",)))

    assert "<script>alert" not in page and '"><u>' not in page and "<i>" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_every_node_has_its_block_and_shares_sum_to_1(report: Report) -> None:
    for stage in ("denoise", "fill"):
        layers = [layer for layer in report.layers if layer.stage == stage]
        assert {layer.block for layer in layers} == {-1, 0, 1}
        assert sum(layer.share for layer in layers) == pytest.approx(1.0)
        products = [layer.block for layer in layers if layer.operator in ("Gemm", "MatMul", "FusedMatMul")]
        # The same products in both blocks, plus one for the mask channel in the first; a fill's last block stops early.
        assert products.count(0) == pytest.approx(products.count(1), abs=1) or stage == "fill"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.05, 1.12, "the other is slower: the other takes 1.050 to 1.120 times as long (99 % interval)"),
        (0.85, 0.95, "the other is faster: the other takes 0.850 to 0.950 times as long (99 % interval)"),
        (0.89, 1.57, "no difference shown: the other takes 0.890 to 1.570 times as long (99 % interval)"),
    ],
)
def test_the_verdict_of_a_comparison_follows_from_its_interval(
    low: float, high: float, verdict: str, report: Report
) -> None:
    interval = Interval(low, high, 0.99)
    ratio = Ratio("denoising step", 10.0, 11.0, (low + high) / 2, interval, 1.0 not in interval)
    compared = Comparison("fp16", 16, (ratio,), 8)

    assert verdict in describe_comparison(compared)[1]
    assert verdict in render_html(dataclasses.replace(report, comparison=compared))


def test_gates_are_the_verdict_and_a_table(report: Report) -> None:
    page = render_html(report, judge_gates(report, fail_above=1e-3, fail_below=1e-3))

    assert page.index("FAIL: 1 of 2 limits missed") < page.index('id="figures"') < page.index("<svg")
    assert "at most 0.001 ms" in page and "✗ fail" in page and "✓ pass" in page


@pytest.mark.parametrize(
    ("share", "headline"),
    [(2.0, "Keeps up with"), (1.0, "Not shown to keep up with"), (0.5, "Does not keep up with")],
)
def test_without_gates_the_target_rate_is_the_verdict(share: float, headline: str, report: Report) -> None:
    arrival = dataclasses.replace(report.stages["arrival"], interval=Interval(90.0, 110.0, 0.99))
    fps = report.workload.chunk_frames / (share * 0.1)  # playing time of a chunk, in units of 100 ms
    rate = dataclasses.replace(report.rate, target_fps=fps, real_time_factor=1 / share, attainment=1.0, stall_ms=0.0)

    page = render_html(dataclasses.replace(report, stages={**report.stages, "arrival": arrival}, rate=rate))

    assert f"{headline} {fps:g} frames/s" in page
