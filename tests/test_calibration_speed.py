"""INT8 is timed against floating point, and what is not faster says so."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from calibrated import calibrate_copy
from click.testing import CliRunner

from vdmrt.bundle import Speed, open_bundle, rewrite_manifest
from vdmrt.calibration.speed import explain_slowness, measure_speed, timed_against
from vdmrt.cli import main
from vdmrt.runtime.generation import Request, generate

SLOW = Speed("int8", "fp32", "ONNX Runtime 1.32.0, CPU provider, 1 threads", 0.8, 0.7, 0.9, 15, False, "")
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
    rewrite_manifest(copied, dataclasses.replace(copied.manifest, speeds=(own,)))
    return target


def test_what_runs_in_int8_on_a_cpu_is_timed_and_recorded(calibrated: Path) -> None:
    found = measure_speed(calibrated, ("int8", "int8-fp16"), threads=1)

    assert [(one.precision, one.against, one.pairs) for one in found] == [("int8", "fp32", 15)]
    assert 0 < found[0].low <= found[0].ratio <= found[0].high
    assert open_bundle(calibrated).manifest.speed_of("int8") == found[0]


def test_other_graphs_than_were_timed_have_no_speed(calibrated: Path, tmp_path: Path) -> None:
    bundle = open_bundle(recorded(calibrated, tmp_path / "copy", FAST))
    stale = dataclasses.replace(bundle.manifest, speeds=(dataclasses.replace(FAST, graphs_sha256="0"),))

    assert bundle.manifest.speed_of("int8") is not None
    assert stale.speed_of("int8") is None
    assert timed_against(bundle, "int8-fp16") is None


def test_only_a_whole_interval_above_1_is_faster() -> None:
    assert FAST.faster and not SLOW.faster
    assert not dataclasses.replace(FAST, low=0.99).faster
    assert "NOT FASTER" in SLOW.describe() and "NOT" not in FAST.describe()


def test_slowness_is_explained_with_both_sides_and_a_way_out() -> None:
    told = explain_slowness(SLOW)

    assert told.startswith("int8 is not faster than fp32 here, 0.80 times as fast (0.70 to 0.90): ")
    assert told.endswith("keep fp32, or take it with --accept-slower")


def test_run_and_inspect_say_it(calibrated: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = recorded(calibrated, tmp_path / "copy", SLOW)
    frames = np.zeros((4, 4, 4, 6), np.float32)

    with caplog.at_level(logging.WARNING, "vdmrt"):
        generate(Request(bundle, tmp_path / "out.npy", frames=frames, chunks=1, precision="int8"))
    shown = CliRunner().invoke(main, ["inspect", str(bundle)])

    assert "int8 is 0.80 times as fast as fp32" in caplog.text and "NOT FASTER" in caplog.text
    assert "int8 is 0.80 times as fast as fp32" in shown.stdout


def test_the_command_exits_with_3_where_int8_is_not_faster(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    np.save(tmp_path / "data.npy", np.random.default_rng(6).standard_normal((5, 4, 4, 6)).astype(np.float32))
    command = ["calibrate", str(bundle), "--data", str(tmp_path / "data.npy"), "--samples", "3", "--threads", "1"]

    result = CliRunner().invoke(main, [*command, "--json"])
    accepted = CliRunner().invoke(main, [*command, "--json", "--accept-slower"])

    # Which it is on this machine is the machine's; that the status says what was measured is ours.
    speed = json.loads(result.stdout)["speeds"][0]
    assert result.exit_code == (0 if speed["low"] > 1 else 3)
    assert ("is not faster than" in result.stderr) == (speed["low"] <= 1)
    assert accepted.exit_code == 0
    assert json.loads(accepted.stdout)["speeds"][0]["accepted"]


def test_calibrating_again_forgets_the_speed(calibrated: Path, tmp_path: Path) -> None:
    recorded(calibrated, tmp_path / "bundle", FAST)

    calibrate_copy(tmp_path / "bundle", tmp_path, method="max")

    assert open_bundle(tmp_path / "bundle").manifest.speeds == ()
