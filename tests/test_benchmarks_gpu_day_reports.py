"""Reports of a GPU day: a call's is merged into the day's, and two devices do not mix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vdmrt.benchmarks.gpu_day.collecting.keeping import archive_report, keep_report
from vdmrt.benchmarks.gpu_day.running.report import Report
from vdmrt.benchmarks.gpu_day.running.settings import Settings
from vdmrt.benchmarks.gpu_day.running.stage import Result

SETTINGS = Settings("cuda:0", False, "", "", "", "", "", None, {})
FIGURE = {"what": "a step", "value": 1.0, "unit": "ms"}
LACKING = {"what": "a step", "missing": "no GPU"}


def returned(folder: Path, gpu: str = "NVIDIA H100", **stages: Any) -> Path:
    """Write what a call brings back: results, or the records of a stage that is running."""
    report = Report(folder / "back.json", SETTINGS, origin={"gpu": gpu, "driver": "580", "commit": "abc"})
    report.document["stages"].clear()
    for name, result in stages.items():
        report.keep(name, result)
    report.save()
    return report.path


def held(value: float = 1.0) -> Result:
    """Return a stage that ended with a figure."""
    return Result("held", 1.0, "", [{**FIGURE, "value": value}])


def stages_of(path: Path) -> dict[str, Any]:
    """Return the stages of a report."""
    stages: dict[str, Any] = json.loads(path.read_text())["stages"]
    return stages


def test_an_empty_report_of_a_fresh_machine_loses_nothing(tmp_path: Path) -> None:
    keep_report(returned(tmp_path, first=held()), tmp_path)

    kept = keep_report(returned(tmp_path), tmp_path)

    assert stages_of(kept)["first"]["records"] == [FIGURE]


@pytest.mark.parametrize("worse", [Result("timed out", 9.0, "", []), Result("missing", 1.0, "", [LACKING]), [FIGURE]])
def test_a_stage_with_figures_is_not_replaced_by_less(tmp_path: Path, worse: Any) -> None:
    keep_report(returned(tmp_path, first=held(2.0)), tmp_path)

    kept = keep_report(returned(tmp_path, first=worse), tmp_path)

    assert stages_of(kept)["first"]["records"] == [{**FIGURE, "value": 2.0}]


def test_a_stage_that_ran_again_replaces_the_older(tmp_path: Path) -> None:
    keep_report(returned(tmp_path, first=[FIGURE]), tmp_path)

    kept = keep_report(returned(tmp_path, first=held(3.0)), tmp_path)

    stage = stages_of(kept)["first"]
    assert (stage["status"], stage["gpu"], stage["driver"], stage["commit"]) == ("held", "NVIDIA H100", "580", "abc")
    assert stage["records"][0]["value"] == 3.0


def test_the_report_of_another_device_is_kept_apart(tmp_path: Path) -> None:
    keep_report(returned(tmp_path, first=held()), tmp_path)

    kept = keep_report(returned(tmp_path, "NVIDIA H200", second=held()), tmp_path)

    assert set(stages_of(kept)) == {"second"}
    assert set(stages_of(tmp_path / "report-gpu_h100.json")) == {"first"}


def test_a_device_that_comes_back_continues_its_own_report(tmp_path: Path) -> None:
    for gpu, name in (("NVIDIA H100", "first"), ("NVIDIA H200", "second"), ("NVIDIA H100", "third")):
        kept = keep_report(returned(tmp_path, gpu, **{name: held()}), tmp_path)

    assert set(stages_of(kept)) == {"first", "third"}


def test_a_run_does_not_continue_the_report_of_another_device(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = returned(tmp_path, "NVIDIA H100", first=held())

    report = Report(tmp_path / "new.json", SETTINGS, earlier=earlier, origin={"gpu": "NVIDIA H200"})

    assert report.document["stages"] == {} and report.document["gpu"] == "NVIDIA H200"
    assert "the report so far is of NVIDIA H100; this is NVIDIA H200" in capsys.readouterr().err


def test_the_report_of_an_earlier_day_is_renamed_after_its_date(tmp_path: Path) -> None:
    kept = keep_report(returned(tmp_path, first=held()), tmp_path)

    old = archive_report(tmp_path)

    assert old is not None and set(stages_of(old)) == {"first"}
    assert not kept.exists() and archive_report(tmp_path) is None
