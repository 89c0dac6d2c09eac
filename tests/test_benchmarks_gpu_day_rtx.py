"""The stages of TensorRT for RTX against a stand-in of its module: plans judged, calls compared, contenders timed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from onnx_plans import plan_of_file
from tensorrt_recorder import RTX, Recorder

from vdmrt.benchmarks.gpu_day.carrying.inputs import record_call
from vdmrt.benchmarks.gpu_day.full_size.weights import describe_weights
from vdmrt.benchmarks.gpu_day.rtx.cases import find_cases, save_case
from vdmrt.benchmarks.gpu_day.running.settings import Settings
from vdmrt.benchmarks.gpu_day.running.stage import Result, Stage, run_stage
from vdmrt.benchmarks.gpu_day.stages import choose_stages
from vdmrt.bundle import FP16
from vdmrt.export import ExportOptions, TransformerConfig, export_bundle, random_model

STAND_IN = Path(__file__).parent / "support" / "rtx_stand_in"
BUILDS_NOTHING = "RTX_STAND_IN_BUILDS_NOTHING=1"
XL = TransformerConfig(latent_size=(4, 4), hidden_size=64, depth=2, heads=4, context="previous", context_frames=2)

# Loads a contender as its process does, and times two steps.
TIME_ALONE = """
import json, sys
from vdmrt.benchmarks.gpu_day.full_size.steps import make_steps
from vdmrt.benchmarks.gpu_day.running.settings import Settings

steps, _ = make_steps(Settings.from_json(sys.argv[1]), json.loads(sys.argv[2]))
print(json.dumps([len(steps.time("TensorRT for RTX", 2)["ms"]), steps.ready()["fill"]]))
"""


@pytest.fixture(scope="module")
def cases(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one recorded call of the tiny model in FP16. Not to be changed."""
    folder = tmp_path_factory.mktemp("cases")
    record_call(tiny_bundle, "fp16", folder / "base" / "rtx")
    return folder


@pytest.fixture(scope="module")
def full_size(cases: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A folder with a small model in the place of XL/2 and its plans, and how the stage ended that built them."""
    folder = tmp_path_factory.mktemp("full-size")
    model = random_model(XL, 0)
    options = ExportOptions(precisions=(FP16,), chunk_frames=2, slots=5, max_steps=6, prediction="v")
    bundle = export_bundle(model, folder / "whole", options, name="XL/2", random_weights=True)
    parameters = {name: parameter.numpy() for name, parameter in model.named_parameters()}
    describe_weights(bundle, XL, parameters, folder / "described" / "xl-28")
    return folder, run_rtx("rtx-build-28", folder, cases)


def run_rtx(
    stage: str, folder: Path, cases: Path, *, modules: Path = STAND_IN, variables: Sequence[str] = ()
) -> Result:
    """Run a stage of the day, rehearsing, with the stand-in in its interpreter or other modules instead."""
    settings = settings_of(folder, cases, modules=modules, variables=variables)
    (chosen,) = choose_stages([stage])
    return run_stage(chosen, settings, 300, folder / "check.log", lambda found: None)


def settings_of(folder: Path, cases: Path, *, modules: Path = STAND_IN, variables: Sequence[str] = ()) -> Settings:
    """Return settings of a rehearsal; ``variables`` are set for the interpreter that finds the modules of a folder."""
    path = f"PYTHONPATH={modules}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    python = ["env", path, *variables, sys.executable]
    return Settings(
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
    folder, recorder = tmp_path / "cases" / "base" / "rtx" / case.name, Recorder(RTX)
    (folder / "any.plan").write_bytes(plan_of_file(recorder, case.graph, targets=["12.0"]))
    (folder / "SM89.plan").write_bytes(plan_of_file(recorder, case.graph, targets=["8.9"]))

    result = run_rtx("rtx-verdict", tmp_path, tmp_path / "cases")

    assert result.status == "held", result.why
    verdicts = [record for record in result.records if "verdict" in record]
    assert [record["verdict"] for record in verdicts] == ["runs", "refused"]
    assert "does not support this GPU's compute capability, 8.9" in verdicts[1]["said"]
    assert verdicts[1]["logged"] == [verdicts[1]["said"]]
    assert {record.get("validity") for record in result.records} >= {"VALID", "INVALID"}


def test_a_builder_that_refuses_is_a_verdict_and_comes_after_the_carried_plans(cases: Path, tmp_path: Path) -> None:
    shutil.copytree(cases, tmp_path / "cases")
    folder = tmp_path / "cases" / "base" / "rtx"
    (case,) = find_cases(folder)
    shutil.copytree(folder / case.name, folder / "sky-fp16")
    (folder / case.name / "SM89.plan").write_bytes(plan_of_file(Recorder(RTX), case.graph))

    result = run_rtx("rtx-verdict", tmp_path, tmp_path / "cases", variables=[BUILDS_NOTHING])

    assert result.status == "held", result.why
    runs, refused = (record for record in result.records if "verdict" in record)
    assert (runs["verdict"], refused["verdict"]) == ("runs", "refused")
    assert "factory function returned nullptr" in refused["said"]
    assert refused["logged"] == ["Error Code 9: this GPU's architecture is not supported"]


def test_a_plan_that_the_verdict_built_is_used_again(cases: Path, tmp_path: Path) -> None:
    assert run_rtx("rtx-verdict", tmp_path, cases).status == "held"

    result = run_rtx("rtx-cases", tmp_path, cases, variables=[BUILDS_NOTHING])

    assert result.status == "held", result.why
    assert any(record["what"].endswith("a denoising step") for record in result.records)


def test_a_target_that_is_refused_ends_before_the_file_is_read(tmp_path: Path) -> None:
    script = "from vdmrt.benchmarks.gpu_day.rtx.module import import_rtx; import_rtx().build('no file', ['SM80'])"
    python = settings_of(tmp_path, tmp_path).interpreters["rtx"]

    done = subprocess.run([*python, "-c", script], capture_output=True, text=True, check=False)

    assert "SM80 is refused as a target" in done.stderr


def test_without_the_module_the_stages_are_missing(cases: Path, tmp_path: Path) -> None:
    for name in ("tensorrt_rtx", "tensorrt_rtx_bindings"):  # in front of an installed one
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError(\"No module named '{name}'\")\n")

    result = run_rtx("rtx-verdict", tmp_path, cases, modules=tmp_path)

    assert result.status == "missing"
    assert "TensorRT for RTX does not import: No module named 'tensorrt_rtx'" in result.why


def test_the_full_size_is_built_here_and_takes_turns_with_torch(full_size: tuple[Path, Result], cases: Path) -> None:
    folder, built = full_size

    result = run_rtx("xl-28", folder, cases)

    assert [built.status, result.status] == ["held", "held"], [built.why, result.why]
    figures = {record["what"]: record for record in result.records}
    assert figures["depth 28, rtx against torch, relative L2 after a step"]["held"]
    assert {f"depth 28, TensorRT for RTX, {turn}" for turn in ("warming up", "round 1", "a denoising step")} <= set(
        figures
    )
    assert "depth 28, a denoising step at the ceilings" in figures
    assert not any("without a cache" in what for what in figures)


def test_the_denoise_plan_is_timed_without_the_fill_plan(
    full_size: tuple[Path, Result], cases: Path, tmp_path: Path
) -> None:
    folder, _ = full_size
    shutil.copytree(folder / "work", tmp_path / "work")
    (tmp_path / "work" / "xl-28-fill.rtx.plan").unlink()
    latents = tmp_path / "latents.npy"
    arguments = {"kind": "rtx", "folder": str(folder / "work" / "xl-28"), "depth": 28, "latents": str(latents)}
    settings = settings_of(tmp_path, cases)
    command = [*settings.interpreters["rtx"], "-c", TIME_ALONE, settings.to_json(), json.dumps(arguments)]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    count, note = json.loads(done.stdout.splitlines()[-1])
    assert count == 2 and "run the stage that builds it" in note
    assert not latents.exists()


def test_every_stage_names_a_function_that_is_there() -> None:
    import importlib

    for stage in choose_stages(None):
        assert isinstance(stage, Stage)
        module, _, function = stage.run.partition(":")
        assert callable(getattr(importlib.import_module(f"vdmrt.benchmarks.gpu_day.{module}"), function))
