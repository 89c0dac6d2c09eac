"""What a GPU day brought back becomes records and pages: by device, and every figure by the script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vdmrt.benchmarks.gpu_day.collecting.merge import merge_report, record_name
from vdmrt.benchmarks.gpu_day.collecting.pages import PAGES, generate
from vdmrt.benchmarks.gpu_day.collecting.tables import BLOCKS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
H200 = "NVIDIA H200"


def report_of(folder: Path, gpu: str = H200, *, rehearsal: bool = False, **stages: Any) -> Path:
    """Write a report as a device brings it back; an underscore in a stage's name stands for a hyphen."""
    named = {name.replace("_", "-"): stage for name, stage in stages.items()}
    environment = {"what": "GPU 0", "name": gpu, "driver_version": "580.1"}
    document = {
        "date": "2026-12-01T10:00:00+00:00",
        "settings": {"device": "cuda:0", "rehearsal": rehearsal, "seed": 0},
        "stages": {"environment": stage_of([environment]), **named},
    }
    path = folder / "report.json"
    path.write_text(json.dumps(document))
    return path


def stage_of(records: list[dict[str, Any]], status: str = "held") -> dict[str, Any]:
    """Return a stage of a report."""
    return {"status": status, "seconds": 3.0, "why": "", "date": "2026-12-01T10:00:00+00:00", "records": records}


@pytest.mark.parametrize("page", PAGES)
def test_the_generated_blocks_are_what_the_records_give(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")

    assert "<!-- figures: " in text
    assert generate(text, RESULTS) == text, f"{page} is stale; run: python benchmarks/gpu_day pages"


def test_every_block_stands_on_a_page() -> None:
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)

    assert all(f"<!-- figures: {name}; generated" in text for name in BLOCKS)


def test_a_block_that_there_is_not_is_refused() -> None:
    text = "<!-- figures: tpu; generated, do not edit -->\n<!-- end of figures -->"

    with pytest.raises(ValueError, match="no block 'tpu'; known are gpu-details"):
        generate(text, RESULTS)


@pytest.mark.parametrize(
    ("gpu", "name"),
    [("NVIDIA H100 80GB HBM3", "gpu_h100"), (H200, "gpu_h200"), ("NVIDIA GeForce RTX 4090", "gpu_rtx_4090")],
)
def test_a_device_has_a_record_of_its_own(gpu: str, name: str) -> None:
    assert record_name(gpu) == name


def test_a_second_day_adds_its_stages_and_replaces_those_that_ran_again(tmp_path: Path) -> None:
    old = {"what": "a step", "value": 2.0, "unit": "ms"}
    merge_report(report_of(tmp_path, first=stage_of([old]), second=stage_of([old])), tmp_path)

    path = merge_report(report_of(tmp_path, second=stage_of([{**old, "value": 1.0}])), tmp_path)

    stages = json.loads(path.read_text())["stages"]
    assert path.name == "gpu_h200.json"
    assert stages["first"]["records"][0]["value"] == 2.0
    assert stages["second"]["records"][0]["value"] == 1.0


@pytest.mark.parametrize("status", ["missing", "timed out"])
def test_a_stage_without_figures_does_not_replace_figures(tmp_path: Path, status: str) -> None:
    merge_report(report_of(tmp_path, first=stage_of([{"what": "a step", "value": 2.0}])), tmp_path)

    path = merge_report(report_of(tmp_path, first=stage_of([], status)), tmp_path)

    stage = json.loads(path.read_text())["stages"]["first"]
    assert (stage["status"], stage["records"][0]["value"], stage["driver"]) == ("held", 2.0, "580.1")


@pytest.mark.parametrize(
    ("why", "shown"),
    [
        ("Traceback (most recent call last):\n  File x\nValueError: a | b", "not there: ValueError: a \\| b"),
        ("Traceback (most recent call last):\n  File x, li", "not there: Traceback (most recent call last):"),
        ("", "not there"),
    ],
)
def test_a_reason_is_the_error_in_one_cell(tmp_path: Path, why: str, shown: str) -> None:
    merge_report(report_of(tmp_path, first=stage_of([{"what": "a step", "missing": why}])), tmp_path)

    page = generate("<!-- figures: gpu-details; generated, do not edit -->\n<!-- end of figures -->", tmp_path)

    assert f"| a step | {shown} |" in page


def test_the_record_of_another_device_is_not_overwritten(tmp_path: Path) -> None:
    path = merge_report(report_of(tmp_path), tmp_path, "gpu_mine")
    before = path.read_bytes()

    with pytest.raises(ValueError, match=r"gpu_mine\.json is of NVIDIA H200, driver 580\.1, .* of NVIDIA H100 PCIe"):
        merge_report(report_of(tmp_path, "NVIDIA H100 PCIe"), tmp_path, "gpu_mine")
    assert path.read_bytes() == before


def test_the_new_device_does_not_take_the_old_ones_record(tmp_path: Path) -> None:
    (tmp_path / "gpu_h100.json").write_bytes((RESULTS / "gpu_h100.json").read_bytes())

    with pytest.raises(ValueError, match="is of NVIDIA H100 80GB HBM3, .* of NVIDIA H100 PCIe; give another name"):
        merge_report(report_of(tmp_path, "NVIDIA H100 PCIe"), tmp_path)


def test_a_rehearsal_is_not_merged(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is of a rehearsal"):
        merge_report(report_of(tmp_path, rehearsal=True), tmp_path)


def test_a_report_that_names_no_gpu_is_not_merged(tmp_path: Path) -> None:
    path = report_of(tmp_path, environment=stage_of([{"what": "GPU", "missing": "no driver"}]))

    with pytest.raises(ValueError, match="names no GPU"):
        merge_report(path, tmp_path)


def test_a_report_without_its_environment_is_merged_by_the_gpu_of_its_run(tmp_path: Path) -> None:
    path = report_of(tmp_path, environment=stage_of([]))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"gpu": H200, "driver": "581"}))

    assert json.loads(merge_report(path, tmp_path).read_text())["device"] == "NVIDIA H200, driver 581"


def test_a_refusal_of_a_plan_is_on_the_page_in_its_own_words(tmp_path: Path) -> None:
    verdict = {"what": "rtx plan of sky-fp16", "verdict": "refused", "said": "Error Code 9: no kernel\nfor 9.0 | sm90"}
    merge_report(report_of(tmp_path, rtx_verdict=stage_of([verdict])), tmp_path)

    page = generate("<!-- figures: rtx-verdict; generated, do not edit -->\n<!-- end of figures -->", tmp_path)

    assert "| refused | Error Code 9: no kernel for 9.0 \\| sm90 |" in page


def test_figures_of_a_new_record_come_onto_the_page(tmp_path: Path) -> None:
    figure = {"what": "rtx sky-fp16, a denoising step", "value": 0.123456, "unit": "ms", "wanted": "<= 1", "held": True}
    merge_report(report_of(tmp_path, rtx=stage_of([figure])), tmp_path)

    page = generate("<!-- figures: gpu-details; generated, do not edit -->\n<!-- end of figures -->", tmp_path)

    assert "| rtx sky-fp16, a denoising step | 0.1235 ms | <= 1 | held |" in page
    assert "### NVIDIA H200, driver 580.1" in page and "2026-12-01" in page
