"""Quantized graphs: placement of Q/DQ pairs, and results."""

from __future__ import annotations

import collections
import dataclasses
import fnmatch
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from calibrated import calibrate_copy

from vdmrt.bundle import FP16, FUNCTION_DOMAIN, Bundle, CacheProjections, Precision, Stage, open_bundle
from vdmrt.calibration.graph.cache_scales import CacheScales, choose_cache_scales, fold_cache
from vdmrt.calibration.graph.formats import FORMATS
from vdmrt.calibration.graph.graph_file import GraphFile, load_graph
from vdmrt.calibration.graph.linears import (
    choose_linears,
    find_linears,
    sites_of,
)
from vdmrt.calibration.graph.quantization import Quantization
from vdmrt.calibration.graph.rendering import codes_of, render
from vdmrt.calibration.observe.instrument import open_session
from vdmrt.calibration.observe.statistics import ChannelStatistics
from vdmrt.calibration.verify.reference import reference_bundle, reference_graphs
from vdmrt.errors import BundleError, CalibrationError

STAGES = ("fill", "denoise")


@pytest.fixture(scope="module")
def calibrated(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return the tiny bundle with int8 and int8-fp16, an INT8 cache, and mlp.fc2 of block 1 kept."""
    folder = tmp_path_factory.mktemp("calibrated")
    calibrate_copy(tiny_bundle, folder, keep=("blocks.1.mlp.fc2",))
    for kv in ("int8", "fp8"):
        calibrate_copy(tiny_bundle, folder, precision="none", kv=kv)
    return open_bundle(folder / "bundle")


def opened(bundle: Bundle, precision: str, stage: str) -> GraphFile:
    return load_graph(bundle, bundle.manifest.graphs[Precision.parse(precision)][stage])


def scales_of(bundle: Bundle, precision: str) -> Quantization:
    made = next(one for one in bundle.manifest.calibrations if str(one.precision) == precision)
    return Quantization.from_json(bundle.locate(made.scales).read_text())


def nodes_by_output(graph: GraphFile) -> dict[str, Any]:
    return {name: node for node in graph.nodes for name in node.output}


@pytest.mark.parametrize("precision", ["int8", "int8-fp16"])
@pytest.mark.parametrize("stage", STAGES)
def test_each_quantized_weight_has_exactly_one_dequantization(calibrated: Bundle, precision: str, stage: str) -> None:
    graph = opened(calibrated, precision, stage)
    names = {one.name for one in find_linears(opened(calibrated, "fp32", stage))}
    wanted = {f"{name}.weight.quantized" for name in scales_of(calibrated, precision).linears if name in names}

    stored = [node.input[0] for node in graph.nodes if node.input and node.input[0] in wanted]

    assert sorted(stored) == sorted(wanted)
    assert all(graph.weights[name].dtype == np.int8 for name in wanted)


@pytest.mark.parametrize("stage", STAGES)
def test_each_quantized_linear_reads_one_pair_and_adds_its_bias_afterwards(calibrated: Bundle, stage: str) -> None:
    graph = opened(calibrated, "int8", stage)
    written, readers = nodes_by_output(graph), [node for node in graph.nodes if node.op_type == "Gemm"]
    pairs = [node for node in readers if node.input[1].endswith(".dequantized")]

    assert pairs
    for node in pairs:
        dequantize = written[node.input[0]]
        quantize = written[dequantize.input[0]]
        assert (dequantize.op_type, quantize.op_type) == ("DequantizeLinear", "QuantizeLinear")
        assert list(dequantize.input[1:]) == list(quantize.input[1:])
        assert len(node.input) == 2
        assert [n.op_type for n in graph.nodes if node.output[0] in n.input] == ["Add"]


@pytest.mark.parametrize("precision", ["int8", "int8-fp16"])
def test_no_pair_is_placed_around_kept_linears(calibrated: Bundle, precision: str) -> None:
    for stage in STAGES:
        kept = [node for node in opened(calibrated, precision, stage).nodes if node.op_type == "Gemm"]
        kept = [node for node in kept if not node.input[1].endswith(".dequantized")]
        names = {node.input[1].removesuffix(".weight") for node in kept} - {"view_2", "view_3"}

        assert "blocks.1.mlp.fc2" in names or stage == "fill"
        for node in kept:
            name = node.input[1].removesuffix(".weight")
            patterns = (*calibrated.manifest.parameters.floating, "blocks.1.mlp.fc2")
            assert not name.startswith("blocks.") or any(fnmatch.fnmatchcase(name, one) for one in patterns)
            assert not node.input[0].endswith(".dequantized")


@pytest.mark.parametrize("precision", ["int8", "int8-fp16"])
def test_no_pair_is_placed_inside_an_attention(calibrated: Bundle, precision: str) -> None:
    for stage in STAGES:
        graph = opened(calibrated, precision, stage).inlined()
        written = nodes_by_output(graph)
        for node in graph.nodes:
            if node.op_type in ("MatMul", "Softmax"):
                sources = [written[name].op_type for name in node.input if name in written]
                assert "DequantizeLinear" not in sources


@pytest.mark.parametrize("precision", ["int8", "int8-fp16", "fp16-kv8"])
@pytest.mark.parametrize("stage", STAGES)
def test_calibrated_graphs_keep_the_calls_in_the_opset_of_the_graph(
    calibrated: Bundle, precision: str, stage: str
) -> None:
    model = opened(calibrated, precision, stage).model

    found = collections.Counter(node.op_type for node in model.graph.node if node.domain == FUNCTION_DOMAIN)
    assert found == calibrated.manifest.graphs[Precision.parse(precision)][Stage(stage)].calls
    (opset,) = (one.version for one in model.opset_import if one.domain == "")
    assert {one.version for function in model.functions for one in function.opset_import} == {opset}


def test_renderings_have_the_opset_and_types_of_their_readers(calibrated: Bundle) -> None:
    versions = {p: opened(calibrated, p, "denoise").model.opset_import[0].version for p in ("int8", "int8-fp16")}
    single = opened(calibrated, "int8", "denoise").weights["blocks.0.mlp.fc1.input.scale"]
    half = opened(calibrated, "int8-fp16", "denoise").weights["blocks.0.mlp.fc1.input.scale"]

    assert versions == {"int8": 18, "int8-fp16": 19}
    assert single.dtype == np.float32 and half.dtype == np.float16
    assert float(single) == float(half)


def test_both_renderings_share_their_8_bit_weights(calibrated: Bundle) -> None:
    graphs = [opened(calibrated, precision, "denoise") for precision in ("int8", "int8-fp16")]

    one, other = (graph.weights["blocks.0.mlp.fc1.weight.quantized"] for graph in graphs)

    assert np.array_equal(one, other)
    assert (
        calibrated.manifest.graphs[Precision.parse("int8")]["fill"].weights
        == calibrated.manifest.graphs[Precision.parse("int8-fp16")]["fill"].weights
    )


def test_weights_rounded_to_nearest_equal_numpys(tiny_bundle: Path, tmp_path: Path) -> None:
    calibrate_copy(tiny_bundle, tmp_path, rounding="nearest")
    nearest = open_bundle(tmp_path / "bundle")
    quantization = scales_of(nearest, "int8")
    weight = np.array(opened(nearest, "fp32", "fill").weights["blocks.0.attn.qkv.weight"])
    scales = quantization.linears["blocks.0.attn.qkv"]

    wanted = np.clip(np.rint(weight / np.array(scales.weight, np.float32)[:, None]), -127, 127)

    assert quantization.sites[scales.site].migration is None
    assert np.array_equal(opened(nearest, "int8", "fill").weights["blocks.0.attn.qkv.weight.quantized"], wanted)


def test_gptq_rounds_most_weights_to_a_neighboring_value(calibrated: Bundle) -> None:
    weight = np.array(opened(calibrated, "fp32", "fill").weights["blocks.0.attn.qkv.weight"])
    scales = np.array(scales_of(calibrated, "int8").linears["blocks.0.attn.qkv"].weight, np.float32)[:, None]

    stored = opened(calibrated, "int8", "fill").weights["blocks.0.attn.qkv.weight.quantized"]

    off = np.abs(stored - weight / scales)
    assert not np.array_equal(stored, np.clip(np.rint(weight / scales), -127, 127))
    assert np.mean(off < 1) > 0.85


@pytest.mark.parametrize("precision", ["int8", "int8-fp16", "fp32-kv8", "fp16-kv8", "fp32-kvf8", "fp16-kvf8"])
@pytest.mark.parametrize("stage", STAGES)
def test_the_onnx_checker_accepts_every_graph(calibrated: Bundle, precision: str, stage: str) -> None:
    path = calibrated.locate(calibrated.manifest.graphs[Precision.parse(precision)][stage].file)

    onnx.checker.check_model(str(path), full_check=True)


def test_onnx_runtime_fuses_every_pair_into_an_integer_product(calibrated: Bundle, tmp_path: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    path = calibrated.locate(calibrated.manifest.graphs[Precision.parse("int8")]["denoise"].file)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph.node]

    linears = {one.name for one in find_linears(opened(calibrated, "fp32", "denoise"))}
    assert kinds.count("QGemm") == len(linears & set(scales_of(calibrated, "int8").linears))
    assert "DequantizeLinear" not in kinds


@pytest.mark.parametrize(("kv", "dtype"), [("-kv8", "int8"), ("-kvf8", "float8_e4m3fn")])
def test_the_cache_is_8_bit_and_the_context_is_not(calibrated: Bundle, kv: str, dtype: str) -> None:
    for floating, wide in (("fp32", "float32"), ("fp16", "float16")):
        fill = calibrated.manifest.graphs[Precision.parse(floating + kv)]["fill"]
        specs = {spec.name.partition(".")[0]: spec for spec in (*fill.inputs, *fill.outputs)}

        assert (specs["past_k"].dtype, specs["present_v"].dtype, specs["context_k"].dtype) == (dtype, dtype, wide)
        assert specs["past_k"].nbytes == math.prod(specs["past_k"].shape)


def test_folding_the_cache_changes_nothing_but_the_cache(tiny_bundle: Path, tmp_path: Path) -> None:
    graph = reference_graphs(open_bundle(tiny_bundle))["fill"]
    drawn = np.random.default_rng(7)
    cache = {
        f"{part}.{layer}": CacheScales(1.0, tuple(drawn.integers(-24, 25, 32) / 8))
        for layer in range(2)
        for part in "kv"
    }
    folded = graph.copy()
    fold_cache(folded, cache)

    plain, other = (run_first_fill(one, tmp_path) for one in (graph, folded))

    for name in plain:
        factors = cache[name.removeprefix("present_")].factors if name.startswith("present_") else np.ones(32)
        heads = np.tile(factors.reshape(2, 16), (plain[name].shape[1] // 2, 1))[None, :, None]
        assert other[name] == pytest.approx(plain[name] * heads, rel=1e-4, abs=1e-5)


def run_first_fill(graph: GraphFile, folder: Path) -> dict[str, np.ndarray]:
    """Run a fill on an empty cache."""
    from vdmrt.calibration.graph.graph_file import WeightsFile, save_graph

    path = folder / f"{id(graph)}.onnx"
    save_graph(graph, path, WeightsFile(path.with_suffix(".bin")))
    session = open_session(path, threads=1)
    feeds: dict[str, np.ndarray[Any, Any]] = {}
    for value in session.get_inputs():
        kind = np.int32 if "int32" in value.type else np.float32
        feeds[value.name] = np.zeros(value.shape, kind)
    feeds["latent"] = np.random.default_rng(8).standard_normal(feeds["latent"].shape, np.float32)
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def test_pairs_of_rope_share_their_factor() -> None:
    seen = ChannelStatistics.empty(8)
    rows = np.random.default_rng(9).standard_normal((64, 8)).astype(np.float32) * [1, 30, 1, 1, 8, 1, 1, 1]
    seen.add(rows.astype(np.float32), amax=np.abs(rows).max(0).astype(np.float32), mean=rows.mean(0))

    chosen = choose_cache_scales(
        {"k.0": seen, "v.0": seen}, FORMATS["int8"], CacheProjections("q", "k", "v", "o", pairs=True)
    )

    assert chosen["k.0"].exponents[0::2] == chosen["k.0"].exponents[1::2]
    assert chosen["v.0"].exponents[0::2] != chosen["v.0"].exponents[1::2]


def test_a_cache_whose_projections_are_not_named_has_no_factors(tiny_bundle: Path) -> None:
    seen = ChannelStatistics.empty(4)
    rows = np.random.default_rng(9).standard_normal((64, 4)).astype(np.float32)
    rows[:, 1] *= 30
    seen.add(rows, amax=np.abs(rows).max(0), mean=rows.mean(0))
    graph = reference_graphs(open_bundle(tiny_bundle))[Stage.FILL]
    graph.parameters = dataclasses.replace(graph.parameters, projections=None)
    before = {name: np.array(data) for name, data in graph.weights.items()}

    chosen = choose_cache_scales({"k.0": seen, "v.0": seen}, FORMATS["int8"], None)
    fold_cache(graph, chosen)

    assert set(chosen["k.0"].exponents) == {0.0}
    assert all(np.array_equal(graph.weights[name], data) for name, data in before.items())


def test_an_fp8_cache_has_headroom_and_no_factors() -> None:
    seen = ChannelStatistics.empty(8)
    rows = np.random.default_rng(9).standard_normal((64, 8)).astype(np.float32) * np.float32(3)
    seen.add(rows, amax=np.abs(rows).max(0), mean=rows.mean(0))

    chosen = choose_cache_scales({"k.0": seen}, FORMATS["fp8"], None)["k.0"]

    assert set(chosen.exponents) == {0.0}
    assert 4 <= 448 * chosen.scale / np.abs(rows).max() < 4.1


def test_a_bundle_without_fp32_is_widened_without_changing_a_weight(tiny_bundle: Path, tmp_path: Path) -> None:
    import dataclasses

    bundle = open_bundle(tiny_bundle)
    halves = dataclasses.replace(bundle.manifest, graphs={FP16: bundle.manifest.graphs[FP16]})

    widened = reference_bundle(Bundle(bundle.path, halves), tmp_path / "wide")

    reopened = open_bundle(tmp_path / "wide")
    assert reopened.manifest.graphs == widened.manifest.graphs
    single, half = opened(reopened, "fp32", "denoise").weights, opened(bundle, "fp16", "denoise").weights
    assert all(np.array_equal(single[name], half[name].astype(single[name].dtype)) for name in single)
    assert {one.dtype.name for one in single.values()} == {"float32", "int32", "int64"}


def test_linears_that_read_the_same_tensor_share_a_site(tiny_bundle: Path) -> None:
    graphs = reference_graphs(open_bundle(tiny_bundle))

    sites = sites_of(find_linears(graph) for graph in graphs.values())

    assert sites["blocks.0.attn_cf.q"] == sites["blocks.0.attn_cf.kv"]
    assert sites["blocks.0.attn.qkv"] == "blocks.0.attn.qkv"


def test_a_pattern_that_matches_nothing_is_refused(tiny_bundle: Path) -> None:
    linears = find_linears(reference_graphs(open_bundle(tiny_bundle))["fill"])

    with pytest.raises(CalibrationError, match=r"--keep 'blocks.9.\*' matches no linear; the names are blocks.0"):
        choose_linears(linears, ["blocks.9.*"])
    with pytest.raises(CalibrationError, match="nothing to quantize"):
        choose_linears(linears, ["*"])


def test_a_graph_is_not_quantized_twice(calibrated: Bundle) -> None:
    graph = opened(calibrated, "fp32", "fill")
    codes = codes_of(opened(calibrated, "int8", "fill"))
    quantization = dataclasses.replace(scales_of(calibrated, "int8"), codes=codes)
    once = render(graph, "fill", quantization)

    with pytest.raises(CalibrationError, match="contains none of the quantized linears"):
        render(once, "fill", quantization)
    graph.weights["blocks.0.attn.qkv.weight.quantized"] = np.zeros(1, np.int8)
    with pytest.raises(BundleError, match="calibrate a graph that was not quantized"):
        render(graph, "fill", quantization)


def test_a_quantization_is_loaded_as_it_was_saved(calibrated: Bundle) -> None:
    quantization = scales_of(calibrated, "int8")

    assert Quantization.from_json(quantization.to_json()) == quantization
    assert Quantization.from_json(scales_of(calibrated, "fp32-kvf8").to_json()) == scales_of(calibrated, "fp32-kvf8")
    with pytest.raises(CalibrationError, match="not a quantization of vdmrt"):
        Quantization.from_json("{}")


def test_groups_can_be_kept_or_chosen(calibrated: Bundle) -> None:
    quantization = scales_of(calibrated, "int8")

    assert "blocks.0.mlp.fc1" not in quantization.keeping(["blocks.0.mlp"]).linears
    assert set(quantization.only(["blocks.0.mlp"]).linears) == {"blocks.0.mlp.fc1", "blocks.0.mlp.fc2"}
