"""``vdmrt build``, and engines in ``vdmrt inspect``, on a recorded TensorRT and a fake GPU."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from computing_recorder import let_compute
from fake_cuda import enabled_fake_cuda
from tensorrt_recorder import Recorder, install

from vdmrt.bundle import FP16, FP32, find_engine, list_engines, open_bundle
from vdmrt.cli import main
from vdmrt.errors import EngineError

FAILED, MISUSED = 1, 2


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture
def text(text_bundle: Path, tmp_path: Path) -> Path:
    """Return a copy of a bundle for one request, with rows in the layout that TensorRT needs."""
    return Path(shutil.copytree(text_bundle, tmp_path / "text"))


@pytest.fixture
def recorder(bundle: Path) -> Iterator[Recorder]:
    with enabled_fake_cuda(), install("10.16", gpu="vdmrt fake GPU", compute_capability="9.0") as recorder:
        yield recorder


def build(bundle: Path, *options: object) -> Result:
    return CliRunner().invoke(main, ["build", str(bundle), *map(str, options)])


def test_build_prints_the_engines_folder(bundle: Path, recorder: Recorder) -> None:
    done = build(bundle, "--check", "off")

    assert done.exit_code == 0, done.output
    (engine,) = list_engines(open_bundle(bundle))
    assert done.stdout.strip() == str(engine.path)
    assert engine.manifest.precision == FP16
    assert "[I] denoise: built in" in done.stderr


def test_build_prints_the_manifest_as_json(bundle: Path, recorder: Recorder) -> None:
    done = build(bundle, "--check", "off", "--json", "--workspace", "4GiB", "--builder-optimization-level", "2")

    document = json.loads(done.stdout)
    assert document["machine"]["tensorrt"] == recorder.version
    assert document["options"]["workspace_nbytes"] == str(4 << 30)
    assert document["options"]["optimization_level"] == "2"


def test_dry_run_builds_nothing(bundle: Path, recorder: Recorder) -> None:
    done = build(bundle, "--dry-run")

    assert done.exit_code == 0, done.output
    assert recorder.named("Builder.__init__") == []
    assert not (bundle / "engines").exists()
    assert re.search(r"KV cache +21 KiB a lane", done.stdout)
    assert re.search(r"engine +.*/engines/trt10\.16\.1\.11-sm90-vdmrt-fake-gpu-fp16-\w{12}\n", done.stdout)
    assert len(re.findall("^trtexec --onnx=.* --stronglyTyped", done.stdout, re.MULTILINE)) == 4


def test_dry_run_of_a_graph_that_was_not_lowered_names_the_exported_one(bundle: Path) -> None:
    with enabled_fake_cuda(), install("8.5"):
        done = build(bundle, "--dry-run")

    assert done.exit_code == 0, done.output
    assert re.search(
        "^trtexec --onnx=.*denoise.fp16.onnx .*--fp16 --precisionConstraints=obey", done.stdout, re.MULTILINE
    )


def test_dry_run_needs_no_gpu(bundle: Path) -> None:
    done = build(bundle, "--dry-run", "--precision", "fp32")

    assert done.exit_code == 0, done.output
    assert re.search(r"KV cache +42 KiB a lane", done.stdout)
    assert "[W] building TensorRT engines needs an NVIDIA GPU" in done.stderr


@pytest.mark.parametrize(
    ("options", "status", "sentence"),
    [
        (["--workspace", "much"], MISUSED, "wanted a size like 4GiB or 512MiB, got 'much'"),
        (["--workspace", "0"], MISUSED, "wanted a size like 4GiB"),
        (["--builder-optimization-level", "6"], MISUSED, "6 is not in the range 0<=x<=5"),
        (["--hardware-compatibility", "all"], MISUSED, "'all' is not one of"),
        (["--external-tactics", "--check", "off"], 0, ""),
    ],
)
def test_bad_options_are_one_sentence(
    bundle: Path, recorder: Recorder, options: list[str], status: int, sentence: str
) -> None:
    done = build(bundle, *options)

    assert done.exit_code == status, done.output
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_no_gpu_is_one_sentence(bundle: Path) -> None:
    done = build(bundle)

    assert done.exit_code == FAILED
    assert "Error: building TensorRT engines needs an NVIDIA GPU" in done.stderr
    assert done.stdout == ""


def test_an_engine_is_checked_against_onnx_runtime(text: Path, recorder: Recorder) -> None:
    let_compute(recorder, open_bundle(text), "fp32")

    done = build(text)

    assert done.exit_code == 0, done.output
    (engine,) = list_engines(open_bundle(text))
    checks = {check.name: check for check in engine.manifest.checks}
    assert list(checks) == ["runs", "agrees", "faster"]
    assert checks["agrees"].passed
    said = r"relative L2 \S+ to ONNX Runtime after 4 steps, \S+ of K and V, the worst of \d chunks, wanted 0\.001"
    assert re.fullmatch(said, checks["agrees"].detail)
    assert not checks["faster"].required
    assert "agrees: yes, relative L2" in CliRunner().invoke(main, ["inspect", str(text)]).stdout


def test_an_engine_that_disagrees_with_onnx_runtime_is_kept_but_never_run(text: Path, recorder: Recorder) -> None:
    let_compute(recorder, open_bundle(text), "fp32", error=0.01)

    done = build(text)

    assert done.exit_code == FAILED, done.output
    assert re.search(r"Error: .*: the engine was built and fails its check 'agrees': relative L2", done.stderr)
    (engine,) = list_engines(open_bundle(text))
    assert [check.passed for check in engine.manifest.checks if check.name == "agrees"] == [False]
    with pytest.raises(EngineError, match="failed its check 'agrees' after it was built"):
        find_engine(open_bundle(text), FP32, engine.manifest.machine)


def test_an_engine_that_does_not_run_is_never_run_again(text: Path, recorder: Recorder) -> None:
    recorder.fail("execute_async_v3", at=0, returns=False, log="Error Code 1: Cuda Runtime (invalid argument)")

    done = build(text)

    assert done.exit_code == FAILED, done.output
    assert re.search(r"fails its check 'runs': .*Error Code 1: Cuda Runtime", done.stderr)


def test_a_checked_engine_is_not_checked_again(text: Path, recorder: Recorder) -> None:
    let_compute(recorder, open_bundle(text), "fp32")
    build(text)
    runs = len(recorder.named("execute_async_v3"))

    assert build(text).exit_code == 0
    assert len(recorder.named("execute_async_v3")) == runs > 0


def test_inspect_shows_engines(bundle: Path, recorder: Recorder) -> None:
    build(bundle, "--check", "off")

    shown = CliRunner().invoke(main, ["inspect", str(bundle)], env={"COLUMNS": "200"})
    document = json.loads(CliRunner().invoke(main, ["inspect", str(bundle), "--json"]).stdout)

    assert "engine trt10.16.1.11-sm90-vdmrt-fake-gpu-fp16-" in shown.stdout
    assert "TensorRT 10.16.1.11 on vdmrt fake GPU (compute capability 9.0" in shown.stdout
    assert "28 fp16, 6 fp32" in shown.stdout
    assert "denoise: 2 CachedAttention as one Softmax over concatenated keys" in shown.stdout
    (engine,) = document["engines"]
    assert engine["plans"]["denoise"]["audit"]["products"] == {"fp16": 28, "fp32": 6}


def test_inspect_of_a_bundle_without_engines_lists_none(tiny_bundle: Path) -> None:
    document = json.loads(CliRunner().invoke(main, ["inspect", str(tiny_bundle), "--json"]).stdout)

    assert document["engines"] == []


def test_an_onnx_runtime_engine_is_built_checked_and_shown(bundle: Path) -> None:
    done = build(bundle, "--backend", "onnxruntime", "--precision", "fp16")

    assert done.exit_code == 0, done.output
    (engine,) = list_engines(open_bundle(bundle))
    assert done.stdout.strip() == str(engine.path)
    assert "[I] denoise: optimized by ONNX Runtime" in done.stderr
    assert [(check.name, check.passed) for check in engine.manifest.checks if check.required] == [
        ("runs", True),
        ("agrees", True),
    ]
    shown = CliRunner().invoke(main, ["inspect", str(bundle)], env={"COLUMNS": "200"}).stdout
    assert f"engine {engine.manifest.key}\n" in shown
    assert re.search(r"ONNX Runtime \S+, CPUExecutionProvider, on a CPU with \S+", shown)


def test_dry_run_of_an_onnx_runtime_engine_prints_its_folder(bundle: Path) -> None:
    done = build(bundle, "--backend", "onnxruntime", "--dry-run")

    assert done.exit_code == 0, done.output
    assert re.search(r"engine +.*/engines/ort\d\S*-cpu-fp32-\w{12}\n", done.stdout)
    assert not (bundle / "engines").exists()


@pytest.mark.parametrize("option", [["--workspace", "4GiB"], ["--refit"], ["--hardware-compatibility", "none"]])
def test_options_of_tensorrt_are_refused_for_onnx_runtime(bundle: Path, option: list[str]) -> None:
    done = build(bundle, "--backend", "onnxruntime", *option)

    assert done.exit_code == MISUSED
    assert f"{option[0]} is for TensorRT; leave it out with --backend onnxruntime" in done.stderr


def test_a_run_prints_its_engine_unless_engines_are_turned_off(bundle: Path, tmp_path: Path) -> None:
    build(bundle, "--backend", "onnxruntime", "--check", "off")
    np.save(tmp_path / "latents.npy", np.zeros((1, 4, 4, 6), np.float32))
    options = ["--latents", str(tmp_path / "latents.npy"), "--chunks", "1", "--steps", "1", "--seed", "0"]

    for more, engine in ([], True), (["--no-engine"], False):
        output = str(tmp_path / f"{engine}.npy")
        done = CliRunner().invoke(main, ["run", str(bundle), *options, "--output", output, *more])

        assert done.exit_code == 0, done.output
        assert ("engine ort" in done.stdout) is engine


@pytest.mark.parametrize("file", ["fill.onnx", "weights.bin"])
def test_inspect_verifies_engines_too(bundle: Path, file: str) -> None:
    build(bundle, "--backend", "onnxruntime", "--precision", "fp16", "--check", "off")
    assert CliRunner().invoke(main, ["inspect", str(bundle), "--verify"]).exit_code == 0
    (path,) = bundle.glob(f"engines/*/{file}")
    path.write_bytes(path.read_bytes()[:-1] + b"?")

    done = CliRunner().invoke(main, ["inspect", str(bundle), "--verify"])

    assert done.exit_code == FAILED
    assert re.search(rf"{file}: wanted SHA-256 \w+…, found", done.stderr)
