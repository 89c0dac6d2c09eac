"""Bad input ends with one sentence and an exit status: 1 for a failure, 2 for misuse."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from vdmrt.cli import main
from vdmrt.errors import BundleError

FAILED, MISUSED = 1, 2
CONFIG = {"input_size": [8, 4, 4], "hidden_size": 16, "depth": 1, "num_heads": 2, "max_tpe_len": 33}


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def assert_refused(result: Result, status: int, sentence: str) -> None:
    """Compare the last paragraph of stderr with a pattern."""
    assert result.exit_code == status, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.stderr
    assert re.search(f"Error: .*{sentence}", result.stderr), result.stderr
    assert result.stdout == ""


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """Yield latents for the tiny bundle."""
    path = tmp_path / "first.npy"
    np.save(path, np.zeros((1, 4, 4, 6), np.float32))
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.json"
    path.write_text(json.dumps(CONFIG))
    return path


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "give exactly one of --image, --video and --latents, got 0"),
        (["--image", "a.png", "--video", "b.mp4"], "give exactly one of --image, --video and --latents, got 2"),
        (["--image", "a.png", "--chunks", "-3"], "'--chunks': -3 is not in the range x>=1"),
        (["--image", "a.png", "--chunks", "two"], "Invalid value for '--chunks': 'two' is not a valid integer"),
        (["--image", "a.png", "--given", "2"], "--given must be at least 1 and goes with --video, got 2"),
        (["--image", "a.png", "--precision", "fp64"], "'fp64' is not one of 'fp32', 'fp16'"),
        (["--image", "a.png", "--speed", "9"], "No such option '?--speed"),
    ],
)
def test_misuse_is_refused_before_anything_is_read(options: list[str], sentence: str) -> None:
    assert_refused(invoke("run", "nowhere", *options, "--output", "out.mp4"), MISUSED, sentence)


@pytest.mark.parametrize(
    ("options", "status", "sentence"),
    [
        (["--steps", "7"], MISUSED, "exported for at most 6 steps, got 7; export again with --max-steps 7"),
        (["--steps", "1", "--sampler", "iddpm"], MISUSED, "Sampler 'iddpm' needs at least 2 and at most 1000"),
        (["--sampler", "flow-euler"], MISUSED, "predicts flow, this one predicts v; choose iddpm, ddpm, ddim"),
        (["--guidance", "3"], MISUSED, "the bundle has no null rows, so guidance must be 1, got 3.0"),
        (["--prefix-noise", "1000"], MISUSED, "timestep < 1000, got 1000"),
        (["--text", "{first}"], MISUSED, "the model has no text; leave out text and text_mask"),
        (["--text", "nowhere.npy"], FAILED, "'nowhere.npy' does not exist, text embeddings, .* was wanted"),
    ],
)
def test_options_that_do_not_fit_the_bundle_are_refused(
    tiny_bundle: Path, first: Path, tmp_path: Path, options: list[str], status: int, sentence: str
) -> None:
    output = tmp_path / "out.npy"
    given = [option.format(first=first) for option in options]
    assert_refused(invoke("run", tiny_bundle, "--latents", first, *given, "--output", output), status, sentence)

    assert sorted(tmp_path.iterdir()) == [first]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("picture.png", b"not a picture", "picture.png' is not a picture: it starts with"),
        ("picture.png", b"", "picture.png' is empty, wanted a picture"),
        ("picture.png", b"\x89PNG\r\n\x1a\n\0", "picture.png' is truncated or damaged"),
        ("picture.png", None, "picture.png' does not exist"),
    ],
)
def test_an_unreadable_picture_is_refused(
    tiny_bundle: Path, tmp_path: Path, name: str, content: bytes | None, sentence: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    output = tmp_path / "out.mp4"
    assert_refused(invoke("run", tiny_bundle, "--image", tmp_path / name, "--output", output), FAILED, sentence)

    assert not output.exists()


@pytest.mark.parametrize(
    ("latents", "sentence"),
    [
        (np.zeros((1, 4, 6, 4), np.float32), r"'latents': wanted \[n, c, h, w\] = \[any, 4, 4, 6\], found \[1, "),
        (np.zeros((8, 4, 4, 6), np.float32), "the cache holds 1 to 7 given latent frames, got 8"),
        (np.full((1, 4, 4, 6), np.nan, np.float32), "96 of 96 values are NaN or infinite"),
        (np.zeros((1, 4, 4, 6), np.int32), "contains int32, latents are float16, float32 or float64"),
        (np.zeros((4, 4, 6), np.float32), r"has shape \[4, 4, 6\], latents are \[latent frames, channels, "),
    ],
)  # fmt: skip
def test_latents_that_do_not_fit_are_refused(
    tiny_bundle: Path, tmp_path: Path, latents: npt.NDArray[np.generic], sentence: str
) -> None:
    np.save(tmp_path / "in.npy", latents)
    result = invoke("run", tiny_bundle, "--latents", tmp_path / "in.npy", "--output", tmp_path / "out.npy")
    assert_refused(result, FAILED, sentence)

    assert not (tmp_path / "out.npy").exists()


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("out.avi", "out.avi"),
        ("out", "out"),
        ("no/folder/out.mp4", "no/folder"),
        ("folder.mp4", "folder.mp4"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_bundle_is_read(
    tmp_path: Path, output: str, sentence: str
) -> None:
    (tmp_path / "folder.mp4").mkdir()
    result = invoke("run", "nowhere", "--image", "nowhere.png", "--output", tmp_path / output)

    assert_refused(result, MISUSED, f"Invalid value for '--output': .*{sentence}")


def test_a_run_never_overwrites_without_force(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").write_text("old")
    result = invoke("run", "nowhere", "--image", "nowhere.png", "--output", tmp_path / "out.mp4")

    assert_refused(result, FAILED, "out.mp4' already exists; choose another name, or replace it with --force")
    assert (tmp_path / "out.mp4").read_text() == "old"


def test_a_system_error_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.json").mkdir()

    assert_refused(invoke("inspect", tmp_path), FAILED, "model.json: cannot be read: Is a directory")


def test_a_bundle_without_codec_takes_and_makes_latents_only(tiny_bundle: Path, first: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_bundle, tmp_path / "copy")
    document = json.loads((copy / "model.json").read_text())
    document["codec"] = None
    (copy / "model.json").write_text(json.dumps(document))
    Image.new("RGB", (48, 32)).save(tmp_path / "in.png")

    to_clip = invoke("run", copy, "--latents", first, "--output", tmp_path / "out.mp4")
    from_picture = invoke("run", copy, "--image", tmp_path / "in.png", "--output", tmp_path / "out.npy")

    assert_refused(to_clip, FAILED, "out.mp4: the bundle has no codec and generates latents only; choose an .npy file")
    assert_refused(from_picture, FAILED, "the bundle has no codec and takes latents only; give --latents")


@pytest.mark.parametrize(
    ("text", "mask", "status", "sentence"),
    [
        (None, None, MISUSED, r"the model wants text embeddings \[tokens <= 5, 8\], got none"),
        (np.zeros((3, 7), np.float32), None, FAILED, r"'text': wanted \[tokens, width\] = \[any, 8\], found \[3, 7\]"),
        (np.zeros((6, 8), np.float32), None, MISUSED, "the model takes 1 to 5 tokens, got 6"),
        (np.zeros((3, 8), np.float32), np.ones(2), FAILED, r"'text_mask': wanted \[tokens\] = \[3\], found \[2\]"),
        (np.array(["a"]), None, FAILED, "text.npy' is not text embeddings, .*: its dtype is <U1"),
        (np.array([{}]), None, FAILED, "text.npy' is not text embeddings, .npy .tokens, width.: "),
        (np.zeros((3, 8), np.float32), np.array(["a"]), FAILED, "mask.npy' is not a text mask, .*: its dtype is <U1"),
    ],
)
def test_text_that_does_not_fit_is_refused(
    text_bundle: Path,
    tmp_path: Path,
    text: npt.NDArray[np.generic] | None,
    mask: npt.NDArray[np.generic] | None,
    status: int,
    sentence: str,
) -> None:
    np.save(tmp_path / "first.npy", np.zeros((1, 4, 4, 4), np.float32))
    options: list[object] = []
    for name, array in (("text", text), ("mask", mask)):
        if array is not None:
            np.save(tmp_path / f"{name}.npy", array)
            options += [{"text": "--text", "mask": "--text-mask"}[name], tmp_path / f"{name}.npy"]
    common = ["--chunks", 2, "--latents", tmp_path / "first.npy", "--output", tmp_path / "out.npy"]
    assert_refused(invoke("run", text_bundle, *common, *options), status, sentence)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x04.", b"\x93NUMPY\x01\x00\x10\x00"])
def test_text_that_is_not_an_array_is_refused(text_bundle: Path, tmp_path: Path, content: bytes) -> None:
    np.save(tmp_path / "first.npy", np.zeros((1, 4, 4, 4), np.float32))
    (tmp_path / "text.npy").write_bytes(content)
    common = ["--latents", tmp_path / "first.npy", "--output", tmp_path / "out.npy"]
    result = invoke("run", text_bundle, *common, "--text", tmp_path / "text.npy")

    assert_refused(result, FAILED, "text.npy' is not text embeddings, .npy .tokens, width.: ")


def test_a_truncated_text_file_is_refused(text_bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "first.npy", np.zeros((1, 4, 4, 4), np.float32))
    np.save(tmp_path / "text.npy", np.zeros((5, 8), np.float32))
    os.truncate(tmp_path / "text.npy", 150)
    common = ["--latents", tmp_path / "first.npy", "--output", tmp_path / "out.npy"]
    result = invoke("run", text_bundle, *common, "--text", tmp_path / "text.npy")

    assert_refused(result, FAILED, "text.npy' is not text embeddings, .*: mmap length is greater than file size")


@pytest.mark.parametrize("command", ["run", "inspect"])
def test_a_folder_that_is_not_a_bundle_is_refused(tmp_path: Path, first: Path, command: str) -> None:
    options = ["--latents", first, "--output", tmp_path / "out.npy"] if command == "run" else []
    result = invoke(command, tmp_path, *options)

    assert_refused(result, FAILED, f"{tmp_path}: not a bundle: it has no model.json; make one with vdmrt export")


def test_an_altered_bundle_is_neither_run_nor_verified(tiny_bundle: Path, first: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_bundle, tmp_path / "copy")
    weights = copy / "graphs" / "weights.fp32.bin"
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.write_bytes(content)
    sentence = "weights.fp32.bin: wanted SHA-256 .*; the file was altered"

    assert_refused(invoke("inspect", copy, "--verify"), FAILED, sentence)
    assert_refused(invoke("run", copy, "--latents", first, "--output", tmp_path / "out.npy"), FAILED, sentence)
    assert invoke("inspect", copy).exit_code == 0


def test_the_traceback_is_shown_on_request(tmp_path: Path) -> None:
    assert isinstance(invoke("--traceback", "inspect", tmp_path).exception, BundleError)


def test_an_unknown_command_is_misuse() -> None:
    assert_refused(invoke("deploy"), MISUSED, "No such command 'deploy'")


@pytest.mark.parametrize(
    ("options", "status", "sentence"),
    [
        (["--config", "{config}"], MISUSED, "give either CHECKPOINT or --random-init SEED"),
        (["w.pth", "--config", "{config}", "--random-init", "1"], MISUSED, "give either CHECKPOINT or --random-init"),
        (["--random-init", "1"], MISUSED, "Missing option '--config'"),
        (["w.pth", "--config", "{config}"], FAILED, "w.pth: no such checkpoint; wanted a file or a folder with"),
        (["--config", "XL", "--random-init", "1"], FAILED, "XL: not a readable JSON or YAML file and no preset"),
        (["--config", "{config}", "--random-init", "-1"], MISUSED, "'--random-init': -1 is not in the range"),
        (
            ["--config", "{config}", "--random-init", "1", "--slots", "4"],
            MISUSED,
            "slots must be at least --chunk-frames 8, got 4",
        ),
        (
            ["--config", "{config}", "--random-init", "1", "--slots", "40"],
            MISUSED,
            "there are 33 absolute positions, .*, got --slots 40; use --slots 33 or fewer",
        ),
        (["--config", "{config}", "--random-init", "1", "--slots", "-4"], MISUSED, "'--slots': -4 is not in the range"),
        (["--config", "{config}", "--random-init", "1", "--requests", "0"], MISUSED, "'--requests': 0 is not in the"),
        (
            ["--config", "{config}", "--random-init", "1", "--chunk-frames", "-1"],
            MISUSED,
            "'--chunk-frames': -1 is not",
        ),
        (["--config", "{config}", "--random-init", "1", "--max-steps", "0"], MISUSED, "'--max-steps': 0 is not in the"),
        (
            ["--config", "{config}", "--random-init", "1", "--max-steps", "99999999999"],
            MISUSED,
            "'--max-steps': 99999999999 is not in the range 1<=x<=1000",
        ),
        (
            ["--config", "{config}", "--random-init", "1", "--weights", "ema"],
            MISUSED,
            "--weights selects a set of CHECKPOINT; omit it with --random-init",
        ),
        (
            ["--config", "CausalSTDiT2-S/2", "--random-init", "1", "--latent-size", "100000x100000"],
            FAILED,
            "latents of 100000x100000 needs 3.64 TiB of memory, and the host has .* available; check its sizes, or",
        ),
        (["--config", "{config}", "--random-init", "1", "--precision", "int4"], MISUSED, "'int4' is not one of"),
    ],
)
def test_impossible_exports_are_refused(
    config: Path, tmp_path: Path, options: list[str], status: int, sentence: str
) -> None:
    given = [option.format(config=config) for option in options]
    result = invoke("export", *given, "--output", tmp_path / "bundle")

    assert "Error: " in result.stderr
    assert_refused(result, status, sentence)
    assert sorted(tmp_path.iterdir()) == [config]


@pytest.mark.parametrize("size", ["big", "4x", "x4", "4x4x4", "-4", "4,4", "²", ""])
def test_a_malformed_latent_size_is_refused(config: Path, tmp_path: Path, size: str) -> None:
    common = ["--config", config, "--random-init", "1", "--output", tmp_path / "bundle"]
    result = invoke("export", *common, "--latent-size", size)

    assert_refused(result, MISUSED, f"'--latent-size': wanted HEIGHTxWIDTH like 32x32, got '{size}'")


def test_a_latent_size_that_does_not_divide_is_refused(config: Path, tmp_path: Path) -> None:
    common = ["--config", config, "--random-init", "1", "--output", tmp_path / "bundle"]
    result = invoke("export", *common, "--latent-size", "5x6")

    assert_refused(result, MISUSED, "--latent-size 5x6 is not two positive multiples of the patch size 2, at most")


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("small.json", "small.json: already exists and is not a bundle; choose another place"),
        ("no/bundle", "/no' is not a folder; make it first"),
        ("copy", "copy: already exists; choose another place, or replace it with --force"),
    ],
)
def test_an_export_never_overwrites_without_force(
    tiny_bundle: Path, config: Path, tmp_path: Path, output: str, sentence: str
) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "copy")
    result = invoke("export", "--config", config, "--random-init", "1", "--output", tmp_path / output)

    assert_refused(result, FAILED, sentence)


@pytest.mark.parametrize(
    ("options", "status", "sentence"),
    [
        (["--chunks", "0"], MISUSED, "'--chunks': 0 is not in the range x>=1"),
        (["--steps", "200"], MISUSED, "exported for at most 100 steps, got 200; export again with --max-steps 200"),
        (["--sky", "-1"], MISUSED, "'--sky': -1 is not in the range 0<=x<=999999"),
    ],
)
def test_an_impossible_demo_leaves_nothing(tmp_path: Path, options: list[str], status: int, sentence: str) -> None:
    result = invoke("demo", "--output", tmp_path / "demo", *options)

    assert_refused(result, status, sentence)
    assert not (tmp_path / "demo").exists() or not list((tmp_path / "demo").iterdir())


def test_a_demo_into_a_file_is_refused(config: Path) -> None:
    assert_refused(invoke("demo", "--output", config), FAILED, "small.json' cannot be made: File exists; give another")


def test_more_chunks_than_absolute_positions_are_refused_at_once(text_bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "first.npy", np.zeros((1, 4, 4, 4), np.float32))
    np.save(tmp_path / "text.npy", np.zeros((2, 8), np.float32))
    out = tmp_path / "out.npy"

    result = invoke(
        "run", text_bundle, "--latents", tmp_path / "first.npy", "--text", tmp_path / "text.npy",
        "--steps", 2, "--chunks", 9, "--output", out,
    )  # fmt: skip

    assert_refused(result, MISUSED, "--chunks must be at most 4, got 9: the model's absolute positions end at 9 latent")
    assert not out.exists()
