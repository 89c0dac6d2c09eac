"""Bundles that cannot be written: refused before rollouts, or measured without a record."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from calibrated import tiny_latents
from click.testing import CliRunner
from limited_cli import run_limited

from vdmrt.cli import main

QUICK = ("--threads", "1")


@pytest.fixture
def copied(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "around" / "bundle"))


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    folder.chmod(0o555)
    try:
        yield
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize("place", [".", ".."])
def test_calibrate_refuses_a_read_only_bundle_before_it_observes(copied: Path, tmp_path: Path, place: str) -> None:
    folder = (copied / place).resolve()
    with read_only(folder):
        done = run_limited("calibrate", copied, "--data", tiny_latents(tmp_path), *QUICK)

    assert done.returncode == 1
    assert f"'{folder}' cannot be written: Permission denied" in done.stderr
    assert "copy the bundle to a writable place with enough room" in done.stderr
    assert "calibration set" not in done.stderr and "Traceback" not in done.stderr


def test_calibrate_detects_a_full_disk_before_it_observes(copied: Path, tmp_path: Path) -> None:
    before = sorted(copied.rglob("*"))

    done = run_limited("calibrate", copied, "--data", tiny_latents(tmp_path), *QUICK, file_nbytes=4096)

    assert done.returncode == 1
    assert "cannot be written: the disk is full (File too large)" in done.stderr
    assert re.search(r"about [\d.]+ [KM]iB are needed beside the bundle", done.stderr)
    assert "calibration set" not in done.stderr and "Traceback" not in done.stderr
    assert sorted(copied.rglob("*")) == before


def test_verify_measures_a_read_only_bundle_and_says_that_nothing_is_recorded(copied: Path) -> None:
    before = (copied / "model.json").read_bytes()

    with read_only(copied):
        done = run_limited("verify", copied, "--precision", "fp16", "--chunks", "1", "--seeds", "1", *QUICK)

    assert done.returncode == 0, done.stderr
    assert "every gate held" in done.stdout
    assert "the result is not recorded in the bundle" in done.stderr and "Permission denied" in done.stderr
    assert (copied / "model.json").read_bytes() == before


def test_a_full_temporary_folder_is_reported_in_one_sentence(copied: Path) -> None:
    done = run_limited("verify", copied, "--precision", "fp16", "--chunks", "1", *QUICK, file_nbytes=1024)

    assert done.returncode == 1
    assert "temporary files cannot be written to " in done.stderr and "variable TMPDIR" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
def test_results_are_printed_if_the_report_cannot_be_written(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: list[str]
) -> None:
    folder = tmp_path / "pages"
    folder.mkdir()

    def render(*_: object) -> str:
        folder.rmdir()
        return "<!doctype html>"

    monkeypatch.setattr("vdmrt.calibration.verify.verification.render_report", render)
    command = ["verify", str(copied), "--precision", "fp16", "--chunks", "1", "--seeds", "1", *QUICK]

    done = CliRunner().invoke(main, [*command, "--report", str(folder / "page.html"), *as_json])

    assert done.exit_code == 1
    assert f"page.html' cannot be written: there is no folder '{folder}'" in done.stderr
    assert json.loads(done.stdout)["accuracy"]["passed"] if as_json else "every gate held" in done.stdout
