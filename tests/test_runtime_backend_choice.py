"""What runs a bundle where neither a backend nor a precision is named."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_cuda import enabled_fake_cuda
from tensorrt_engines import copy_bundle, machine_of, write_engine
from tensorrt_recorder import Recorder, install

import vdmrt
from vdmrt.bundle import FP16, FP32, Bundle
from vdmrt.engines import build_engines
from vdmrt.errors import BackendError, EngineError
from vdmrt.profiler import Settings
from vdmrt.profiler.measuring.profile import load_model


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return copy_bundle(tiny_bundle, tmp_path / "bundle")


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with enabled_fake_cuda(), install("10.3", gpu="vdmrt fake GPU", compute_capability="9.0") as found:
        yield found


def test_what_is_built_without_a_precision_is_what_runs_without_one(bundle: Bundle, recorder: Recorder) -> None:
    built = build_engines(bundle).manifest.precision

    for backend in ("auto", "tensorrt"):
        with vdmrt.load(bundle.path, backend=backend) as model:
            assert (model.backend.name, model.precision) == ("tensorrt", built)
    with load_model(Settings(bundle.path)) as model:
        assert (model.backend.name, model.precision) == ("tensorrt", built)


def test_the_precision_of_the_only_engine_that_fits_is_taken(bundle: Bundle, recorder: Recorder) -> None:
    write_engine(bundle, recorder, "fp32")

    with vdmrt.load(bundle.path, verify=False) as model:
        assert (model.backend.name, model.precision) == ("tensorrt", FP32)


def test_fp16_is_taken_before_a_newer_engine_of_fp32(bundle: Bundle, recorder: Recorder) -> None:
    write_engine(bundle, recorder, "fp16", created="2026-01-01")
    write_engine(bundle, recorder, "fp32", created="2026-02-01")

    with vdmrt.load(bundle.path, verify=False) as model:
        assert model.precision == FP16


def test_an_engine_of_another_gpu_leaves_the_bundle_to_onnxruntime_and_says_why(
    bundle: Bundle, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    other = dataclasses.replace(machine_of(recorder), gpu="another GPU", compute_capability="8.0")
    write_engine(bundle, recorder, "fp16", machine=other)

    with caplog.at_level(logging.WARNING, "vdmrt"), vdmrt.load(bundle.path, verify=False) as model:
        assert (model.backend.name, model.precision) == ("onnxruntime", FP32)
    (line,) = caplog.messages
    assert "built for compute capability 8.0, here is 9.0" in line
    assert f"no fp16 or fp32 engine fits; build one with vdmrt build {bundle.path} --precision fp16" in line


def test_an_engine_of_another_precision_than_the_named_one_is_not_taken(
    bundle: Bundle, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    write_engine(bundle, recorder, "fp16")

    with vdmrt.load(bundle.path, precision="fp32", verify=False) as model:
        assert (model.backend.name, model.precision) == ("onnxruntime", FP32)
    assert "has no fp32 engine; build one with" in caplog.text
    assert "or name the precision of an existing one: fp16" in caplog.text


def test_an_engine_that_is_not_trusted_leaves_the_bundle_to_onnxruntime_and_says_why(
    bundle: Bundle, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    write_engine(bundle, recorder, "fp16", trusted=False)
    sentence = "its plans are native code that this user has not built: --trust-plans loads them"

    with caplog.at_level(logging.WARNING, "vdmrt"), vdmrt.load(bundle.path, verify=False) as model:
        assert (model.backend.name, model.precision) == ("onnxruntime", FP32)
    (line,) = caplog.messages
    assert sentence in line
    with pytest.raises(EngineError, match=sentence):
        vdmrt.load(bundle.path, backend="tensorrt", verify=False)


def test_a_trusted_engine_is_taken_before_a_newer_one_that_is_not(bundle: Bundle, recorder: Recorder) -> None:
    write_engine(bundle, recorder, "fp32", created="2026-01-01")
    write_engine(bundle, recorder, "fp16", created="2026-02-01", trusted=False)

    for backend in ("auto", "tensorrt"):
        with vdmrt.load(bundle.path, backend=backend, verify=False) as model:
            assert (model.backend.name, model.precision) == ("tensorrt", FP32)


def test_an_engine_that_is_not_trusted_is_taken_where_the_user_trusts_it(bundle: Bundle, recorder: Recorder) -> None:
    write_engine(bundle, recorder, "fp16", trusted=False)

    for backend in ("auto", "tensorrt"):
        with vdmrt.load(bundle.path, backend=backend, trust_plans=True, verify=False) as model:
            assert (model.backend.name, model.precision) == ("tensorrt", FP16)


def test_without_tensorrt_its_engines_leave_the_bundle_to_onnxruntime(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    with enabled_fake_cuda(), install("10.3", gpu="vdmrt fake GPU", compute_capability="9.0") as recorder:
        write_engine(bundle, recorder, "fp16")

    with enabled_fake_cuda(), vdmrt.load(bundle.path, verify=False) as model:
        assert model.backend.name == "onnxruntime"
    assert "TensorRT is not installed" in caplog.text


def test_a_driver_that_does_not_start_leaves_the_bundle_to_the_cpu_and_is_named(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    with enabled_fake_cuda() as cuda:
        cuda.fail(803, name="cuInit")
        with vdmrt.load(bundle.path, verify=False) as model:
            assert model.backend.device_name == "host"

    assert caplog.messages == ["running on ONNX Runtime on the CPU: the driver does not start: cuInit returned 803"]


def test_tensorrt_that_was_asked_for_is_never_replaced(bundle: Bundle, recorder: Recorder) -> None:
    with pytest.raises(EngineError, match="has no fp16 or fp32 engine; build one with vdmrt build .* --precision fp16"):
        vdmrt.load(bundle.path, backend="tensorrt", verify=False)


def test_tensorrt_without_a_gpu_is_refused(bundle: Bundle) -> None:
    with pytest.raises(BackendError, match="TensorRT needs an NVIDIA GPU"):
        vdmrt.load(bundle.path, backend="tensorrt", verify=False)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"backend": "cuda"}, "backend must be auto or one of tensorrt, tensorrt-rtx, onnxruntime, got 'cuda'"),
        ({"device": "gpu:0"}, "device must be auto, cpu, cuda or cuda:N, got 'gpu:0'"),
        ({"device": "cuda:²"}, "device must be auto, cpu, cuda or cuda:N, got 'cuda:²'"),
        ({"backend": "tensorrt", "device": "cpu"}, "the backend tensorrt runs on a GPU only, got the device cpu"),
        ({"threads": 0}, "threads must be 1 <= threads <= .*, got 0"),
    ],
)
def test_misuse_is_a_value_error_before_the_bundle_is_read(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        vdmrt.load("nowhere", **options)  # type: ignore[arg-type]
