"""The stages of TensorRT for RTX against a stand-in of its module: plans judged, calls compared, contenders timed."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from vdmrt.benchmarks.gpu_day.carrying.inputs import record_call
from vdmrt.benchmarks.gpu_day.full_size.weights import describe_weights
from vdmrt.benchmarks.gpu_day.rtx.cases import find_cases, save_case
from vdmrt.benchmarks.gpu_day.running.settings import Settings
from vdmrt.benchmarks.gpu_day.running.stage import Result, Stage, run_stage
from vdmrt.benchmarks.gpu_day.stages import choose_stages
from vdmrt.export import ExportOptions, TransformerConfig, export_bundle, random_model

STAND_IN = Path(__file__).parent / "support" / "rtx_stand_in"
XL = TransformerConfig(latent_size=(4, 4), hidden_size=64, depth=2, heads=4, context="previous", context_frames=2)


@pytest.fixture(scope="module")
def cases(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one recorded call of the tiny model in FP16. Not to be changed."""
    folder = tmp_path_factory.mktemp("cases")
    record_call(tiny_bundle, "fp16", folder / "base" / "rtx")
    return folder


def run_rtx(stage: str, folder: Path, cases: Path, *, with_stand_in: bool = True) -> Result:
    """Run a stage of the day, rehearsing, with the stand-in in its interpreter."""
    python = [sys.executable]
    if with_stand_in:
        python = ["env", f"PYTHONPATH={STAND_IN}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", sys.executable]
    settings = Settings(
        device="cpu",
        rehearse=True,
        golden="",
        bundles="",
        xl=str(folder / "described"),
        kits=str(cases),
        work=str(folder / "work"),
        reference=None,
        interpreters={"main": [sys.executable], "rtx": python},
    )
    (chosen,) = choose_stages([stage])
    return run_stage(chosen, settings, 300, folder / "check.log", lambda found: None)


def test_a_recorded_call_is_run_compared_and_timed(cases: Path, tmp_path: Path) -> None:
    result = run_rtx("rtx-cases", tmp_path, cases)

    assert result.status == "held", result.why
    errors = {record["what"]: record["value"] for record in result.records if "relative L2" in record["what"]}
    assert len(errors) == 2 and max(errors.values()) < 1e-6
    assert any(record["what"].endswith("a denoising step") for record in result.records)


def test_another_result_misses_its_figure(cases: Path, tmp_path: Path) -> None:
    shutil.copytree(cases, tmp_path / "cases")
    (case,) = find_cases(tmp_path / "cases" / "base" / "rtx")
    outputs = {name: (value * 1.1).astype(value.dtype) for name, value in case.outputs.items()}
    save_case(tmp_path / "cases" / "base" / "rtx", case.name, str(case.graph), case.inputs, outputs)

    result = run_rtx("rtx-cases", tmp_path, tmp_path / "cases")

    assert result.status == "missed"
    assert any(record["value"] == pytest.approx(0.0909, abs=1e-3) for record in result.records if "held" in record)


def test_a_refusal_is_recorded_with_the_sentence_and_the_code(cases: Path, tmp_path: Path) -> None:
    shutil.copytree(cases, tmp_path / "cases")
    (case,) = find_cases(tmp_path / "cases" / "base" / "rtx")
    (tmp_path / "cases" / "base" / "rtx" / case.name / "any.plan").write_bytes(b"refused")
    (tmp_path / "cases" / "base" / "rtx" / case.name / "SM89.plan").write_bytes(str(case.graph).encode())

    result = run_rtx("rtx-verdict", tmp_path, tmp_path / "cases")

    assert result.status == "held", result.why
    verdicts = [record for record in result.records if "verdict" in record]
    assert [record["verdict"] for record in verdicts] == ["runs", "refused"]
    assert verdicts[1]["said"] == "Error Code 9: this GPU's architecture is not supported"
    assert {record.get("validity") for record in result.records} >= {"VALID", "INVALID"}


def test_without_the_module_the_stages_are_missing(cases: Path, tmp_path: Path) -> None:
    result = run_rtx("rtx-verdict", tmp_path, cases, with_stand_in=False)

    assert result.status == "missing"
    assert "TensorRT for RTX does not import: No module named 'tensorrt_rtx'" in result.why


def test_the_full_size_is_built_here_and_takes_turns_with_torch(cases: Path, tmp_path: Path) -> None:
    model = random_model(XL, 0)
    options = ExportOptions(precisions=("fp16",), chunk_frames=2, slots=5, max_steps=6, prediction="v")
    bundle = export_bundle(model, tmp_path / "whole", options, name="XL/2", random_weights=True)
    parameters = {name: parameter.numpy() for name, parameter in model.named_parameters()}
    describe_weights(bundle, XL, parameters, tmp_path / "described" / "xl-28")

    results = [run_rtx(stage, tmp_path, cases) for stage in ("rtx-build-28", "xl-28")]

    assert [result.status for result in results] == ["held", "held"], [result.why for result in results]
    figures = {record["what"]: record for record in results[1].records}
    assert figures["depth 28, rtx against torch, relative L2 after a step"]["held"]
    assert "depth 28, TensorRT for RTX, a denoising step" in figures
    assert "depth 28, a denoising step at the ceilings" in figures


def test_every_stage_names_a_function_that_is_there() -> None:
    import importlib

    for stage in choose_stages(None):
        assert isinstance(stage, Stage)
        module, _, function = stage.run.partition(":")
        assert callable(getattr(importlib.import_module(f"vdmrt.benchmarks.gpu_day.{module}"), function))
