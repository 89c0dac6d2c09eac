"""``vdmrt export``: what it checks before torch is imported, what it records, and how it shows its progress."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from vdmrt.bundle import FP32, open_bundle
from vdmrt.cli import main
from vdmrt.export import TransformerConfig, random_model

ARGUMENTS = {
    "input_size": [8, 4, 4], "in_channels": 2, "hidden_size": 16, "depth": 1, "num_heads": 2, "max_tpe_len": 8,
}  # fmt: skip
MODEL = TransformerConfig(
    latent_size=(4, 4),
    latent_channels=2,
    hidden_size=16,
    depth=1,
    heads=2,
    position_count=8,
    positions="absolute",
)
SIZES = ["--chunk-frames", "2", "--slots", "4", "--max-steps", "8"]


def export(place: Path, *arguments: str) -> Result:
    """Export the checkpoint of a place into its bundle."""
    common = ["--config", str(place / "config.json"), *SIZES, "--output", str(place / "bundle")]
    return CliRunner().invoke(main, ["export", str(place / "it.pth"), *common, *arguments])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Yield a folder with a configuration, and a checkpoint with two sets of weights."""
    folder = tmp_path_factory.mktemp("it") / "clouds"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(ARGUMENTS))
    weights = random_model(MODEL, 1).state_dict()
    torch.save({"ema": weights, "model": {name: 0 * one for name, one in weights.items()}}, folder / "it.pth")
    return folder


@pytest.fixture(scope="module")
def exported(place: Path) -> Result:
    result = export(place)
    assert result.exit_code == 0, result.output
    return result


def run_without_torch(place: Path, runs: list[list[str]]) -> list[tuple[int, str]]:
    """Return the status and the errors of each run of ``vdmrt export``, in a process that cannot import torch."""
    script = """
        import json, sys
        sys.modules["torch"] = None
        from click.testing import CliRunner
        from vdmrt.cli import main
        done = [CliRunner().invoke(main, ["export", *options]) for options in json.load(sys.stdin)]
        print(json.dumps([(one.exit_code, one.stderr) for one in done]))
    """
    common = ["--config", str(place / "config.json"), *SIZES, "--output", str(place / "new")]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        input=json.dumps([[*common, *options] for options in runs]),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return [(status, text) for status, text in json.loads(done.stdout)]


def test_misuse_is_refused_without_importing_torch(place: Path) -> None:
    runs = {
        "got --slots 40; use --slots 8 or fewer": ["--slots", "40", "--random-init", "1"],
        "'--chunk-frames': -1 is not in the range": ["--chunk-frames", "-1", "--random-init", "1"],
        "--latent-size 5x4 is not two positive multiples": ["--latent-size", "5x4", "--random-init", "1"],
        "nowhere.json: not a readable JSON": ["--config", "nowhere.json", "--random-init", "1"],
        "'/nowhere' is not a folder": ["--output", "/nowhere/bundle", "--random-init", "1"],
        "nowhere.pth: no such checkpoint": ["nowhere.pth"],
        "found '.py'": [__file__],
        "vdmrt export needs torch, which is not installed; install it with pip": ["--random-init", "1"],
    }
    found = run_without_torch(place, list(runs.values()))

    assert [status for status, _ in found] == [2, 2, 2, 1, 1, 1, 1, 1]
    for (_, text), sentence in zip(found, runs, strict=True):
        assert sentence in text


def test_the_chosen_set_of_weights_is_logged_and_recorded(place: Path, exported: Result) -> None:
    logged = "[I] the checkpoint has weights named ema, model: using ema; choose others with --weights\n"

    assert logged in exported.stderr
    assert open_bundle(place / "bundle").manifest.provenance["weights"] == "ema"


def test_other_weights_are_chosen_by_name(place: Path, exported: Result) -> None:
    before = open_bundle(place / "bundle").manifest
    result = export(place, "--weights", "model", "--force")
    after = open_bundle(place / "bundle").manifest

    assert result.exit_code == 0
    assert after.provenance["weights"] == "model"
    assert before.graphs_sha256(FP32) != after.graphs_sha256(FP32)


def test_missing_weights_are_refused(place: Path) -> None:
    result = export(place, "--weights", "raw", "--force")

    assert result.exit_code == 1
    assert "it.pth: has no weights named 'raw'; it has ema, model" in result.stderr


def test_every_stage_is_shown(place: Path, exported: Result) -> None:
    lines = [line for line in exported.stderr.splitlines() if not re.search(r", \d+ s$|using ema", line)]

    assert lines == [
        f"[I] reading {place / 'it.pth'}",
        f"[I] hashing {place / 'it.pth'}",
        "[I] tracing fill.fp32",
        "[I] writing fill.fp32",
        "[I] tracing denoise.fp32",
        "[I] writing denoise.fp32",
        "[I] hashing weights.fp32.bin",
    ]


def test_the_folder_names_a_model_whose_configuration_is_called_config(place: Path, exported: Result) -> None:
    assert open_bundle(place / "bundle").manifest.name == "clouds"
