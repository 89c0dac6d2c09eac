"""The command line: main workflow, text and JSON output, interruption."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from vdmrt.bundle import FP16, FP32, format_count, open_bundle
from vdmrt.cli import main
from vdmrt.media.clip_writer import write_clip, write_latents
from vdmrt.media.pictures import read_clip, read_latents

COMMANDS = ["export", "calibrate", "verify", "build", "inspect", "run", "profile", "demo", "doctor"]
CONFIG = {
    "input_size": [8, 4, 4],
    "hidden_size": 16,
    "depth": 1,
    "num_heads": 2,
    "max_tpe_len": 8,
    "relative_tpe_mode": "rope",
}
QUICK = ["--steps", "2", "--chunks", "2", "--sampler", "ddim", "--threads", "1"]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def succeed(*arguments: object) -> Result:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def latents(tmp_path: Path) -> Path:
    path = tmp_path / "latents.npy"
    write_latents(path, np.random.default_rng(0).standard_normal((2, 4, 4, 6), np.float32))
    return path


def commands() -> dict[str, click.Command]:
    return dict(main.commands)


def test_every_command_is_listed() -> None:
    output = succeed("--help").output

    assert list(commands()) == COMMANDS
    assert all(f"\n  {name} " in output for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_every_option_has_help(name: str) -> None:
    command = commands()[name]
    output = succeed(name, "--help").output
    options = [option for option in command.params if isinstance(option, click.Option)]

    assert command.help and command.help.split(".")[0] in " ".join(output.split())
    assert [option.name for option in options if not option.help] == []
    assert all(option.opts[0] in output for option in options)


def test_the_version_is_printed() -> None:
    assert succeed("--version").output.startswith("vdmrt, version ")


def test_a_model_is_exported_in_both_precisions(tmp_path: Path) -> None:
    config = tmp_path / "small.json"
    config.write_text(json.dumps(CONFIG))
    sizes = ["--chunk-frames", "2", "--slots", "4", "--max-steps", "8", "--latent-size", "4x6"]
    precisions = ["--precision", "fp32", "--precision", "fp16"]
    output = tmp_path / "bundle"
    result = succeed("export", "--config", config, "--random-init", "5", *sizes, *precisions, "--output", output)
    manifest = open_bundle(output).manifest

    assert result.stdout == f"{output}\n"
    assert "[W] the weights are random: the model's output is noise\n" in result.stderr
    assert "[W] RoPE has 8 positions, slots + chunk frames are 6" in result.stderr
    assert "[I] tracing denoise.fp16\n" in result.stderr
    assert (manifest.name, set(manifest.graphs), manifest.random_weights) == ("small", {FP32, FP16}, True)
    assert (manifest.geometry.latent_height, manifest.geometry.latent_width) == (4, 6)
    assert (manifest.sampler.name, manifest.sampler.steps) == ("iddpm", 8)
    assert manifest.provenance["checkpoint"] == "none: random weights of seed 5"
    assert manifest.provenance["config"] == str(config)


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_a_picture_becomes_a_clip(tiny_bundle: Path, picture: Path, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"out.{suffix}"
    result = succeed("run", tiny_bundle, "--image", picture, *QUICK, "--output", output)

    assert len(read_clip(output, height=32, width=48, count=100)) == 1 + 2 * 3
    assert result.stdout.startswith(f"{output}: 7 latent frames, 2 chunks\nddim, 2 steps, seed ")
    assert "[I] backend onnxruntime, fp32: ONNX Runtime" in result.stderr
    assert "[W] no VAE in the bundle: pictures come from the preview codec" in result.stderr


def test_a_clip_is_continued(tiny_bundle: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", np.full((6, 32, 48, 3), 100, np.uint8), frames_per_second=8)
    common = ["run", tiny_bundle, "--video", tmp_path / "in.mp4", *QUICK]
    succeed(*common, "--output", tmp_path / "chunk_and_one.npy")
    succeed(*common, "--given", "2", "--output", tmp_path / "two.npy")

    assert len(read_latents(tmp_path / "chunk_and_one.npy")) == 4 + 6
    assert len(read_latents(tmp_path / "two.npy")) == 2 + 6


@pytest.mark.parametrize("name", ["out.npy", "OUT.NPY"])
def test_given_latents_are_first_in_the_output(tiny_bundle: Path, latents: Path, tmp_path: Path, name: str) -> None:
    succeed("run", tiny_bundle, "--latents", latents, *QUICK, "--output", tmp_path / name)
    written = read_latents(tmp_path / name)

    assert written.shape == (2 + 6, 4, 4, 6)
    np.testing.assert_array_equal(written[:2], read_latents(latents))


def test_latents_become_a_clip(tiny_bundle: Path, latents: Path, tmp_path: Path) -> None:
    succeed("run", tiny_bundle, "--latents", latents, *QUICK, "--output", tmp_path / "out.mp4")

    assert len(read_clip(tmp_path / "out.mp4", height=32, width=48, count=100)) == 8


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_the_same_seed_gives_the_same_latents(tiny_bundle: Path, latents: Path, tmp_path: Path, sampler: str) -> None:
    def run(name: str, seed: int) -> bytes:
        options = [*QUICK, "--sampler", sampler, "--seed", str(seed), "--output", tmp_path / name]
        succeed("run", tiny_bundle, "--latents", latents, *options)
        return (tmp_path / name).read_bytes()

    first = run("first.npy", 7)

    assert run("second.npy", 7) == first
    assert run("other.npy", 8) != first


def test_the_summary_can_be_json(tiny_bundle: Path, latents: Path, tmp_path: Path) -> None:
    options = [*QUICK, "--seed", "7", "--precision", "fp16", "--output", tmp_path / "out.npy", "--json"]
    summary = json.loads(succeed("run", tiny_bundle, "--latents", latents, *options).stdout)

    assert set(summary) == {
        "output", "chunks", "latent_frames", "interrupted", "seed", "sampler", "steps", "backend", "precision",
        "codec", "random_weights", "cache_nbytes", "denoise_ms_median", "fill_ms_median",
        "latent_frames_per_second", "wall_seconds",
    }  # fmt: skip
    assert (summary["chunks"], summary["latent_frames"], summary["interrupted"]) == (2, 8, None)
    assert (summary["sampler"], summary["steps"], summary["seed"]) == ("ddim", 2, 7)
    assert (summary["precision"], summary["codec"], summary["random_weights"]) == ("fp16", "preview", True)
    assert summary["cache_nbytes"] == 2 * open_bundle(tiny_bundle).manifest.geometry.cache_elements


def test_text_and_its_mask_are_read(text_bundle: Path, tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    np.save(tmp_path / "first.npy", numbers.standard_normal((1, 4, 4, 4), np.float32))
    text = numbers.standard_normal((3, 8)).astype(np.float32)
    np.save(tmp_path / "text.npy", text)
    np.save(tmp_path / "longer.npy", np.concatenate([text, numbers.standard_normal((2, 8))]).astype(np.float32))
    np.save(tmp_path / "mask.npy", np.array([1, 1, 1, 0, 0]))

    def run(name: str, *options: object) -> bytes:
        common = ["--latents", tmp_path / "first.npy", *QUICK, "--seed", "7", "--guidance", "3"]
        succeed("run", text_bundle, *common, *options, "--output", tmp_path / name)
        return (tmp_path / name).read_bytes()

    plain = run("a.npy", "--text", tmp_path / "text.npy")

    assert run("b.npy", "--text", tmp_path / "longer.npy", "--text-mask", tmp_path / "mask.npy") == plain
    assert run("c.npy", "--text", tmp_path / "longer.npy") != plain


def test_quiet_prints_only_warnings(tiny_bundle: Path, latents: Path, tmp_path: Path) -> None:
    output = ["--output", tmp_path / "out.npy"]
    result = succeed("--quiet", "run", tiny_bundle, "--latents", latents, *QUICK, *output)

    assert result.stderr == "[W] the bundle's weights are random: the output is noise\n"


def test_ctrl_c_keeps_the_finished_chunks(tiny_bundle: Path, latents: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.npy"
    script = Path(sys.executable).with_name("vdmrt")
    options = ["--steps", "6", "--chunks", "1000000", "--output", str(output), "--json"]
    command = [str(script), "run", str(tiny_bundle), "--latents", str(latents), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for_bytes(tmp_path, 100_000)
        process.send_signal(signal.SIGINT)
        killer = threading.Timer(60, process.kill)  # so that a failing test ends
        killer.start()
        stdout, stderr = process.communicate()
        killer.cancel()
    summary = json.loads(stdout)

    assert process.returncode == 130, stderr
    assert f"[W] interrupted after {format_count(summary['chunks'], 'chunk')}; keeping the finished chunks" in stderr
    assert "Traceback" not in stderr
    assert summary["interrupted"] == "SIGINT" and summary["chunks"] > 10
    assert summary["latent_frames"] == len(read_latents(output))
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


def wait_for_bytes(folder: Path, nbytes: int) -> None:
    """Wait until the unfinished output in a folder has a length."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if any(path.stat().st_size >= nbytes for path in folder.glob(".*.part")):
            return
        time.sleep(0.05)
    raise AssertionError("nothing was written in a minute")


def test_a_bundle_is_shown(tiny_bundle: Path) -> None:
    output = succeed("inspect", tiny_bundle).output

    assert output.startswith(f"tiny (ca2vdm, predicts v) at {tiny_bundle}\nrandom weights: ")
    assert "7 slots, 2 requests × 1 row\n" in re.sub(" +\n", "\n", output)
    assert "preview, pictures 32 × 48" in output
    assert re.search(r"denoising step +[\d.]+ MFLOP", output)
    assert "past_k.0 …" in output and "next_latent" in output
    assert "onnxscript" in output


@pytest.mark.parametrize("columns", [None, "80"])
def test_nothing_of_a_bundle_is_truncated(tiny_bundle: Path, columns: str | None) -> None:
    shown = CliRunner().invoke(main, ["inspect", str(tiny_bundle)], env={"COLUMNS": columns}).stdout
    tables = shown.split("provenance")[0].splitlines()[1:]

    assert "…" not in re.sub(r"\.0 …", "", shown)
    assert re.search(r"^ +fp32 +fp16$", shown, re.MULTILINE)
    assert re.search(r"^cache copied per step +0 B +0 B$", shown, re.MULTILINE)
    assert max(len(line) for line in tables) <= 80


def test_brackets_in_a_name_are_not_markup(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "[red]b[/]"
    folder.mkdir(parents=True)
    document = json.loads((tiny_bundle / "model.json").read_text())
    document["name"] = "[/bold]"
    document["provenance"]["[/]"] = "[bold]"
    (folder / "model.json").write_text(json.dumps(document))

    output = succeed("inspect", folder).output

    assert output.startswith(f"[/bold] (ca2vdm, predicts v) at {folder}\n")
    assert "\n[/]         [bold]" in output


def test_a_bundle_is_shown_as_json(tiny_bundle: Path) -> None:
    document = json.loads(succeed("inspect", tiny_bundle, "--verify", "--json").stdout)
    geometry = open_bundle(tiny_bundle).manifest.geometry

    assert document["geometry"]["policy"] == {"sinks": 0, "window": 7}
    assert document["path"] == str(tiny_bundle)
    assert document["derived"]["fp32"]["cache_nbytes"] == 4 * geometry.cache_elements
    assert document["derived"]["fp16"]["cache_nbytes"] == 2 * geometry.cache_elements
    assert document["derived"]["fp32"]["scatter_nbytes"] == 4 * geometry.cache_elements * 3 // 7
    assert document["derived"]["fp32"]["cache_copies_nbytes_per_step"] == 0
    assert document["derived"]["fp32"]["flops_per_chunk"] > 0


def test_the_doctor_prints_text_or_json() -> None:
    result = invoke("doctor", "--json")
    report: dict[str, Any] = json.loads(result.stdout)

    assert result.exit_code == (1 if report["problems"] else 0)
    assert {"vdmrt", "python", "packages", "extras", "backends", "problems", "core_loads"} <= set(report)
    assert "onnxruntime on the CPU" in invoke("doctor").stdout


def test_the_console_script_runs() -> None:
    script = Path(sys.executable).with_name("vdmrt")
    done = subprocess.run([script, "inspect", "nowhere"], capture_output=True, text=True, timeout=60)

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "Error: nowhere: not a bundle: it has no model.json; make one with vdmrt export\n"


def test_a_run_replaces_a_clip_with_force(tiny_bundle: Path, latents: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.npy"
    output.write_bytes(b"old")
    succeed("run", tiny_bundle, "--latents", latents, *QUICK, "--output", output, "--force")

    assert len(read_latents(output)) == 8


def test_a_demo_replaces_the_previous_one(tmp_path: Path) -> None:
    for sky in ("11", "12"):
        result = succeed("demo", "--output", tmp_path, "--chunks", "1", "--steps", "2", "--sky", sky)

    assert "seed 12" in result.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sky.mp4", "sky.png"]


def test_the_demo_makes_a_clip_and_a_contact_sheet(tmp_path: Path) -> None:
    result = succeed("demo", "--output", tmp_path / "demo", "--chunks", "2", "--steps", "3", "--sky", "11")

    assert len(read_clip(tmp_path / "demo" / "sky.mp4", height=64, width=64, count=100)) == 9 + 2 * 8
    with Image.open(tmp_path / "demo" / "sky.png") as sheet:
        assert sheet.size == (5 * 72, 5 * 72)
    assert "25 latent frames, 2 chunks" in result.stdout and "seed 11" in result.stdout


def test_the_demo_needs_neither_torch_nor_onnx(tmp_path: Path) -> None:
    script = f"""
        import sys
        from vdmrt.media.demo import demo_request
        from vdmrt.media.generation import generate
        from pathlib import Path
        generate(demo_request(Path({str(tmp_path)!r}), sky=1, chunks=1, steps=2))
        assert not {{"torch", "onnx", "safetensors"}} & set(sys.modules), sorted(sys.modules)
    """

    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=120)
