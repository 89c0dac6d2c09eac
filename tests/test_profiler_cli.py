"""The command ``vdmrt profile``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from vdmrt.cli import main

QUICK = ["--chunks", "3", "--steps", "1", "--sampler", "ddim", "--warmup", "0"]


def profiled(*arguments: object) -> Result:
    """Run ``vdmrt profile``."""
    return CliRunner().invoke(main, ["profile", *map(str, arguments)])


def test_the_terminal_shows_the_summary_of_trtexec(tiny_bundle: Path) -> None:
    done = profiled(tiny_bundle, *QUICK, "--percentile", "50,99.5", "--target-fps", "24")

    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert "=== Performance summary ===" in lines
    for title in ("Throughput", "Latency", "Compute Time", "Total Host Walltime", "Time To First Frame", "Cache Fill",
                  "Denoising Step", "Scatter", "Decode", "Chunk Inter-Arrival", "Frames Per Second", "At 24 fps",
                  "KV Cache", "Memory"):  # fmt: skip
        assert any(line.startswith(f"{title}:") for line in lines), title
    (latency,) = (line for line in lines if line.startswith("Latency:"))
    assert all(word in latency for word in ("min =", "median =", "percentile(50%) =", "percentile(99.5%) ="))
    assert "1 chunk of warm-up excluded" in done.stdout


def test_the_report_is_written_as_json(tiny_bundle: Path, tmp_path: Path) -> None:
    done = profiled(tiny_bundle, *QUICK, "--decoding", "off", "--json", tmp_path / "report.json")

    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "report.json").read_text())
    assert (document["kind"], document["workload"]["chunks"]) == ("vdmrt.profile", 3)
    assert "decode" not in document["stages"]


@pytest.mark.parametrize(
    ("gate", "why"),
    [
        (["--fail-above", "0.001"], "limit: at most 0.001 ms (median of 2, codec included; --fail-above)"),
        (["--fail-below", "1e9"], "limit: at least 1e+09 frames/s (over the whole loop, codec included; --fail-below)"),
    ],
)
def test_a_missed_gate_exits_3_with_one_line(gate: list[str], why: str, tiny_bundle: Path) -> None:
    done = profiled(tiny_bundle, *QUICK, *gate)

    assert done.exit_code == 3
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("Missed:"))
    assert why in line


def test_a_gate_that_held_exits_0(tiny_bundle: Path) -> None:
    assert profiled(tiny_bundle, *QUICK, "--fail-above", "1e9", "--fail-below", "0.001").exit_code == 0


def test_options_of_loading_and_sampling_are_accepted(text_bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "text.npy", np.zeros((2, 8), np.float32))
    np.save(tmp_path / "mask.npy", np.ones(2, np.float32))
    text = ["--text", tmp_path / "text.npy", "--text-mask", tmp_path / "mask.npy", "--guidance", "3"]
    loading = "--device cpu --no-engine --no-cuda-graph --trust-plans --precision fp32 --threads 1".split()

    done = profiled(text_bundle, *QUICK, *text, *loading)

    assert done.exit_code == 0, done.output
    assert "CPU provider, 1 thread, fp32" in done.stdout


def test_text_that_does_not_fit_is_refused(text_bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "text.npy", np.zeros((2, 7), np.float32))
    done = profiled(text_bundle, *QUICK, "--text", tmp_path / "text.npy")

    assert done.exit_code == 1
    assert "wanted [tokens, width] = [any, 8], found [2, 7]" in done.stderr


@pytest.mark.parametrize("precision", ["int8", "fp16-mixed", "fp8-kv8"])
def test_every_precision_can_be_asked_for(tiny_bundle: Path, precision: str) -> None:
    done = profiled(tiny_bundle, "--precision", precision)

    assert done.exit_code == 1
    assert f"has fp32, fp16, not '{precision}'; make it with vdmrt calibrate" in done.stderr


@pytest.mark.parametrize("other", ["nowhere", "precision=int8"])
def test_an_invalid_comparison_is_refused_before_the_measurement(tiny_bundle: Path, other: str) -> None:
    done = profiled(tiny_bundle, "--against", other)

    assert done.exit_code == 1
    assert "not a bundle: it has no model.json" in done.stderr or "not 'int8'" in done.stderr
    assert "measuring" not in done.stderr


@pytest.mark.parametrize(
    ("other", "status", "sentence"),
    [
        ("device=cuda", 1, "Error: "),  # no driver, or no GPU: it depends on whether the fake driver is loaded
        ("backend=tensorrt", 1, "TensorRT needs an NVIDIA GPU"),
        ("steps=7", 2, "exported for at most 6 steps, got 7"),
        ("sampler=flow-euler", 2, "needs a model that predicts flow"),
        ("guidance=3", 2, "has no null rows, so guidance must be 1, got 3.0"),
        ("text=nowhere.npy", 1, "'nowhere.npy' does not exist"),
    ],
)
def test_invalid_settings_of_the_other_contender_are_refused_before_the_measurement(
    tiny_bundle: Path, other: str, status: int, sentence: str
) -> None:
    done = profiled(tiny_bundle, "--against", other)

    assert (done.exit_code, sentence in done.stderr) == (status, True), done.stderr
    assert "loading" not in done.stderr and "measuring" not in done.stderr


def test_an_unknown_precision_is_misuse_for_both_contenders(tiny_bundle: Path) -> None:
    for asked in (("--precision", "foo"), ("--against", "precision=foo")):
        done = profiled(tiny_bundle, *asked)

        assert done.exit_code == 2
        assert "'foo'" in done.stderr


def test_a_page_and_a_trace_are_written(tiny_bundle: Path, tmp_path: Path) -> None:
    done = profiled(tiny_bundle, *QUICK, "--html", tmp_path / "r.html", "--trace", tmp_path / "r.json", "--layers")

    assert done.exit_code == 0, done.output
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    assert json.loads((tmp_path / "r.json").read_text())["traceEvents"]
    assert "Blocks of denoise: 0 " in done.stdout


@pytest.mark.parametrize("option", ["--json", "--html", "--trace"])
@pytest.mark.parametrize(
    ("place", "why"),
    [("none/r", "there is no folder"), ("taken", "it is a folder"), ("pipe", "it is not a regular file")],
)
def test_a_path_that_cannot_be_written_is_refused_before_the_measurement(
    option: str, place: str, why: str, tmp_path: Path
) -> None:
    (tmp_path / "taken").mkdir()
    os.mkfifo(tmp_path / "pipe")

    done = profiled(tmp_path / "no-bundle", option, tmp_path / place)

    assert done.exit_code == 2
    assert "cannot be written" in done.stderr and why in done.stderr


def test_one_file_for_two_reports_is_misuse(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["profile", "nowhere", "--json", f"{tmp_path}/a", "--trace", f"{tmp_path}/./a"])

    assert result.exit_code == 2
    assert "--json, --html and --trace must be different files" in result.stderr


def test_the_summary_is_printed_where_a_file_cannot_be_written(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pages"
    folder.mkdir()

    def render(*_: object) -> str:
        folder.rmdir()
        return "<!doctype html>"

    monkeypatch.setattr("vdmrt.profiler.report.html.render_html", render)
    done = profiled(tiny_bundle, *QUICK, "--no-roofline", "--fail-above", "0.001", "--html", folder / "page.html")

    assert done.exit_code == 1
    assert f"page.html' cannot be written: there is no folder '{folder}'" in done.stderr
    assert "=== Performance summary ===" in done.stdout
    assert "Missed: time of a chunk" in done.stderr
