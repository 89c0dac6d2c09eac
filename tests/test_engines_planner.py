"""Plans of engines before a build: name, memory, GPU."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vdmrt.bundle import FP16, Bundle, Machine, open_bundle, stage_graphs
from vdmrt.engines import BuildOptions, check_fit, engine_key, plan_engine, trtexec_line
from vdmrt.engines.progress import Cancelled, run_beside
from vdmrt.errors import EngineError
from vdmrt.hosts.gpu import Gpu

H100 = Gpu("NVIDIA H100 80GB HBM3", "9.0", 80 << 30, 132, 1_830_000_000, 2_619_000_000, 5120, "13.0", "580.65.06")
MACHINE = Machine("10.3.0", "9.0", H100.name, "13.0", "580.65.06")


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


def key(bundle: Bundle, **changed: Any) -> str:
    parts: dict[str, Any] = {"precision": "fp16", "machine": MACHINE, "options": {}, **changed}
    graphs = parts.pop("graphs", stage_graphs(bundle, FP16))
    return engine_key(parts["precision"], graphs, parts["machine"], parts["options"])


def test_a_key_is_readable_and_short(bundle: Bundle) -> None:
    found = key(bundle)

    assert found.startswith("trt10.3.0-sm90-h100-80gb-hbm3-fp16-")
    assert len(found) < 60


def test_a_key_is_short_and_plain_for_any_name_of_a_gpu(bundle: Bundle) -> None:
    found = key(bundle, machine=dataclasses.replace(MACHINE, gpu="../Ünï:" + "x" * 500))

    assert len(found) < 200
    assert set(found) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-")


@pytest.mark.parametrize("name", ["tensorrt", "compute_capability", "gpu", "cuda", "driver"])
def test_every_part_of_the_machine_changes_the_key(bundle: Bundle, name: str) -> None:
    assert key(bundle, machine=dataclasses.replace(MACHINE, **{name: "7.7"})) != key(bundle)


def test_graphs_weights_and_options_change_the_key(bundle: Bundle) -> None:
    graphs = stage_graphs(bundle, FP16)
    fill = graphs["fill"]
    assert fill.weights is not None
    other_graph = dataclasses.replace(fill, file=dataclasses.replace(fill.file, sha256="0" * 64))
    other_weights = dataclasses.replace(fill, weights=dataclasses.replace(fill.weights, sha256="0" * 64))

    keys = {
        key(bundle),
        key(bundle, graphs={**graphs, "fill": other_graph}),
        key(bundle, graphs={**graphs, "fill": other_weights}),
        key(bundle, options=BuildOptions(refit=True).to_manifest()),
        key(bundle, options=BuildOptions(optimization_level=0).to_manifest()),
    }

    assert len(keys) == 5
    assert key(bundle) == key(bundle)


def test_the_timing_cache_does_not_change_the_key() -> None:
    assert BuildOptions(timing_cache=Path("x")).to_manifest() == BuildOptions().to_manifest()


def test_cache_and_staging_are_exact(bundle: Bundle) -> None:
    graphs = bundle.manifest.graphs[FP16]
    past = sum(spec.nbytes for spec in graphs["denoise"].inputs if spec.name.startswith("past_"))
    present = sum(spec.nbytes for spec in graphs["fill"].outputs if spec.name.startswith("present_"))

    plan = plan_engine(bundle, FP16, None)

    assert plan.cache_nbytes == past
    assert plan.staging_nbytes == present * bundle.manifest.geometry.requests
    assert (plan.lanes, plan.roofline_seconds) == (None, None)


def test_weights_are_counted_once_for_each_plan(bundle: Bundle) -> None:
    graphs = stage_graphs(bundle, FP16)

    wanted = sum(graph.weights.nbytes for graph in graphs.values() if graph.weights)
    assert plan_engine(bundle, FP16, None).weights_nbytes == wanted


def test_the_roofline_is_the_slower_of_arithmetic_and_memory(bundle: Bundle) -> None:
    graph = bundle.manifest.graphs[FP16]["denoise"]

    plan = plan_engine(bundle, FP16, H100)

    assert plan.compute_seconds == pytest.approx(graph.flops / (4096 * 132 * 1.83e9))
    assert plan.memory_seconds == pytest.approx(graph.nbytes_moved / (2 * 2.619e9 * 640))
    assert plan.roofline_seconds == max(plan.compute_seconds or 0, plan.memory_seconds or 0)
    assert any("ms a denoising step" in line for line in plan.lines())


def test_an_unknown_gpu_has_no_roofline(bundle: Bundle) -> None:
    plan = plan_engine(bundle, FP16, dataclasses.replace(H100, compute_capability="99.0"))

    assert plan.roofline_seconds is None
    assert not any("roofline" in line for line in plan.lines())


def test_lanes_share_the_weights(bundle: Bundle) -> None:
    alone = plan_engine(bundle, FP16, H100)
    memory = alone.weights_nbytes + 3 * alone.lane_nbytes

    assert plan_engine(bundle, FP16, dataclasses.replace(H100, memory_nbytes=memory)).lanes == 3
    assert plan_engine(bundle, FP16, dataclasses.replace(H100, memory_nbytes=memory - 1)).lanes == 2


def test_an_engine_that_cannot_fit_is_refused_with_every_part(bundle: Bundle) -> None:
    plan = plan_engine(bundle, FP16, dataclasses.replace(H100, memory_nbytes=1 << 17))

    with pytest.raises(EngineError, match=r"does not fit: weights .*, KV cache 21 KiB, staging .*fewer --requests or"):
        check_fit(plan)


def test_without_a_gpu_everything_fits(bundle: Bundle) -> None:
    plan = plan_engine(bundle, FP16, None)

    check_fit(plan)
    assert not any("lanes" in line for line in plan.lines())


def test_the_trtexec_line_matches_the_build() -> None:
    options = BuildOptions(
        optimization_level=4,
        workspace_nbytes=1 << 30,
        hardware_compatibility="ampere_plus",
        timing_cache=Path("t.cache"),
        weight_streaming_fill=True,
    )

    line = trtexec_line(Path("a b/fill.onnx"), "fill", FP16, options, "10.3.0")

    assert line.startswith("trtexec '--onnx=a b/fill.onnx' --saveEngine=fill.plan")
    for word in ("--stronglyTyped", "--noTF32", "--memPoolSize=workspace:1024", "--builderOptimizationLevel=4"):
        assert word in line
    for word in ("--hardwareCompatibilityLevel=ampere+", "--allowWeightStreaming", "--timingCacheFile=t.cache"):
        assert word in line
    assert "--fp16" in trtexec_line(Path("x"), "fill", FP16, BuildOptions(), "8.5.3.1")
    assert "--allowWeightStreaming" not in trtexec_line(Path("x"), "denoise", FP16, options, None)


def test_a_long_build_reports_its_elapsed_time() -> None:
    said: list[str] = []

    done = run_beside(lambda: time.sleep(0.25), "fill", said.append, Cancelled(), every=0.1)

    assert done is None
    assert len(said) == 2
    assert said[0] == "fill: 0 s"


@pytest.mark.parametrize("error", [ValueError("x"), EngineError("y")])
def test_an_exception_of_the_work_is_raised(error: Exception) -> None:
    def work() -> Callable[[], None]:
        raise error

    with pytest.raises(type(error), match=str(error)):
        run_beside(work, "fill", lambda line: None, Cancelled())
    assert not any(thread.name.startswith("vdmrt-") for thread in threading.enumerate())
