"""The choice of groups of layers that stay in floating point for an error budget."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from calibrated import calibrate_copy

from vdmrt.bundle import open_bundle
from vdmrt.calibration.choose.sensitivity import _fewest
from vdmrt.errors import CalibrationError


@pytest.fixture(scope="module")
def loose(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loose")
    calibrate_copy(tiny_bundle, folder, budget=1.0)
    return folder / "bundle"


def told_by(bundle: Path) -> dict[str, object]:
    report: dict[str, object] = json.loads((bundle / "calibration" / "int8" / "report.json").read_text())
    return report


def test_a_loose_budget_keeps_nothing(loose: Path) -> None:
    report = told_by(loose)

    assert report["kept"] == []
    sensitivity = report["sensitivity"]
    assert isinstance(sensitivity, dict)
    assert len(sensitivity["alone"]) == 8
    assert list(sensitivity["alone"].values()) == sorted(sensitivity["alone"].values())
    assert 0 < sum(sensitivity["share"].values()) < 1
    assert [point[0] for point in sensitivity["curve"]] == [0]
    assert 1 < sensitivity["curve"][0][2] < 2


def test_a_tight_budget_keeps_the_most_sensitive_groups(loose: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    sensitivity = told_by(loose)["sensitivity"]
    assert isinstance(sensitivity, dict)
    wanted = sensitivity["curve"][0][1] + 3.0

    summary = calibrate_copy(tiny_bundle, tmp_path, budget=wanted)

    bundle = open_bundle(tmp_path / "bundle")
    bundle.verify()
    assert summary.kept == tuple(list(sensitivity["alone"])[: len(summary.kept)])
    assert 0 < len(summary.kept) < 8
    assert summary.quantized[0] < summary.quantized[1]
    picture = bundle.manifest.calibrations[0].picture
    assert picture is not None and bundle.locate(picture).read_text().startswith("<svg")


def test_a_budget_that_cannot_be_met_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"--budget 149 dB does not hold even with one group of 8 in 8 bits"):
        calibrate_copy(tiny_bundle, tmp_path, budget=149.0)


@pytest.mark.parametrize("least", [0, 1, 2, 5, 7])
def test_the_fewest_are_found(least: int) -> None:
    assert _fewest(7, lambda kept: kept >= least) == least
    assert _fewest(least, lambda kept: False) is None
