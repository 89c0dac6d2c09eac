"""ONNX Runtime engines for its CUDA provider: built without a GPU, checked here by the CPU provider."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from fake_cuda import FakeCuda
from golden import relative_error
from host_function_backend import HostFunctionBackend
from tiny import TINY

from vdmrt.building import build_engine
from vdmrt.bundle import FP16, FP32, Bundle, Engine, Machine, find_engine, list_engines, open_bundle
from vdmrt.calibration.verify.engine_check import check_engine
from vdmrt.cli import main
from vdmrt.engines import ModelOptions, build_models
from vdmrt.errors import EngineError
from vdmrt.runtime import Model
from vdmrt.runtime.backends.load_options import LoadOptions
from vdmrt.runtime.backends.resolution import resolve

FAILED, MISUSED = 1, 2
ON_CUDA = LoadOptions(backend="onnxruntime", device="cuda", precision=FP16)


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    return open_bundle(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def build(bundle: Bundle, precision: str = "fp16", *, cuda: bool = True, said: list[str] | None = None) -> Engine:
    options = ModelOptions(provider="cuda" if cuda else "cpu")
    lines: list[str] = [] if said is None else said
    return build_models(bundle, precision=precision, options=options, progress=lines.append)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)), env={"COLUMNS": "200"})


def pretend(engine: Engine, version: str) -> None:
    """Have an engine say that another release built it."""
    path = engine.path / "manifest.json"
    document = json.loads(path.read_text())
    document["machine"]["onnxruntime"] = version
    path.write_text(json.dumps(document))


def test_an_engine_for_cuda_is_bound_to_the_release_alone_and_records_its_forms(bundle: Bundle) -> None:
    said = list[str]()
    manifest = build(bundle, said=said).manifest

    version = manifest.machine.onnxruntime
    assert manifest.machine == Machine(onnxruntime=version, provider="CUDAExecutionProvider")
    assert manifest.key.startswith(f"ort{version}-cuda-fp16-") and "level" not in manifest.options
    assert f"denoise: {TINY.depth} CachedAttention as com.microsoft.MultiHeadAttention" in said
    assert any(re.match(r"denoise: rewritten for CUDA in ONNX Runtime \S+ in ", line) for line in said)
    assert not any("optimize" in line for line in said)


def test_every_weight_of_it_stays_in_the_bundle(bundle: Bundle) -> None:
    engine = build(bundle)

    assert {path.name for path in engine.path.iterdir()} == {
        "manifest.json",
        *(f"{s}.onnx" for s in engine.manifest.plans),
    }
    for stage, graph in bundle.manifest.graphs[FP16].items():
        model = onnx.load(str(engine.path / f"{stage}.onnx"), load_external_data=False)
        files = {e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"}
        assert files == ({graph.weights.file} if graph.weights else set())


def test_building_it_again_gives_the_same_bytes(bundle: Bundle) -> None:
    first = build(bundle)
    again = build_models(bundle, precision=FP16, options=ModelOptions("cuda"), force=True, progress=list[str]().append)

    files = {stage: plan.file for stage, plan in first.manifest.plans.items()}
    assert {stage: plan.file for stage, plan in again.manifest.plans.items()} == files


@pytest.mark.parametrize(("fixture", "precision"), [("tiny", "fp32"), ("tiny", "fp16"), ("text", "fp32")])
def test_it_agrees_with_the_exported_graphs_until_the_cache_has_wrapped(
    fixture: str, precision: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    bundle = open_bundle(shutil.copytree(request.getfixturevalue(f"{fixture}_bundle"), tmp_path / "copy"))

    engine = check_engine(bundle, build(bundle, precision), full=True, device="cpu")

    checks = {check.name: check for check in engine.manifest.checks}
    assert "wrapped" in checks["runs"].detail and checks["agrees"].passed
    error = float(re.findall(r"relative L2 (\S+) to", checks["agrees"].detail)[0])
    assert error <= (1e-5 if precision == "fp32" else 2e-3)


def test_each_provider_finds_its_own_engine(bundle: Bundle) -> None:
    cpu, cuda = build(bundle, cuda=False), build(bundle)

    for engine in (cpu, cuda):
        assert find_engine(bundle, FP16, engine.manifest.machine) == engine
    for options, engine in ((ON_CUDA, cuda), (dataclasses.replace(ON_CUDA, device="cpu"), cpu)):
        found = resolve(bundle, options)
        assert (found.engine, found.warnings) == (engine, ())
        built = found.sources(bundle, options).read("denoise").built
        assert built is not None and built.is_optimized is (engine is cpu)


def test_without_an_engine_cuda_runs_the_exported_graphs_and_nothing_is_said(bundle: Bundle) -> None:
    build(bundle, "fp32")

    found = resolve(bundle, ON_CUDA)

    assert (found.gpu, found.precision, found.engine, found.warnings) == (0, FP16, None, ())


def test_its_graphs_run_through_the_lane_of_a_gpu(bundle: Bundle, fake_cuda: FakeCuda) -> None:
    build(bundle)
    latents = []
    for use_engine in (True, False):
        options = dataclasses.replace(ON_CUDA, use_engine=use_engine)
        sources = resolve(bundle, options).sources(bundle, options)
        with Model(bundle, HostFunctionBackend(), FP16, sources=sources) as model, model.session(seed=3) as session:
            session.start(np.zeros((1, *model.manifest.geometry.latent_shape), np.float32))
            latents.append(np.concatenate([session.step().latents for _ in range(4)]))

    assert 0 < relative_error(*latents) < 2e-3


def test_the_precision_of_the_only_engine_is_taken_on_cuda(bundle: Bundle) -> None:
    engine = build(bundle)

    found = resolve(bundle, dataclasses.replace(ON_CUDA, precision=None, device="cuda:1"))

    assert (found.gpu, found.precision, found.engine) == (1, FP16, engine)
    without = resolve(bundle, dataclasses.replace(ON_CUDA, precision=None, use_engine=False))
    assert (without.gpu, without.precision, without.engine) == (0, FP32, None)


def test_an_engine_of_another_release_is_warned_of_on_cuda(bundle: Bundle) -> None:
    pretend(build(bundle), "1.0.0")

    found = resolve(bundle, ON_CUDA)

    assert found.engine is None
    (warning,) = found.warnings
    command = r"vdmrt build \S+ --precision fp16 --backend onnxruntime --provider cuda"
    start = "running the graphs as they were exported, not an engine: "
    assert re.match(rf"{start}.*one with {command}\. \S+: built with ONNX Runtime 1\.0\.0, here is \d", warning)


@pytest.mark.parametrize(("cuda", "device"), [(False, "cuda"), (True, "cpu")])
def test_an_engine_of_the_other_provider_is_warned_of(bundle: Bundle, cuda: bool, device: str) -> None:
    build(bundle, cuda=cuda)
    names = ("CUDAExecutionProvider", "CPUExecutionProvider")
    built, here = names if cuda else names[::-1]

    found = resolve(bundle, dataclasses.replace(ON_CUDA, device=device))

    assert found.engine is None
    (warning,) = found.warnings
    assert warning.endswith(f": built for {built}, here is {here}")


def test_the_command_builds_it_and_says_that_it_was_not_checked(bundle: Bundle) -> None:
    done = run("build", bundle.path, "--backend", "onnxruntime", "--provider", "cuda", "--precision", "fp16")

    assert done.exit_code == 0, done.output
    (engine,) = list_engines(bundle)
    assert done.stdout.strip() == str(engine.path) and engine.manifest.checks == ()
    assert "not checked: this machine has no GPU with ONNX Runtime's CUDA provider" in done.stderr
    shown = run("inspect", bundle.path).stdout
    assert re.search(r"ONNX Runtime \S+, CUDAExecutionProvider, built \d{4}", shown)
    assert "denoise: 2 Attention as com.microsoft.MultiHeadAttention" in shown


def test_a_full_check_without_the_provider_is_refused_before_the_build(bundle: Bundle) -> None:
    done = run("build", bundle.path, "--backend", "onnxruntime", "--provider", "cuda", "--check", "full")

    assert done.exit_code == FAILED
    sentence = (
        "--check full runs the engine, and this machine has no GPU with ONNX Runtime's CUDA provider; leave it out"
    )
    assert sentence in done.stderr
    assert list_engines(bundle) == ()


def test_dry_run_prints_its_folder_and_no_cpu(bundle: Bundle) -> None:
    done = run("build", bundle.path, "--backend", "onnxruntime", "--provider", "cuda", "--dry-run")

    assert done.exit_code == 0, done.output
    assert re.search(r"engine +.*/engines/ort\d\S*-cuda-fp32-\w{12}\n", done.stdout)
    assert "CPU" not in done.stdout and list_engines(bundle) == ()


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_a_provider_for_another_backend_is_misuse(bundle: Bundle, backend: str) -> None:
    done = run("build", bundle.path, "--backend", backend, "--provider", "cuda")

    assert done.exit_code == MISUSED
    assert f"--provider is for ONNX Runtime; leave it out with --backend {backend}" in done.stderr
    with pytest.raises(ValueError, match="the provider cuda is for onnxruntime, got the backend tensorrt; leave"):
        build_engine(bundle, provider="cuda")


def test_an_engine_for_cuda_fails_its_check_without_a_gpu(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="fails its check 'runs'"):
        check_engine(bundle, build(bundle))
