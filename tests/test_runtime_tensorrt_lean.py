"""Version-compatible plans of another TensorRT: run by a lean runtime that the user names, or refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorrt_engines import Machinery, machine_of, plan_of, source_of, tensorrt_machine, write_engine

import vdmrt
from vdmrt.bundle import FP16, stage_graphs
from vdmrt.errors import BackendError, EngineError
from vdmrt.runtime.backends.tensorrt.backend import TensorRtBackend

OLDER = "10.3.0"


@pytest.fixture
def machinery(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machinery]:
    with tensorrt_machine("11.4", tiny_bundle, tmp_path, monkeypatch) as found:
        write_older(found)
        yield found


@pytest.fixture
def lean(tmp_path: Path) -> Path:
    path = tmp_path / "libnvinfer_lean.so.10"
    path.write_text(OLDER)
    return path


def write_older(machinery: Machinery, **manifest: Any) -> None:
    """Put an engine in the place of the one that is there, built version-compatible by an older release."""
    recorder = machinery.recorder
    for path in sorted((machinery.bundle.path / "engines").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    flags = ["VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"]
    graphs = stage_graphs(machinery.bundle, FP16)
    plans = {stage: plan_of(recorder, graph, version=OLDER, flags=flags) for stage, graph in graphs.items()}
    machine = dataclasses.replace(machine_of(recorder), tensorrt=OLDER)
    write_engine(machinery.bundle, recorder, plans=plans, machine=machine, version_compatible=True, **manifest)


def load(machinery: Machinery, lean: Path | None) -> None:
    backend = TensorRtBackend(lean_runtime=lean)
    try:
        for stage in stage_graphs(machinery.bundle, FP16):
            assert backend.load(source_of(machinery, stage, lean_runtime=lean is not None)).capturable
    finally:
        backend.close()


def test_a_lean_runtime_loads_plans_of_the_release_it_is_of(machinery: Machinery, lean: Path) -> None:
    load(machinery, lean)

    recorder = machinery.recorder
    assert [call.arguments for call in recorder.named("load_runtime")] == [{"path": str(lean)}]
    assert {call.subject for call in recorder.named("deserialize_cuda_engine")} == {"Runtime#2"}
    assert recorder.named("engine_host_code_allowed=") == []
    died = [call.subject for call in recorder.calls if call.name == "__del__" and call.subject.startswith("Runtime")]
    assert died == ["Runtime#2", "Runtime#1"]


def test_without_one_it_is_refused_by_name(machinery: Machinery) -> None:
    sentence = (
        rf"built with TensorRT {OLDER}, here is 11\.4\.0\.\d+, which runs it only with the lean runtime of {OLDER}"
    )

    with pytest.raises(EngineError, match=sentence):
        load(machinery, None)
    assert machinery.recorder.named("deserialize_cuda_engine") == []


def test_a_path_that_is_no_file_is_refused(machinery: Machinery, tmp_path: Path) -> None:
    with pytest.raises(
        BackendError, match=rf"wanted the lean runtime of TensorRT {OLDER} at .*/none, which is no file"
    ):
        load(machinery, tmp_path / "none")


def test_a_library_that_does_not_load_is_refused(machinery: Machinery, lean: Path) -> None:
    lean.write_text("no library")

    with pytest.raises(
        BackendError, match=r"libnvinfer_lean\.so\.10: is no lean runtime that loads here: .*ELF header"
    ):
        load(machinery, lean)


def test_a_lean_runtime_of_a_third_release_is_refused_by_tensorrt(machinery: Machinery, lean: Path) -> None:
    lean.write_text("10.4.0")

    with pytest.raises(BackendError, match=r"refuses the plan: .*Current Version: 10\.4\.0, Serialized Engine Version"):
        load(machinery, lean)


def test_stripped_plans_are_refused(machinery: Machinery, lean: Path) -> None:
    write_older(machinery, stripped=True)

    with pytest.raises(EngineError, match="and contains no weights, which a lean runtime cannot refit"):
        load(machinery, lean)


def test_trust_is_asked_for_all_the_same(machinery: Machinery, lean: Path) -> None:
    write_older(machinery, trusted=False, key="foreign")
    path = machinery.bundle.path / "engines" / "foreign" / "fill.plan"
    path.write_bytes(path.read_bytes())

    (machinery.bundle.path.parent / "cache" / "vdmrt" / "trusted-plans").rename(machinery.bundle.path.parent / "gone")
    with pytest.raises(EngineError, match="its plans are native code .*: --trust-plans loads them"):
        load(machinery, lean)


def test_a_plan_of_this_release_needs_none(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tensorrt_machine("11.4", tiny_bundle, tmp_path, monkeypatch) as machinery:
        load(machinery, tmp_path / "none")

        assert machinery.recorder.named("load_runtime") == []


def test_a_bundle_is_loaded_with_one(machinery: Machinery, lean: Path) -> None:
    with vdmrt.load(machinery.bundle.path, backend="tensorrt", precision="fp16", lean_runtime=lean) as model:
        assert model.backend.name == "tensorrt"
    assert machinery.recorder.named("load_runtime")
