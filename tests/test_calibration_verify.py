"""The accuracy gate: metrics, curves, gates, the report, and the commands."""

from __future__ import annotations

import dataclasses
import gc
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from calibrated import calibrate_copy
from click.testing import CliRunner
from fake_cuda import FakeCuda
from host_function_backend import HostFunctionBackend

from vdmrt.bundle import FP16, FP32, Precision, open_bundle, read_measured, record_measured
from vdmrt.calibration.gates import Gate, parse_gate, select_gates
from vdmrt.calibration.verify.comparison import drift
from vdmrt.calibration.verify.metrics import (
    compare_latents,
    compare_pictures,
    psnr,
    ssim,
)
from vdmrt.calibration.verify.request import VerifyRequest
from vdmrt.calibration.verify.verification import verify
from vdmrt.cli import main
from vdmrt.engines import build_models
from vdmrt.errors import CalibrationError
from vdmrt.runtime import Model


@pytest.fixture(scope="module")
def calibrated(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verified")
    calibrate_copy(tiny_bundle, folder, kv="int8")
    calibrate_copy(tiny_bundle, folder, precision="none", kv="fp8")
    return folder / "bundle"


def quick(bundle: Path, precision: str = "int8-kv8", **options: object) -> VerifyRequest:
    given = {"chunks": 4, "seeds": 2, "threads": 1, **options}
    return VerifyRequest(bundle=bundle, precision=Precision.parse(precision), **given)  # type: ignore[arg-type]


def test_a_result_is_written_into_the_bundle_and_printed(calibrated: Path) -> None:
    verdict = verify(quick(calibrated, gates={"teacher-psnr": 20.0, "drift": 10.0}))

    (accuracy,) = read_measured(open_bundle(calibrated)).accuracy

    assert accuracy == verdict.accuracy
    assert accuracy.passed
    assert len(verdict.comparison.free["psnr"]) == len(verdict.comparison.teacher["cosine"]) == 4
    assert "every gate held" in verdict.describe()
    assert 20 < accuracy.figures["free-psnr"] < 100
    assert 0 < accuracy.figures["cache-relative-l2"] < 0.1


def test_the_deployed_engine_is_measured(tiny_bundle: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    engine = build_models(open_bundle(path), precision=FP32, progress=list[str]().append)

    with pytest.raises(ValueError, match="are the same graphs, so there is nothing to compare"):
        verify(quick(path, precision="fp32", use_engine=False))
    accuracy = verify(quick(path, precision="fp32", chunks=2, seeds=1)).accuracy

    assert accuracy.backend.endswith(f", engine {engine.manifest.key}")
    assert 100 < accuracy.figures["teacher-psnr"] and accuracy.figures["cache-relative-l2"] < 1e-5
    assert f"run by {accuracy.backend}" in read_measured(open_bundle(path)).accuracy[-1].describe()


def test_a_loaded_model_of_any_backend_and_device_is_measured(calibrated: Path, fake_cuda: FakeCuda) -> None:
    """The same computation on another device equals the reference bit for bit when teacher-forced."""
    with Model(open_bundle(calibrated), HostFunctionBackend(), FP32) as model:
        verdict = verify(quick(calibrated, "fp32", chunks=4, seeds=1), model=model)
        assert model.program("fill") is not None  # it stays open
    gc.collect()  # the test double's calls and functions reference each other

    figures = verdict.accuracy.figures
    assert (verdict.accuracy.precision, verdict.accuracy.backend) == (FP32, model.describe())
    assert (figures["teacher-psnr"], figures["cache-relative-l2"]) == (150.0, 0.0)


def test_an_fp8_cache_is_measured_too(calibrated: Path) -> None:
    verdict = verify(quick(calibrated, precision="fp32-kvf8", gates={"teacher-psnr": 20.0}))

    assert not verdict.missed
    # E4M3's three bits of mantissa: relative errors of a sixteenth at most, a few percent in the mean.
    assert 0.005 < verdict.accuracy.figures["cache-relative-l2"] < 0.05


def test_comparing_graphs_with_themselves_is_refused(calibrated: Path) -> None:
    wanted = "--precision fp32 and --against fp32 are the same graphs, .*: the bundle has fp32, fp16, int8-kv8"

    with pytest.raises(ValueError, match=wanted):
        verify(quick(calibrated, precision="fp32"))
    result = CliRunner().invoke(main, ["verify", str(calibrated), "--precision", "fp32", "--against", str(calibrated)])

    assert (result.exit_code, result.stdout) == (2, "")


def test_drift_is_judged_relative_to_fp16_where_a_gate_requests_it(calibrated: Path) -> None:
    quantized = verify(quick(calibrated, gates={"drift-over-fp16": 1.15}))
    half = verify(quick(calibrated, precision="fp16"))

    figures = quantized.accuracy.figures
    assert [(one.figure, one.limit) for one in quantized.gates] == [("drift-over-fp16", "at most 1.15")]
    assert figures["drift-over-fp16"] == pytest.approx(figures["drift"] / half.accuracy.figures["drift"])
    with pytest.raises(CalibrationError, match="'drift-over-fp16' is not a figure of this comparison"):
        verify(quick(calibrated, precision="fp16", gates={"drift-over-fp16": 1.15}))


def test_every_gated_figure_is_printed_with_its_limit(calibrated: Path) -> None:
    verdict = verify(quick(calibrated, chunks=2, seeds=1, gates={"teacher-psnr": 20.0, "drift": 0.001}))

    told, _, others = verdict.describe().partition("without a limit")
    judged = json.loads(verdict.to_json())["gates"]
    assert re.search(r"teacher-psnr +[\d.]+ +at least 20 +passed\ndrift +[\d.]+ +at most 0.001 +FAILED", told)
    assert "teacher-drift" in others and "teacher-psnr" not in others and "1 of 2 gates missed" in others
    assert [(one["figure"], one["limit"], one["passed"]) for one in judged] == [
        ("teacher-psnr", "at least 20", True),
        ("drift", "at most 0.001", False),
    ]


def test_progress_counts_the_steps_of_the_reference_and_the_precision(calibrated: Path) -> None:
    seen: list[tuple[int, int]] = []

    @contextmanager
    def show(title: str) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, total: seen.append((done, total))

    verify(quick(calibrated, chunks=2, seeds=1, steps=3), show=show)

    # The reference and the precision, two chunks of three steps each.
    assert seen == [(done, 12) for done in range(1, 13)]


def test_teacher_forced_and_free_running_agree_on_an_empty_cache(calibrated: Path) -> None:
    verdict = verify(quick(calibrated, precision="fp16", seeds=1))

    free, teacher = verdict.comparison.free["rmse"], verdict.comparison.teacher["rmse"]

    assert teacher[0] == pytest.approx(free[0], rel=0.5)
    assert max(teacher) < 5 * min(teacher)


def test_the_command_exits_with_3_and_writes_a_page(calibrated: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    options = ["--precision", "int8-kv8", "--chunks", "2", "--seeds", "1", "--threads", "1", "--json"]

    result = CliRunner().invoke(
        main, ["verify", str(calibrated), *options, "--gate", "teacher-psnr=149", "--report", str(page)]
    )

    told = json.loads(result.stdout)
    assert (result.exit_code, told["accuracy"]["passed"], len(told["curves"]["free"]["psnr"])) == (3, False, 2)
    text = page.read_text()
    assert text.count("<svg") == 7
    assert "FAIL: 1 of 1 limit missed" in text and "at least 149 dB" in text
    assert text.count("data:image/png;base64,") == 3 and "http" not in text


def test_run_warns_of_a_precision_that_missed_its_gate(
    calibrated: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from vdmrt.media.generation import Request, generate

    verify(quick(calibrated, chunks=1, seeds=1, gates={"teacher-psnr": 149.0}))
    request = Request(
        calibrated,
        tmp_path / "out.npy",
        frames=np.zeros((4, 4, 4, 6), np.float32),
        chunks=1,
        precision=Precision.parse("int8-kv8"),
    )

    with caplog.at_level(logging.WARNING, "vdmrt"):
        generate(request)

    assert "A GATE WAS MISSED" in caplog.text


def test_results_of_other_graphs_are_ignored(calibrated: Path) -> None:
    verify(quick(calibrated, precision="fp16", chunks=1, seeds=1))
    bundle = open_bundle(calibrated)
    (found,) = (one for one in read_measured(bundle).accuracy if one.precision == FP16)

    record_measured(bundle, accuracy=[dataclasses.replace(found, graphs_sha256="0")])

    assert FP16 not in {one.precision for one in read_measured(bundle).accuracy}


def test_bundles_of_other_models_are_not_compared(calibrated: Path, text_bundle: Path) -> None:
    with pytest.raises(CalibrationError, match="of different models: tokens_per_frame 4 and 6, latent_width 4 and 6"):
        verify(quick(calibrated, against=str(text_bundle), chunks=1))


def test_a_gate_on_an_unknown_figure_is_refused_by_name(calibrated: Path) -> None:
    with pytest.raises(CalibrationError, match="'beauty' is not a figure of this comparison; it has free-psnr"):
        verify(quick(calibrated, chunks=1, seeds=1, gates={"beauty": 1.0}))
    with pytest.raises(ValueError, match="must be FIGURE=NUMBER"):
        parse_gate("psnr")
    assert parse_gate("drift=1.5") == Gate("drift", 1.5)


def test_drift_has_no_default_limit_in_a_short_rollout(caplog: pytest.LogCaptureFixture) -> None:
    figures = ("teacher-psnr", "teacher-drift")

    assert [gate.figure for gate in select_gates(None, figures, 11)] == ["teacher-psnr", "teacher-drift"]
    assert [gate.figure for gate in select_gates(None, figures, 10)] == ["teacher-psnr"]
    assert "drift is not judged in 10 chunks: it needs 11 or more" in caplog.text
    assert select_gates({"teacher-drift": 2.0}, figures, 3) == [Gate("teacher-drift", 2.0)]


def test_gates_on_errors_are_upper_bounds_and_nan_fails_every_gate() -> None:
    assert Gate("drift", 1.25).holds(1.2) and not Gate("drift", 1.25).holds(1.3)
    assert Gate("free-psnr", 30).holds(31) and not Gate("free-psnr", 30).holds(29)
    assert not Gate("drift", 1.25).holds(float("nan")) and not Gate("free-psnr", 1).holds(float("nan"))


def test_drift_compares_the_last_half_with_steps_4_to_10() -> None:
    errors = [9.0, 9.0, 9.0, *[1.0] * 7, *[2.0] * 10]

    assert drift(errors) == 2.0


def test_metrics_of_known_errors() -> None:
    wanted = np.array([3.0, 4.0])

    found = compare_latents(wanted + [0.5, 0.0], wanted, peak=10.0)

    assert found["relative_l2"] == pytest.approx(0.1)
    assert found["max_error"] == 0.5
    assert found["psnr"] == pytest.approx(10 * np.log10(100 / 0.125))
    assert psnr(wanted, wanted, 1.0) == 150.0


def test_ssim_is_1_for_the_same_and_falls_with_noise() -> None:
    drawn = np.random.default_rng(0)
    picture = np.clip(np.cumsum(drawn.standard_normal((32, 32)), 1) * 10 + 128, 0, 255)
    noisy = picture + drawn.standard_normal((32, 32)) * 40

    assert ssim(picture, picture) == pytest.approx(1.0)
    assert ssim(noisy, picture) < 0.8
    clip = np.stack([picture] * 3, -1).astype(np.uint8)[None]
    assert compare_pictures(clip, clip)["picture_ssim"] == pytest.approx(1.0)
