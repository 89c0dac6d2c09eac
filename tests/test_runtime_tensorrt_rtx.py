"""The backend of TensorRT for RTX: which engines it runs, which kernels it keeps, and what it refuses."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from computing_recorder import let_compute
from golden import relative_error
from tensorrt_engines import Machinery, tensorrt_machine, write_engine
from tensorrt_recorder import RTX

import vdmrt
from vdmrt.bundle import cache_folder
from vdmrt.errors import BackendError, EngineError
from vdmrt.hosts.tensorrt.rtx import open_tensorrt_rtx
from vdmrt.runtime import Model

SKY = Path(__file__).parents[1] / "examples" / "sky" / "bundle"


@pytest.fixture
def machinery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machinery]:
    with tensorrt_machine(RTX, SKY, tmp_path, monkeypatch) as found:
        let_compute(found.recorder, found.bundle, "fp16")
        yield found


def load(machinery: Machinery, backend: str = "tensorrt-rtx", **options: Any) -> Model:
    return vdmrt.load(machinery.bundle.path, backend=backend, precision="fp16", verify=False, **options)


def roll(model: Model) -> npt.NDArray[np.float32]:
    with model.session(seed=1, steps=2) as session:
        session.start(np.zeros((1, *model.manifest.geometry.latent_shape), np.float32))
        return np.concatenate([chunk.latents for chunk in session.stream(2)])


def kept_files() -> list[Path]:
    return sorted(path for path in (cache_folder() / "kernels").rglob("*") if path.is_file())


def messages(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)


def test_a_rollout_equals_that_of_the_cpu(machinery: Machinery) -> None:
    with load(machinery) as model:
        found = roll(model)
        assert model.backend.describe() == "TensorRT for RTX 1.7.1.116, vdmrt fake GPU (compute capability 8.9)"
    with vdmrt.load(machinery.bundle.path, device="cpu", precision="fp16", verify=False, use_engine=False) as model:
        assert relative_error(found, roll(model)) < 1e-5
    assert machinery.cuda.violations() == []


def test_kernels_are_compiled_at_the_first_start_only(machinery: Machinery) -> None:
    with load(machinery) as model:
        roll(model)
    compiled = len(machinery.recorder.compiled)
    kept = {path: path.stat().st_mtime_ns for path in kept_files()}

    with load(machinery) as model:
        roll(model)

    assert compiled and len(machinery.recorder.compiled) == compiled
    assert len(kept) == len(model.manifest.graphs[model.precision]) + len(model.manifest.components)
    assert {path: path.stat().st_mtime_ns for path in kept_files()} == kept
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}


def test_kernels_that_do_not_fit_are_compiled_again(machinery: Machinery, caplog: pytest.LogCaptureFixture) -> None:
    with load(machinery) as model:
        roll(model)
    paths, compiled = kept_files(), len(machinery.recorder.compiled)
    for path in paths:
        path.write_bytes(b"kernels of something else")

    with load(machinery) as model:
        roll(model)

    assert len(machinery.recorder.compiled) == 2 * compiled
    assert "does not fit, or is damaged: " in messages(caplog)
    assert all(path.read_bytes() != b"kernels of something else" for path in paths)


def test_another_driver_has_its_own_kernels(machinery: Machinery) -> None:
    with load(machinery) as model:
        roll(model)
    first = kept_files()
    machinery.cuda.driver_version(13020)

    with load(machinery) as model:
        roll(model)

    assert len(kept_files()) == 2 * len(first) and set(first) < set(kept_files())


def test_kernels_that_others_may_have_written_are_not_used(
    machinery: Machinery, caplog: pytest.LogCaptureFixture
) -> None:
    with load(machinery):
        pass
    for path in kept_files():
        path.chmod(0o666)
    before = len(machinery.recorder.named("deserialize"))

    with load(machinery):
        assert "is not used: others may have written it" in messages(caplog)
    assert len(machinery.recorder.named("deserialize")) == before


def test_a_folder_that_cannot_be_written_costs_time_only(
    machinery: Machinery, caplog: pytest.LogCaptureFixture
) -> None:
    (cache_folder() / "kernels").write_text("no folder")

    with load(machinery) as model:
        assert roll(model).any()

    assert "compiled kernels are not kept, so that the next start compiles them again" in messages(caplog)


@pytest.mark.parametrize("capability", ["9.0", "10.0"])
def test_a_gpu_that_it_does_not_run_on_is_refused(machinery: Machinery, capability: str) -> None:
    machinery.cuda.compute_capability(capability)

    with pytest.raises(
        BackendError,
        match=rf"runs on GPUs of compute capability 7\.5, .*, found vdmrt fake GPU with {capability}; take",
    ):
        load(machinery)


def test_a_plan_for_other_gpus_is_refused_before_it_is_loaded(machinery: Machinery) -> None:
    write_engine(machinery.bundle, machinery.recorder, key="z", targets=("8.6",), created="2")
    machinery.cuda.compute_capability("12.0")

    with load(machinery) as model:  # the portable one
        assert model.engine is not None and model.engine.manifest.targets == ()
    machinery.cuda.compute_capability("7.5")
    with pytest.raises(EngineError, match=r"z: built for compute capability 8\.6, here is vdmrt fake GPU with 7\.5"):
        load(machinery)


def test_an_invalid_header_is_named(machinery: Machinery) -> None:
    trt = machinery.recorder.module
    reasons = trt.EngineInvalidityDiagnostics
    found = int(reasons.OLD_CUDA_DRIVER) | int(reasons.VERSION_MISMATCH)
    machinery.recorder.fail("get_engine_validity", returns=(trt.EngineValidity.INVALID, found))

    with pytest.raises(BackendError, match=r"does not run this plan on vdmrt fake GPU: VERSION_MISMATCH, OLD_CUDA_DR"):
        load(machinery)
    assert machinery.recorder.named("deserialize_cuda_engine") == []


def test_a_plan_that_is_refused_has_the_librarys_reason(machinery: Machinery) -> None:
    machinery.recorder.fail("deserialize_cuda_engine", log="Error Code 1: Cuda Runtime (out of memory)")

    with pytest.raises(BackendError, match=r"TensorRT for RTX 1\.7\.1\.116 refuses the plan: .*out of memory"):
        load(machinery)


def test_a_plan_for_an_older_gpu_is_run_with_a_warning(machinery: Machinery, caplog: pytest.LogCaptureFixture) -> None:
    validity = machinery.recorder.module.EngineValidity.SUBOPTIMAL
    machinery.recorder.fail("get_engine_validity", returns=(validity, 0))

    with load(machinery):
        assert "may be slower on vdmrt fake GPU than a plan for it; build one with" in messages(caplog)


@pytest.mark.parametrize("call", ["create_runtime_cache", "serialize", "set_runtime_cache"])
def test_a_library_without_a_cache_runs_nevertheless(machinery: Machinery, call: str) -> None:
    machinery.recorder.fail(call, returns=False if call == "set_runtime_cache" else None)

    with load(machinery) as model:
        assert roll(model).any()
    with load(machinery) as model:
        assert roll(model).any()


def test_auto_runs_its_engine_where_there_is_no_other(machinery: Machinery, caplog: pytest.LogCaptureFixture) -> None:
    with load(machinery, backend="auto") as model:
        assert model.backend.name == "tensorrt-rtx"
    assert messages(caplog) == ""


def test_auto_takes_the_library_that_is_installed(machinery: Machinery, caplog: pytest.LogCaptureFixture) -> None:
    engine = write_engine(machinery.bundle, machinery.recorder, key="trt")
    document = json.loads((engine.path / "manifest.json").read_text())
    document |= {"backend": "tensorrt", "machine": {"tensorrt": "10.3.0", "compute_capability": "8.9", "gpu": "other"}}
    (engine.path / "manifest.json").write_text(json.dumps(document))

    with caplog.at_level(logging.INFO, "vdmrt"), load(machinery, backend="auto") as model:
        assert model.backend.name == "tensorrt-rtx"

    assert "running on TensorRT for RTX: TensorRT is not installed, only TensorRT for RTX" in caplog.text


@pytest.mark.parametrize("installed", [True, False])
def test_auto_falls_back_with_the_reason(
    machinery: Machinery, installed: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if installed:
        machinery.cuda.compute_capability("9.0")
    else:
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    why = "found vdmrt fake GPU with 9.0" if installed else "TensorRT for RTX is not installed"

    with load(machinery, backend="auto") as model:
        assert model.backend.name == "onnxruntime"

    assert re.search(rf"running on ONNX Runtime on the CPU although vdmrt fake GPU is there.*{why}", messages(caplog))


def test_the_other_library_does_not_stand_in(machinery: Machinery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: machinery if name == "tensorrt" else None)

    with pytest.raises(BackendError, match="TensorRT for RTX is not installed, only TensorRT, which is another"):
        open_tensorrt_rtx()


def test_packages_of_different_versions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, version in (("tensorrt_rtx_cu12_bindings", "1.6.0"), ("tensorrt_rtx_cu12_libs", "1.7.1")):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(BackendError, match=r"of different versions: .*cu12-bindings 1\.6\.0.*; install them together"):
        open_tensorrt_rtx()
