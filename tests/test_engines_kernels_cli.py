"""``vdmrt inspect --kernels`` and ``vdmrt build --report``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from kernel_logs import BLOCK, write_listed_engine

from vdmrt.bundle import open_bundle
from vdmrt.cli import main

MISUSED, MISSED = 2, 3


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a bundle with an engine that lists its layers."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    write_listed_engine(open_bundle(folder))
    return folder


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [*map(str, words)])


def row(text: str, name: str) -> list[str]:
    """Return the cells of a table's row."""
    (line,) = [line for line in text.splitlines() if line.startswith(name)]
    return line[len(name) :].split()


def test_kernels_are_shown_by_stage(bundle: Path) -> None:
    done = run("inspect", bundle, "--kernels")

    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("kernels of rtx-1 (TensorRT for RTX 1.7.1, fp16)\n")
    assert row(done.stdout, "kernels  ") == ["5"] * 4
    assert row(done.stdout, "moved, MB") == ["206.4"] * 4
    assert done.stdout.splitlines()[-1].startswith("roofline: arithmetic on the compiled plan, not a measurement")


def test_kernels_are_printed_as_json(bundle: Path) -> None:
    document = json.loads(run("inspect", bundle, "--kernels", "--json", "--engine", "rtx-1").stdout)

    assert document["engine"] == "rtx-1"
    assert document["stages"]["denoise"]["roofline_ms"] == 1.68
    assert "against" not in document


def test_two_engines_are_compared(bundle: Path) -> None:
    other = write_listed_engine(open_bundle(bundle), BLOCK[:4], key="less")

    text = run("inspect", bundle, "--kernels", "--engine", "rtx-1", "--against", other.path).stdout
    document = json.loads(
        run("inspect", bundle, "--kernels", "--engine", "rtx-1", "--against", other.path, "--json").stdout
    )

    assert row(text, "denoise     kernels ") == ["5", "4", "+1", "1.250"]
    assert document["against"]["engine"] == "less"
    assert document["against"]["stages"]["fill"]["kernels"]["ratio"] == 1.25


def test_a_limit_that_is_exceeded_is_named_and_exits_with_3(bundle: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"

    done = run("inspect", bundle, "--kernels", "--fail-above-kernels", 4, "--fail-above-mb", 300, "--html", page)

    assert done.exit_code == MISSED
    assert "Missed: kernels of fill: 5, limit: at most 4 (--fail-above-kernels)\n" in done.stderr
    assert "MB moved" not in done.stderr
    assert "kernels of rtx-1" in done.stdout
    assert "FAIL: 1 of 2 limits missed" in page.read_text()


def test_limits_that_are_met_exit_with_0(bundle: Path) -> None:
    assert run("inspect", bundle, "--kernels", "--fail-above-kernels", 5, "--fail-above-mb", 206.5).exit_code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kernels", "--fail-above-kernels", "0"], "'--fail-above-kernels': 0 is not in the range x>=1"),
        (["--kernels", "--fail-above-mb", "nan"], "'--fail-above-mb': wanted a number above 0, got 'nan'"),
        (["--kernels", "--html", "bundle/x.html"], "'--html'"),
        (["--fail-above-mb", "3"], "--fail-above-mb is for the kernel report; add --kernels"),
        (["--engine", "x"], "--engine is for the kernel report; add --kernels"),
        (["--kernels", "--polygraphy", "x"], "--kernels and --polygraphy exclude each other"),
    ],
)
def test_misuse_is_refused(options: list[str], message: str, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle.parent)

    done = run("inspect", bundle, *options)

    assert done.exit_code == MISUSED
    assert message in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "x"], "has no engine 'x'; its engines: rtx-1"),
        (["--against", "nowhere"], "nowhere: wanted a bundle, an engine's folder or a report"),
    ],
)
def test_what_is_not_there_is_named_in_one_sentence(options: list[str], message: str, bundle: Path) -> None:
    done = run("inspect", bundle, "--kernels", *options)

    assert done.exit_code == 1
    assert message in done.stderr
    assert done.stdout == ""


def test_a_bundle_without_an_engine_names_the_command(tiny_bundle: Path) -> None:
    done = run("inspect", tiny_bundle, "--kernels")

    assert done.exit_code == 1
    assert f"build one with vdmrt build {tiny_bundle} --backend tensorrt-rtx" in done.stderr


def test_a_build_reports_the_kernels_of_the_real_compiler(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    words = ("build", bundle, "--backend", "tensorrt-rtx", "--check", "off", "--report")

    text, document = run(*words).stdout, json.loads(run(*words, "--json").stdout)

    denoise = document["stages"]["denoise"]
    assert document["backend"] == "tensorrt-rtx"
    assert text.splitlines()[1].startswith(f"kernels of {document['key']}")
    assert int(row(text, "kernels  ")[1]) == denoise["kernels"]
    assert sum(denoise["kinds"].values()) == denoise["kernels"]
    assert [block["block"] for block in denoise["blocks"]] == [0, 1]
    in_blocks = sum(block["kernels"] for block in denoise["blocks"])
    assert in_blocks + denoise["outside_blocks"]["kernels"] == denoise["kernels"]
    # Both layers attend to the cache with sums of products.
    assert (denoise["fused_attentions"], denoise["softmaxes_outside"]) == (4, 2)


def test_a_report_is_not_for_onnxruntime(tiny_bundle: Path) -> None:
    done = run("build", tiny_bundle, "--backend", "onnxruntime", "--report")

    assert done.exit_code == MISUSED
    assert "--report is for TensorRT; leave it out with --backend onnxruntime" in done.stderr
