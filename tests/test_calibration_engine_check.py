"""The check after a build: the engine is run past a full cache and compared with its graphs."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from computing_recorder import let_compute
from fake_cuda import enabled_fake_cuda
from tensorrt_engines import plan_of, write_engine
from tensorrt_recorder import Recorder, install

from vdmrt.building import build_engine
from vdmrt.bundle import FP32, Bundle, Check, Engine, Stage, list_engines, open_bundle, stage_graphs
from vdmrt.calibration.verify.engine_check import check_engine
from vdmrt.errors import EngineError


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return open_bundle(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with enabled_fake_cuda(), install("10.16", gpu="vdmrt fake GPU", compute_capability="9.0") as found:
        yield found


def checks_of(engine: Engine) -> dict[str, Check]:
    return {check.name: check for check in engine.manifest.checks}


def test_building_from_python_checks_past_a_full_cache(bundle: Bundle) -> None:
    engine = build_engine(bundle, backend="onnxruntime", precision=FP32, progress=list[str]().append)

    checks = checks_of(engine)
    assert list(checks) == ["runs", "agrees", "faster"] and checks["agrees"].passed
    assert checks["runs"].detail.startswith("4 chunks of 4 denoising steps, cache filling, full, wrapped, ")
    assert list_engines(bundle)[0].manifest.checks == engine.manifest.checks


def test_a_check_can_be_skipped(bundle: Bundle) -> None:
    engine = build_engine(bundle, backend="onnxruntime", check="off", progress=list[str]().append)

    assert engine.manifest.checks == ()


def test_an_engine_with_a_wrong_fill_fails_the_check(bundle: Bundle, recorder: Recorder) -> None:
    """Chunks are made from the reference's cache, so the K and V that a fill writes are compared separately."""
    graphs = stage_graphs(bundle, FP32)
    plans = {stage: plan_of(recorder, graph, name=stage) for stage, graph in graphs.items()}
    engine = write_engine(bundle, recorder, str(FP32), plans=plans)
    let_compute(recorder, bundle, FP32, error=0.01, stages=(Stage.FILL,))

    with pytest.raises(EngineError, match=r"fails its check 'agrees': relative L2 \S+ to .*, 0\.01 of K and V"):
        check_engine(bundle, engine, device="cuda")


@pytest.mark.parametrize(("flops", "compared"), [(2 * 10**11, True), (10**12, False)])
def test_what_would_take_minutes_is_left_out_and_said(
    bundle: Bundle, caplog: pytest.LogCaptureFixture, flops: int, compared: bool
) -> None:
    built = build_engine(bundle, backend="onnxruntime", precision=FP32, check="off", progress=list[str]().append)
    graphs = dict(bundle.manifest.graphs)
    graphs[FP32] = {stage: dataclasses.replace(graph, flops=flops) for stage, graph in graphs[FP32].items()}
    large = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, graphs=graphs))

    with caplog.at_level(logging.INFO, "vdmrt"):
        engine = check_engine(large, built)

    assert checks_of(engine)["runs"].detail.startswith("1 chunk of 4 denoising steps, cache filling, ")
    said = "not compared with ONNX Runtime, which would take minutes; ask for it with --check full" in caplog.text
    assert ("agrees" in checks_of(engine), said) == (compared, not compared)
    assert "which does not fill the cache; --check full runs until it has wrapped" in caplog.text
