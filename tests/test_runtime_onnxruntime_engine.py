"""Bundles run from an ONNX Runtime engine: the same latents, said aloud, and never in silence anything else."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from calibrated import calibrate_copy
from golden import relative_error

import vdmrt
from vdmrt.bundle import Bundle, Check, Engine, Machine, open_bundle, record_checks, sha256_of
from vdmrt.engines import build_models
from vdmrt.errors import BackendError, BundleError, EngineError
from vdmrt.hosts import describe_cpu
from vdmrt.runtime.backends.onnxruntime_program import OnnxRuntimeCpuProgram, OnnxRuntimeTimedProgram


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    return open_bundle(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def build(bundle: Bundle, precision: str = "fp16") -> Engine:
    return build_models(bundle, precision=precision, progress=list[str]().append)


def rollout(bundle: Bundle, precision: str = "fp16", **options: Any) -> tuple[str, npt.NDArray[np.float32]]:
    """Make chunks until the cache has wrapped; return what runs, and the latents."""
    with vdmrt.load(bundle.path, backend="onnxruntime", precision=precision, threads=1, **options) as model:
        g = model.manifest.geometry
        first = np.random.default_rng(0).standard_normal((1, *g.latent_shape)).astype(np.float32)
        with model.session(seed=3, steps=2) as session:
            session.start(first)
            latents = np.concatenate([chunk.latents for chunk in session.stream(4)])
        return model.describe(), latents


def pretend(engine: Engine, **machine: str) -> None:
    """Have an engine say that it was built elsewhere."""
    path = engine.path / "manifest.json"
    document = json.loads(path.read_text())
    document["machine"].update(machine)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_makes_these_latents_and_is_named(bundle: Bundle, precision: str) -> None:
    engine = build(bundle, precision)

    said, latents = rollout(bundle, precision)
    theirs, wanted = rollout(bundle, precision, use_engine=False)

    assert said == f"{theirs}, engine {engine.manifest.key}"
    assert relative_error(latents, wanted) < (1e-5 if precision == "fp32" else 2e-3)


@pytest.fixture(scope="module")
def quantized(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("quantized")
    for options in ({"precision": "int8", "kv": "int8"}, {"precision": "fp8"}, {"precision": "int8", "kv": "fp8"}):
        calibrate_copy(tiny_bundle, folder, **options)
    return open_bundle(folder / "bundle")


@pytest.mark.parametrize("precision", ["int8-kv8", "fp8", "int8-kvf8"])
def test_quantized_graphs_run_from_an_engine_too(quantized: Bundle, precision: str) -> None:
    build(quantized, precision)

    said, latents = rollout(quantized, precision)

    assert f"-{precision}-" in said
    assert relative_error(latents, rollout(quantized, precision, use_engine=False)[1]) < 1e-2


def test_pictures_are_decoded_by_the_engine(bundle: Bundle) -> None:
    latents = np.random.default_rng(0).standard_normal((3, 4, 4, 6)).astype(np.float32)
    pictures = []
    for _ in range(2):
        with vdmrt.load(bundle.path, precision="fp16", threads=1) as model:
            assert model.codec is not None
            pictures.append(model.codec.decode(latents))
        build(bundle)

    assert np.array_equal(pictures[0], pictures[1])


def test_without_an_engine_nothing_is_said(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    build(bundle, "fp32")

    with caplog.at_level(logging.WARNING, "vdmrt"):
        assert "engine" not in rollout(bundle, "fp16")[0]
    assert caplog.records == []


@pytest.mark.parametrize(
    ("machine", "sentence"),
    [
        ({"onnxruntime": "1.0.0"}, r"built with ONNX Runtime 1\.0\.0, here is \d"),
        ({"provider": "CUDAExecutionProvider"}, "built for CUDAExecutionProvider, here is CPUExecutionProvider"),
        ({"cpu": "x86_64 avx1024"}, r"built on a CPU with x86_64 avx1024, here is one with \S+"),
    ],
)
def test_an_engine_that_does_not_fit_is_warned_of_and_not_run(
    bundle: Bundle, caplog: pytest.LogCaptureFixture, machine: dict[str, str], sentence: str
) -> None:
    pretend(build(bundle), **machine)

    with caplog.at_level(logging.WARNING, "vdmrt"):
        assert "engine" not in rollout(bundle)[0]
    (record,) = caplog.records
    command = r"build one with vdmrt build \S+ --precision fp16 --backend onnxruntime"
    start = "running the graphs as they were exported, not an engine: "
    assert re.match(rf"{start}.*no fp16 engine fits; {command}\. \S+: {sentence}", record.getMessage())


def test_an_engine_of_another_graph_is_not_run(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    engine = build(bundle)
    document = json.loads((engine.path / "manifest.json").read_text())
    document["plans"]["denoise"]["graph_sha256"] = "0" * 64
    (engine.path / "manifest.json").write_text(json.dumps(document))

    rollout(bundle)
    assert "'denoise' was built from a graph of SHA-256 0000000000000000, the bundle's is" in caplog.text


def test_an_engine_that_failed_its_check_is_not_run(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    record_checks(build(bundle), (Check("agrees", False, "relative L2 1"),))

    assert "engine" not in rollout(bundle)[0]
    assert "failed its check 'agrees' after it was built: relative L2 1" in caplog.text


def test_a_damaged_manifest_is_warned_of(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    (build(bundle).path / "manifest.json").write_text("{")

    assert "engine" not in rollout(bundle)[0]
    assert "is not valid JSON or is truncated" in caplog.text


@pytest.mark.parametrize("file", ["denoise.onnx", "weights.bin"])
def test_an_altered_file_is_refused(bundle: Bundle, file: str) -> None:
    path = build(bundle).path / file
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))

    with pytest.raises(EngineError, match=rf"{file}: wanted SHA-256 \w+…, found \w+…; .* was altered: build the eng"):
        rollout(bundle)


@pytest.mark.parametrize("file", ["denoise.onnx", "weights.bin"])
def test_a_truncated_file_is_refused_also_without_hashes(bundle: Bundle, file: str) -> None:
    os.truncate(build(bundle).path / file, 100)

    with pytest.raises(EngineError, match=rf"{file}: wanted \d+ bytes, found 100; .* truncated or was altered"):
        rollout(bundle, verify=False)


@pytest.mark.parametrize("file", ["denoise.onnx", "weights.bin"])
def test_a_link_is_refused(bundle: Bundle, file: str, tmp_path: Path) -> None:
    path = build(bundle).path / file
    shutil.move(path, tmp_path / file)
    path.symlink_to(tmp_path / file)

    with pytest.raises(EngineError, match=rf"{file}: is a link; an engine contains regular files only"):
        rollout(bundle)


def test_a_missing_file_is_refused(bundle: Bundle) -> None:
    (build(bundle).path / "weights.bin").unlink()

    with pytest.raises(EngineError, match=r"weights\.bin: cannot be read: No such file.*; build the engine again"):
        rollout(bundle)


def test_weights_from_elsewhere_are_refused(bundle: Bundle) -> None:
    engine = build(bundle)
    path = engine.path / "denoise.onnx"
    model = onnx.load(str(path), load_external_data=False)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    next(entry for entry in tensor.external_data if entry.key == "location").value = "../../etc/passwd"
    path.write_bytes(model.SerializeToString())
    plan = engine.plan("denoise")
    file = dataclasses.replace(plan.file, sha256=sha256_of(path), nbytes=path.stat().st_size)
    document = json.loads((engine.path / "manifest.json").read_text())
    document["plans"]["denoise"]["file"] = dataclasses.asdict(file)
    (engine.path / "manifest.json").write_text(json.dumps(document))

    with pytest.raises(BundleError, match=r"names weights in '../../etc/passwd', where the bundle has 'graphs/weigh"):
        rollout(bundle)


def test_a_weights_file_must_be_a_plain_name(bundle: Bundle) -> None:
    engine = build(bundle)
    document = json.loads((engine.path / "manifest.json").read_text())
    document["plans"]["fill"]["weights"]["file"] = "../weights.bin"
    (engine.path / "manifest.json").write_text(json.dumps(document))

    with pytest.raises(EngineError, match=r"plans\.fill\.weights\.file: wanted a plain file name, found '\.\./weig"):
        vdmrt.bundle.open_engine(engine.path)


@pytest.mark.parametrize(
    ("text", "sets"),
    [
        ("model name\t: x\nflags\t\t: fpu avx512f avx2 fma sse4_1 rdtscp\n", "sse4_1 avx2 fma avx512f"),
        ("Features\t: fp asimd i8mm sve evtstrm\n", "asimd i8mm sve"),
    ],
)
def test_a_cpu_is_its_instruction_sets(tmp_path: Path, text: str, sets: str) -> None:
    (tmp_path / "cpuinfo").write_text(text)

    assert describe_cpu(tmp_path / "cpuinfo").partition(" ")[2] == sets


def test_a_machine_knows_whose_engines_it_runs() -> None:
    assert Machine("10.3.0", "9.0", "GPU").backend == "tensorrt"
    assert Machine(onnxruntime="1.32.0", provider="CPUExecutionProvider", cpu=describe_cpu()).backend == "onnxruntime"
    assert describe_cpu(Path("/nowhere"))


@pytest.mark.parametrize("fails", ["opening", "checking"])
def test_a_timed_program_that_fails_to_load_removes_its_folder(bundle: Bundle, fails: str) -> None:
    folders: list[Path] = []
    with vdmrt.load(bundle.path, backend="onnxruntime", precision="fp32", threads=1) as model:
        fill, denoise = model.program("fill"), model.program("denoise")
        assert isinstance(fill, OnnxRuntimeCpuProgram) and isinstance(denoise, OnnxRuntimeCpuProgram)

        def open_profiled(path: Path) -> Any:
            folders.append(path.parent)
            if fails == "opening":
                raise BackendError("only 'fill' is not opened")
            return denoise._session

        with pytest.raises((BackendError, BundleError), match="only ") as caught:
            OnnxRuntimeTimedProgram(fill._source, open_profiled)

    assert caught.tb is not None  # what keeps the program, and with it a folder that was not removed
    assert [folder.exists() for folder in folders] == [False]
