"""The check after a build: the engine is run past a full cache and compared with its graphs."""

from __future__ import annotations

import dataclasses
import logging
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from calibrated import calibrate_copy
from computing_recorder import let_compute
from fake_cuda import enabled_fake_cuda
from tensorrt_engines import plan_of, write_engine
from tensorrt_recorder import Recorder, install

from vdmrt.building import build_engine
from vdmrt.bundle import FP16, FP32, Bundle, Check, Engine, Stage, list_engines, open_bundle, stage_graphs
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


def write_computing_engine(bundle: Bundle, recorder: Recorder) -> Engine:
    """Write a TensorRT engine that computes the float32 graphs without an error."""
    plans = {stage: plan_of(recorder, graph, name=stage) for stage, graph in stage_graphs(bundle, FP32).items()}
    let_compute(recorder, bundle, FP32)
    return write_engine(bundle, recorder, str(FP32), plans=plans)


def with_flops(bundle: Bundle, flops: int) -> Bundle:
    """Return a bundle whose float32 graphs claim to cost that much each."""
    graphs = dict(bundle.manifest.graphs)
    graphs[FP32] = {stage: dataclasses.replace(graph, flops=flops) for stage, graph in graphs[FP32].items()}
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, graphs=graphs))


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
    engine = write_computing_engine(bundle, recorder)
    let_compute(recorder, bundle, FP32, error=0.01, stages=(Stage.FILL,))

    with pytest.raises(EngineError, match=r"fails its check 'agrees': relative L2 \S+ to .*, 0\.01 of K and V"):
        check_engine(bundle, engine, device="cuda")


@pytest.mark.parametrize(("flops", "compared"), [(2 * 10**11, True), (10**12, False)])
def test_what_would_take_minutes_is_left_out_and_said(
    bundle: Bundle, caplog: pytest.LogCaptureFixture, flops: int, compared: bool
) -> None:
    built = build_engine(bundle, backend="onnxruntime", precision=FP32, check="off", progress=list[str]().append)

    with caplog.at_level(logging.INFO, "vdmrt"):
        engine = check_engine(with_flops(bundle, flops), built)

    assert checks_of(engine)["runs"].detail.startswith("1 chunk of 4 denoising steps, cache filling, ")
    said = "not compared with ONNX Runtime, which would take minutes; ask for it with --check full" in caplog.text
    assert ("agrees" in checks_of(engine), said) == (compared, not compared)
    assert "which does not fill the cache; --check full runs until it has wrapped" in caplog.text


def test_nan_in_a_later_chunk_fails_the_check(bundle: Bundle, recorder: Recorder) -> None:
    engine = write_computing_engine(bundle, recorder)
    right = recorder.on_enqueue
    let_compute(recorder, bundle, FP32, error=math.nan, stages=(Stage.FILL,))
    wrong, fills = recorder.on_enqueue, list[int]()
    assert right is not None and wrong is not None

    def enqueue(context: Any, stream: int) -> None:
        fills.extend([1] * (context.engine.name == Stage.FILL))
        (wrong if len(fills) == 4 else right)(context, stream)  # the second chunk's

    recorder.on_enqueue = enqueue
    with pytest.raises(EngineError, match=r"'agrees': relative L2 \S+ to .*, nan of K and V, the worst of 4 chunks"):
        check_engine(bundle, engine, device="cuda")


def test_a_full_check_repeats_one_that_skipped_comparisons(bundle: Bundle) -> None:
    def build(check: Literal["auto", "full"]) -> Engine:
        large = with_flops(bundle, 10**12)
        return build_engine(large, backend="onnxruntime", precision=FP32, check=check, progress=list[str]().append)

    quick, full, again = build("auto"), build("full"), build("full")

    assert "agrees" not in checks_of(quick)
    assert checks_of(full)["agrees"].detail.endswith("the worst of 4 chunks, wanted 0.001")
    assert again == build("auto") == full  # the times would differ


def test_on_a_gpu_the_cache_wraps_though_one_chunk_is_compared(bundle: Bundle, recorder: Recorder) -> None:
    engine = write_computing_engine(bundle, recorder)

    checks = checks_of(check_engine(with_flops(bundle, 2 * 10**11), engine, device="cuda"))

    assert checks["runs"].detail.startswith("4 chunks of 4 denoising steps, cache filling, full, wrapped, ")
    assert checks["agrees"].passed and "the worst of 1 chunk, wanted" in checks["agrees"].detail


def test_a_reference_that_fails_fails_a_full_check_only(
    bundle: Bundle, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    engine = write_computing_engine(bundle, recorder)
    graph = bundle.locate(bundle.manifest.graphs[FP32][Stage.FILL].file)
    graph.write_bytes(bytes(graph.stat().st_size))

    checks = check_engine(bundle, engine, device="cuda").manifest.checks

    assert [check.name for check in checks] == ["runs"] and checks[0].passed
    assert "not compared with ONNX Runtime: " in caplog.text
    with pytest.raises(EngineError, match="fails its check 'agrees': ONNX Runtime cannot run the reference: "):
        check_engine(bundle, engine, full=True, device="cuda")


def test_exported_graphs_race_exported_graphs(tiny_bundle: Path, tmp_path: Path) -> None:
    """An engine's graphs are optimized, so they would win against exported ones at any precision."""
    calibrate_copy(tiny_bundle, tmp_path, kv="int8")
    bundle, quiet = open_bundle(tmp_path / "bundle"), list[str]().append
    precision = next(one for one in bundle.manifest.graphs if one.is_quantized)

    alone = checks_of(build_engine(bundle, backend="onnxruntime", precision=precision, progress=quiet))
    build_engine(bundle, backend="onnxruntime", precision=FP16, check="off", progress=quiet)
    both = checks_of(build_engine(bundle, backend="onnxruntime", precision=precision, force=True, progress=quiet))

    assert alone["faster than fp16"].detail.endswith(", exported graphs of both: fp16 has no engine")
    assert both["faster than fp16"].detail.endswith(", engines of both")
