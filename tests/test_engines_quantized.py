"""Quantized graphs in TensorRT: support by release, and engines that are not faster."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from calibrated import calibrate_copy
from click.testing import CliRunner
from computing_recorder import let_compute
from fake_cuda import enabled_fake_cuda
from tensorrt_recorder import RELEASES, Call, Recorder, install

from vdmrt.bundle import FP16, FP16_MIXED, Bundle, Precision, list_engines, open_bundle
from vdmrt.calibration.calibrating import CalibrationRequest, calibrate
from vdmrt.calibration.graph.graph_file import load_graph
from vdmrt.calibration.graph.linears import find_linears
from vdmrt.calibration.graph.mixed import MixedRequest, mix_precisions
from vdmrt.calibration.observe.instrument import open_session
from vdmrt.cli import main
from vdmrt.engines import build_engines, find_source, lower_graphs
from vdmrt.engines.building import _check_fp8
from vdmrt.errors import EngineError

ADDED = ["fp16-mixed", "int8", "int8-fp16", "fp8", "int8-kv8", "int8-fp16-kv8", "int8-kvf8", "int8-fp16-kvf8"]
NEW = [release for release in RELEASES if release != "8.5"]


@pytest.fixture(scope="module")
def calibrated(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantized")
    calibrate_copy(tiny_bundle, folder)
    for kv in ("int8", "fp8"):
        calibrate_copy(tiny_bundle, folder, kv=kv)
    for cache in (None, "fp8"):
        calibrate_copy(tiny_bundle, folder, precision="fp8", kv=cache)
    mix_precisions(MixedRequest(folder / "bundle", ("blocks.0.mlp.*",)))
    return folder / "bundle"


@pytest.fixture
def bundle(calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return open_bundle(shutil.copytree(calibrated, tmp_path / "bundle"))


@pytest.mark.parametrize("release", NEW)
@pytest.mark.parametrize("precision", ADDED)
def test_newer_releases_build_quantized_graphs_unchanged(bundle: Bundle, release: str, precision: str) -> None:
    with enabled_fake_cuda(), install(release, gpu="vdmrt fake GPU", compute_capability="9.0"):
        engine = build_engines(bundle, precision=precision)

    assert engine.manifest.precision == Precision.parse(precision)
    assert {"fill", "denoise"} <= set(engine.manifest.plans)
    assert f"-{precision}-" in engine.manifest.key
    cache = next(spec for spec in engine.plan("denoise").inputs if spec.name == "past_k.0")
    floating = "float32" if precision == "int8" else "float16"
    kind = {"int8": "int8", "fp8": "float8_e4m3fn"}.get(Precision.parse(precision).cache or "", floating)
    assert cache.dtype == kind


def test_fp8_needs_a_gpu_that_supports_it(bundle: Bundle) -> None:
    old = {"NVIDIA A100": "8.0"}

    with pytest.raises(
        EngineError,
        match=r"need compute capability 8\.9 or newer, NVIDIA A100 has 8\.0; use int8-fp16",
    ):
        _check_fp8(bundle.manifest.graphs[Precision.parse("fp8")], old)
    with pytest.raises(EngineError, match=r"FP8 products and an FP8 cache need"):
        _check_fp8(bundle.manifest.graphs[Precision.parse("int8-fp16-kvf8")], old)
    _check_fp8(bundle.manifest.graphs[Precision.parse("int8-fp16-kv8")], old)


@pytest.mark.parametrize("precision", ["int8", "int8-kv8"])
def test_int8_between_float32_is_lowered_for_8_5(bundle: Bundle, precision: str) -> None:
    with enabled_fake_cuda(), install("8.5", gpu="vdmrt fake GPU", compute_capability="9.0") as recorder:
        build_engines(bundle, precision=precision)

    flags = {call.arguments["flag"].name for call in recorder.named("IBuilderConfig.set_flag")}
    assert flags >= {"INT8", "OBEY_PRECISION_CONSTRAINTS"} and "FP16" not in flags


def test_8_5_is_constrained_to_float32_in_kept_layers_and_to_fp16_in_others(bundle: Bundle) -> None:
    held: dict[str, str] = {}

    with enabled_fake_cuda(), install("8.5", gpu="vdmrt fake GPU", compute_capability="9.0") as recorded:

        def look(call: Call) -> None:
            if call.name == "precision=":
                layer: Any = recorded._alive[call.subject]
                held[layer._node.name] = call.arguments["value"].name

        recorded.before = look
        build_engines(bundle, precision="fp16-mixed")

    flags = {call.arguments["flag"].name for call in recorded.named("IBuilderConfig.set_flag")}
    assert flags >= {"FP16", "OBEY_PRECISION_CONSTRAINTS"}
    graph = load_graph(bundle, bundle.manifest.graphs[FP16_MIXED]["denoise"])
    types = {one.name: held[one.node] for one in find_linears(graph) if one.name.startswith("blocks.")}
    assert {name for name, kind in types.items() if kind == "FLOAT"} >= {"blocks.0.mlp.fc1", "blocks.0.mlp.fc2"}
    assert (types["blocks.1.mlp.fc1"], types["blocks.0.attn.qkv"]) == ("HALF", "HALF")


@pytest.mark.parametrize("precision", ["int8-fp16", "fp8", "int8-kvf8"])
def test_8_5_refuses_int8_between_fp16_and_fp8(bundle: Bundle, precision: str) -> None:
    with enabled_fake_cuda(), install("8.5", gpu="vdmrt fake GPU", compute_capability="9.0"):
        with pytest.raises(EngineError, match="uses opset 19, which FP8 and quantized FP16 need, and cannot be"):
            build_engines(bundle, precision=precision)


@pytest.mark.parametrize("precision", ["int8", "int8-kv8"])
def test_lowered_int8_graphs_are_opset_16_keep_their_pairs_and_compute_the_same(bundle: Bundle, precision: str) -> None:
    paths = lower_graphs(bundle, Precision.parse(precision))

    for stage in ("fill", "denoise"):
        exported = bundle.locate(bundle.manifest.graphs[Precision.parse(precision)][stage].file)
        before, after = (onnx.load(str(path), load_external_data=False) for path in (exported, paths[stage]))
        onnx.checker.check_model(str(paths[stage]), full_check=True)
        assert [(one.domain, one.version) for one in after.opset_import] == [("", 16)]
        assert pairs(before) == pairs(after) != []
        wanted, found = (run(path, bundle, precision, stage) for path in (exported, paths[stage]))
        for name in wanted:
            # A value on the edge between two steps may round to either: one step of many.
            assert np.linalg.norm(found[name] - wanted[name]) <= 1e-3 * np.linalg.norm(wanted[name]) + 1e-6, name


@pytest.mark.parametrize("precision", ["int8", "int8-fp16", "int8-fp16-kv8", "fp8"])
def test_quantized_graphs_in_the_forms_of_newer_releases_compute_the_same(bundle: Bundle, precision: str) -> None:
    paths = lower_graphs(bundle, Precision.parse(precision), release="10.3")

    for stage in ("fill", "denoise"):
        exported = bundle.locate(bundle.manifest.graphs[Precision.parse(precision)][stage].file)
        assert pairs(onnx.load(str(exported), load_external_data=False)) != []
        wanted, found = (run(path, bundle, precision, stage) for path in (exported, paths[stage]))
        for name in wanted:
            # A value on the edge between two steps may round to either, and FP16 sums differ in their order.
            assert np.linalg.norm(found[name] - wanted[name]) <= 1e-2 * np.linalg.norm(wanted[name]) + 1e-6, name


def test_a_lowered_graph_records_its_quantized_weights(bundle: Bundle) -> None:
    precision = Precision.parse("int8-fp16")
    graph = bundle.manifest.graphs[precision]["denoise"]
    lower_graphs(bundle, precision, release="10.3")

    weights = find_source(bundle, graph, "10.3").quantized_weights

    named = {one.name: one.node for one in find_linears(load_graph(bundle, bundle.manifest.graphs[FP16]["denoise"]))}
    blocks = {name: node for name, node in named.items() if name.startswith("blocks.")}
    assert weights.items() <= {f"{name}.weight.dq": node for name, node in blocks.items()}.items()
    assert len(weights) == 16


@pytest.mark.parametrize("precision", ["int8", "int8-fp16", "int8-kv8", "int8-fp16-kv8", "fp8", "fp8-kvf8"])
def test_tensorrt_for_rtx_multiplies_every_quantized_weight_in_8_bits(bundle: Bundle, precision: str) -> None:
    engine = build_engines(bundle, precision=precision, backend="tensorrt-rtx")

    for stage, weights in (("fill", 15), ("denoise", 16)):
        audit = engine.plan(stage).audit
        assert audit is not None
        assert (audit.quantized_weights, audit.quantized_products, audit.widened_weights) == (weights, weights, 0)
    shown = CliRunner().invoke(main, ["inspect", str(bundle.path)])
    assert re.search(r"8 bit products +15 of 15 weights +16 of 16 weights", shown.stdout), shown.output


def pairs(model: onnx.ModelProto) -> list[tuple[str, ...]]:
    kinds = ("QuantizeLinear", "DequantizeLinear")
    return [(node.op_type, *node.input, *node.output) for node in model.graph.node if node.op_type in kinds]


def run(path: Path, bundle: Bundle, precision: str, stage: str) -> dict[str, np.ndarray]:
    drawn = np.random.default_rng(4)
    feeds = {}
    for spec in bundle.manifest.graphs[Precision.parse(precision)][stage].inputs:
        whole = spec.dtype in ("int8", "int32")
        feeds[spec.name] = drawn.integers(0, 2, spec.shape) if whole else drawn.standard_normal(spec.shape)
        feeds[spec.name] = feeds[spec.name].astype(spec.dtype)
    session = open_session(path, threads=1)
    names = [value.name for value in session.get_outputs()]
    return {name: value.astype(np.float64) for name, value in zip(names, session.run(names, feeds), strict=True)}


@pytest.fixture
def text(text_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a bundle for one request, as TensorRT needs it, with int8."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = Path(shutil.copytree(text_bundle, tmp_path / "text"))
    np.save(tmp_path / "prompt.npy", np.ones((3, 8), np.float32))
    np.save(tmp_path / "data.npy", np.random.default_rng(2).standard_normal((1, 4, 4, 4, 4)).astype(np.float32))
    calibrate(
        CalibrationRequest(
            path, tmp_path / "data.npy", samples=4, sampler="ddim", text=tmp_path / "prompt.npy", threads=1
        )
    )
    return path


@pytest.fixture
def recorder(text: Path) -> Iterator[Recorder]:
    with enabled_fake_cuda(), install("10.16", gpu="vdmrt fake GPU", compute_capability="9.0") as recorder:
        yield recorder


def test_a_quantized_engine_that_is_not_faster_exits_with_3(text: Path, recorder: Recorder) -> None:
    let_compute(recorder, open_bundle(text), "fp32")
    alone = CliRunner().invoke(main, ["build", str(text), "--precision", "fp32"])
    # Both engines compute the same here, so neither can be faster.
    let_compute(recorder, open_bundle(text), "int8")

    built = CliRunner().invoke(main, ["build", str(text), "--precision", "int8"])
    accepted = CliRunner().invoke(main, ["build", str(text), "--precision", "int8", "--accept-slower"])

    assert alone.exit_code == 0, alone.output
    assert (built.exit_code, accepted.exit_code) == (3, 0), built.output
    # The measured ratio is chance; the message follows from the interval.
    assert re.search(
        r"int8 is (slower|not shown to be faster) than fp32: [\d.]+ times as fast \(99 % int", built.stderr
    )
    assert "the engine was built and stays in " in built.stderr and "accept it with --accept-slower" in built.stderr
    (engine,) = (one for one in list_engines(open_bundle(text)) if one.manifest.precision == Precision.parse("int8"))
    assert [check.name for check in engine.manifest.checks] == ["runs", "agrees", "faster", "faster than fp32"]
    assert [check.passed for check in engine.manifest.checks][1] and not engine.manifest.checks[-1].passed


def test_without_a_floating_point_engine_nothing_is_timed(text: Path, recorder: Recorder) -> None:
    let_compute(recorder, open_bundle(text), "int8")

    built = CliRunner().invoke(main, ["build", str(text), "--precision", "int8"])

    assert built.exit_code == 0, built.output
    assert "int8 was not timed against fp32: " in built.stderr
    assert "has no fp32 engine; build one with vdmrt build" in built.stderr


def test_a_dry_run_plans_a_quantized_cache_in_half_the_bytes(bundle: Bundle) -> None:
    from vdmrt.engines import plan_engine

    half = [Precision.parse(name) for name in ("fp16", "fp16-mixed", "int8-fp16")]
    small = [Precision.parse(name) for name in ("int8-fp16-kv8", "int8-fp16-kvf8")]
    plans = {precision: plan_engine(bundle, precision, None) for precision in (*half, *small)}

    (whole,) = {plans[precision].cache_nbytes for precision in half}
    assert {2 * plans[precision].cache_nbytes for precision in small} == {whole}
    assert plans[Precision.parse("int8-fp16")].precision == Precision.parse("int8-fp16")
