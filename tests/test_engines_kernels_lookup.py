"""Kernel reports of engines: found in a bundle, read, compared and judged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from kernel_logs import BLOCK, write_listed_engine

from vdmrt.bundle import FP16, FP32, Bundle, Machine, open_bundle
from vdmrt.engines.kernels.comparison import compare_reports, encode_differences
from vdmrt.engines.kernels.gates import judge_kernels
from vdmrt.engines.kernels.lookup import choose_engine, read_other
from vdmrt.engines.kernels.report import KernelReport, read_report
from vdmrt.errors import EngineError


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    return open_bundle(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def test_a_report_has_every_stage_of_the_engine(bundle: Bundle) -> None:
    report = read_report(write_listed_engine(bundle), bundle)

    assert report.title == "TensorRT for RTX 1.7.1, fp16"
    assert list(report.stages) == ["fill", "denoise", "vae_encode", "vae_decode"]
    denoise = report.to_json()["stages"]["denoise"]
    assert (denoise["graph"], denoise["kernels"]) == ("graphs/denoise.fp16.onnx", 5)
    assert denoise["cache_copies"] == [{"tensor": "past_k.0", "copies": 1, "mb": 0.614}]


def test_an_engine_outside_its_bundle_has_a_report_without_blocks(bundle: Bundle, tmp_path: Path) -> None:
    engine = write_listed_engine(bundle)
    alone = shutil.copytree(engine.path, tmp_path / "alone")

    assert read_other(engine.path, FP16)["stages"]["denoise"]["blocks"] is not None
    assert read_other(Path(alone), FP16)["stages"]["denoise"]["blocks"] is None


def test_an_engine_of_tensorrt_is_reported_under_its_name(bundle: Bundle) -> None:
    engine = write_listed_engine(bundle, backend="tensorrt", machine=Machine("10.3.0", "9.0", "H100"))

    assert read_report(engine, bundle).to_json()["stages"]["fill"]["tensorrt"] == "10.3.0"


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({}, "layers.json: fill: lists no readable layers; build the engine again with --force"),
        ({"fill": {"Layers": 4}}, "fill: lists no readable layers"),
        ({"fill": "no JSON"}, "fill: lists no readable layers"),
        ({"fill": {"Layers": ["a", "b"]}}, "fill: lists 2 layers without their tensors"),
    ],
)
def test_a_damaged_list_is_refused(layers: dict[str, Any], message: str, bundle: Bundle) -> None:
    engine = write_listed_engine(bundle, layers)

    with pytest.raises(EngineError, match=message):
        read_report(engine, bundle)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "layers.json: wanted .* bytes, found 1; the file is truncated or was altered: build the engine again"),
        (None, "layers.json: cannot be read: No such file or directory; build the engine again with --force"),
    ],
)
def test_a_damaged_file_is_refused(text: str | None, message: str, bundle: Bundle) -> None:
    engine = write_listed_engine(bundle)
    file = engine.path / "layers.json"
    file.unlink() if text is None else file.write_text(text)

    with pytest.raises(EngineError, match=message):
        read_report(engine, bundle)


def test_an_engine_of_onnxruntime_is_refused(bundle: Bundle) -> None:
    engine = write_listed_engine(bundle, backend="onnxruntime", machine=Machine(onnxruntime="1.32.0"))

    with pytest.raises(EngineError, match="an engine of ONNX Runtime lists no kernels; .*--backend tensorrt-rtx"):
        read_report(engine, bundle)


def test_the_newest_engine_with_a_list_is_chosen(bundle: Bundle) -> None:
    write_listed_engine(bundle, key="a", created="2026-01-01")
    write_listed_engine(bundle, key="b", created="2026-01-02")
    (write_listed_engine(bundle, key="c", created="2026-01-03").path / "layers.json").unlink()
    write_listed_engine(bundle, key="d", created="2026-01-04", precision=FP32)

    assert choose_engine(bundle, precision=FP16).manifest.key == "b"
    assert choose_engine(bundle).manifest.key == "d"
    assert choose_engine(bundle, "a").manifest.key == "a"


def test_a_bundle_without_such_an_engine_is_refused_with_the_command(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="has no engine that lists its kernels; build one with vdmrt build .*-rtx"):
        choose_engine(bundle)
    with pytest.raises(EngineError, match="has no fp16 engine that lists .* --precision fp16 --backend tensorrt-rtx"):
        choose_engine(bundle, precision=FP16)
    with pytest.raises(EngineError, match="has no engine 'x'; its engines: none"):
        choose_engine(bundle, "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "wanted a bundle, an engine's folder or a report .*, found nothing"),
        ("{", r"is no report in JSON \(.*\); make one with vdmrt inspect --kernels --json"),
        ("[]", "not a report: it has no stages"),
        ('{"stages": {"fill": 3}}', "not a report: it has no stages"),
    ],
)
def test_a_path_that_is_no_report_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "other"
    if content is not None:
        file.write_text(content)

    with pytest.raises(EngineError, match=message):
        read_other(file, FP16)


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="wanted a bundle, .* to compare with, found a folder without either's"):
        read_other(tmp_path, FP16)


def test_reports_are_compared_figure_by_figure(bundle: Bundle, tmp_path: Path) -> None:
    this = read_report(write_listed_engine(bundle), bundle).to_json()
    less = read_report(write_listed_engine(bundle, BLOCK[:4], key="less"), bundle).to_json()
    (tmp_path / "less.json").write_text(json.dumps(less))

    other = read_other(tmp_path / "less.json", FP16)
    compared = encode_differences(compare_reports(this, other))

    assert compared["denoise"]["kernels"] == {"this": 5, "other": 4, "difference": 1, "ratio": 1.25}
    assert compared["fill"]["products_in_8_bits"] == {"this": 0, "other": 0, "difference": 0, "ratio": None}


def test_reports_without_a_common_stage_are_refused() -> None:
    this = {"engine": "a", "stages": {"fill": {"kernels": 1}}}

    with pytest.raises(EngineError, match="b cannot be compared with a: wanted one of fill, it has prompt"):
        compare_reports(this, {"engine": "b", "stages": {"prompt": {"kernels": 1}}})


@pytest.mark.parametrize(("kernels", "mb", "passed"), [(5, 206.5, [True, True]), (4, 206.3, [False, False])])
def test_limits_are_for_the_larger_of_fill_and_denoise(
    kernels: int, mb: float, passed: list[bool], bundle: Bundle
) -> None:
    lists = json.loads((write_listed_engine(bundle).path / "layers.json").read_text())
    lists["fill"]["Layers"] = lists["fill"]["Layers"][:2]
    lists["vae_decode"]["Layers"] *= 3
    report = read_report(write_listed_engine(bundle, lists, key="uneven"), bundle)

    gates = judge_kernels(report, most_kernels=kernels, most_mb=mb)

    assert [gate.passed for gate in gates] == passed
    assert [gate.name for gate in gates] == ["kernels of denoise", "MB moved by denoise"]


def test_limits_need_a_stage_that_they_are_for() -> None:
    report = KernelReport("rtx-1", "TensorRT for RTX", {})

    assert judge_kernels(report) == ()
    with pytest.raises(EngineError, match="rtx-1: has neither fill nor denoise, which the limits are for"):
        judge_kernels(report, most_kernels=1)
