"""Timing of INT8 against floating point, and refusal of precisions that are not faster."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from calibrated import calibrate_copy, tiny_latents
from click.testing import CliRunner

from vdmrt.bundle import FP32, Bundle, Precision, Speed, describe_speed, open_bundle, read_measured, record_measured
from vdmrt.calibration.calibrating import CalibrationRequest, calibrate
from vdmrt.calibration.choose.speed import Judge, measure_speed, timed_against
from vdmrt.cli import main
from vdmrt.errors import NotFasterError
from vdmrt.media.generation import Request, generate

SLOW = Speed(Precision.parse("int8"), FP32, "ONNX Runtime 1.32.0, CPU provider, 1 thread", 0.8, 0.7, 0.9, 15, False, "")
FAST = dataclasses.replace(SLOW, ratio=1.5, low=1.4, high=1.6)


@pytest.fixture(scope="module")
def calibrated(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("timed")
    calibrate_copy(tiny_bundle, folder)
    return folder / "bundle"


def recorded(bundle: Path, target: Path, speed: Speed) -> Path:
    """Write a speed of the bundle's own graphs into a copy's model.json."""
    copied = open_bundle(Path(shutil.copytree(bundle, target)))
    own = dataclasses.replace(speed, graphs_sha256=copied.manifest.graphs_sha256(speed.precision))
    record_measured(copied, speeds=[own])
    return target


def test_precisions_that_run_in_int8_on_a_cpu_are_timed_and_recorded(calibrated: Path) -> None:
    found = measure_speed(open_bundle(calibrated), (Precision.parse("int8"), Precision.parse("int8-fp16")), threads=1)

    assert [(one.precision, one.against, one.pairs) for one in found] == [(Precision.parse("int8"), FP32, 15)]
    assert 0 < found[0].low <= found[0].ratio <= found[0].high
    assert found[0].graphs_sha256 == open_bundle(calibrated).manifest.graphs_sha256(Precision.parse("int8"))


def test_changed_graphs_have_no_recorded_speed(calibrated: Path, tmp_path: Path) -> None:
    bundle = open_bundle(recorded(calibrated, tmp_path / "copy", FAST))
    assert read_measured(bundle).speeds != ()
    record_measured(bundle, speeds=[dataclasses.replace(FAST, graphs_sha256="0")])

    assert read_measured(bundle).speeds == ()
    assert timed_against(bundle, Precision.parse("int8-fp16")) is None


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (1.1, 1.6, "int8 is faster than fp32: 1.18 times as fast (99 % interval 1.10 to 1.60)"),
        (0.89, 1.57, "int8 is not shown to be faster than fp32: 1.18 times as fast (99 % interval 0.89 to 1.57)"),
        (0.7, 0.9, "int8 is slower than fp32: 1.18 times as fast (99 % interval 0.70 to 0.90)"),
    ],
)
def test_the_description_follows_from_the_interval(low: float, high: float, told: str) -> None:
    assert describe_speed(Precision.parse("int8"), FP32, 1.18, low, high) == told


def test_only_a_whole_interval_above_1_is_faster() -> None:
    assert FAST.faster and not SLOW.faster
    assert not dataclasses.replace(FAST, low=0.99).faster


def test_run_and_inspect_report_a_slower_precision(
    calibrated: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = recorded(calibrated, tmp_path / "copy", SLOW)
    frames = np.zeros((4, 4, 4, 6), np.float32)

    with caplog.at_level(logging.WARNING, "vdmrt"):
        generate(Request(bundle, tmp_path / "out.npy", frames=frames, chunks=1, precision=Precision.parse("int8")))
    shown = CliRunner().invoke(main, ["inspect", str(bundle)])

    told = "int8 is slower than fp32: 0.80 times as fast (99 % interval 0.70 to 0.90), 15 pairs of denoising steps"
    assert told in caplog.text
    assert told in shown.stdout


def test_a_precision_that_is_not_shown_to_be_faster_is_not_added(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    before = (bundle / "model.json").read_bytes()
    command = ["calibrate", str(bundle), "--data", str(tiny_latents(tmp_path)), "--samples", "3", "--threads", "1"]

    result = CliRunner().invoke(main, [*command, "--json"])
    accepted = CliRunner().invoke(main, [*command, "--json", "--accept-slower"])

    # The outcome depends on the machine; status and bundle must follow from the measurement.
    speed = json.loads(result.stdout)["speeds"][0]
    if speed["low"] > 1:
        assert result.exit_code == 0
    else:
        assert result.exit_code == 3
        assert (
            f"{bundle} was not changed" in result.stderr and "repeat the command with --accept-slower" in result.stderr
        )
        assert json.loads(result.stdout)["precisions"] == []
    assert (accepted.exit_code, json.loads(accepted.stdout)["speeds"][0]["accepted"]) == (0, True)
    assert len(read_measured(open_bundle(bundle)).speeds) == 1
    assert (bundle / "model.json").read_bytes() != before


def test_a_refusal_leaves_the_bundle_unchanged_and_keeps_the_statistics(tiny_bundle: Path, tmp_path: Path) -> None:
    class Refusing(Judge):
        def measure(self, bundle: Bundle, precisions: Sequence[Precision], target: Path) -> tuple[Speed, ...]:
            assert bundle.path != target and set(precisions) <= set(bundle.manifest.graphs)
            return self.decide([SLOW], precisions, target)

    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    before = (bundle / "model.json").read_bytes()
    request = CalibrationRequest(bundle, tiny_latents(tmp_path), samples=3, threads=1)

    with pytest.raises(NotFasterError, match=r"slower than fp32: 0\.80 .*bundle was not changed\. .* --accept-slower"):
        calibrate(request, judge=Refusing())

    assert (bundle / "model.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert len(list((bundle / "calibration").glob("observation-*.npz"))) == 1


def test_a_slower_precision_is_added_with_accept_slower() -> None:
    assert Judge(accept_slower=True).decide([SLOW], (Precision.parse("int8"),), Path("bundle")) == (SLOW,)
    assert Judge().decide([FAST], (Precision.parse("int8"),), Path("bundle")) == (FAST,)


def test_calibrating_again_removes_the_recorded_speed(calibrated: Path, tmp_path: Path) -> None:
    recorded(calibrated, tmp_path / "bundle", FAST)

    calibrate_copy(tmp_path / "bundle", tmp_path, method="max")

    assert read_measured(open_bundle(tmp_path / "bundle")).speeds == ()
