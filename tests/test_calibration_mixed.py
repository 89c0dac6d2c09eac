"""FP16 graphs with some layers in float32: types of tensors, and results."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import vdmrt
from vdmrt.bundle import FP16, FP16_MIXED, Bundle, BundleWriter, Manifest, Precision, open_bundle
from vdmrt.calibration.choose.guard import layers_of
from vdmrt.calibration.graph.graph_file import GraphFile, load_graph
from vdmrt.calibration.graph.linears import find_linears
from vdmrt.calibration.graph.mixed import (
    MixedRequest,
    half_layers,
    keep_layers,
    mix_precisions,
)
from vdmrt.calibration.graph.widening import half_tensors, tensor_types
from vdmrt.cli import main
from vdmrt.errors import BundleError, CalibrationError

STAGES = ("fill", "denoise")
KEPT = ("blocks.0.mlp.*", "blocks.1.attn.qkv")
FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


@pytest.fixture(scope="module")
def mixed(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("mixed") / "bundle"))
    mix_precisions(MixedRequest(path, KEPT))
    return open_bundle(path)


def opened(bundle: Bundle, precision: str, stage: str) -> GraphFile:
    return load_graph(bundle, bundle.manifest.graphs[Precision.parse(precision)][stage])


def kept_linears(graph: GraphFile) -> list[str]:
    names = ("blocks.0.mlp.fc1", "blocks.0.mlp.fc2", "blocks.1.attn.qkv")
    return [one.name for one in find_linears(graph) if one.name in names]


@pytest.mark.parametrize("stage", STAGES)
def test_kept_layers_read_and_write_float32_and_other_layers_are_unchanged(mixed: Bundle, stage: str) -> None:
    before, after = opened(mixed, "fp16", stage), opened(mixed, "fp16-mixed", stage)
    kept, layers, types, were = kept_linears(before), layers_of(after), tensor_types(after), tensor_types(before)
    outputs = {node.name: node.output[0] for node in before.nodes}
    assert kept

    for node in after.nodes:
        sides = [types[name] for name in (*node.input, *node.output) if types.get(name) in (FLOAT, HALF)]
        if node.op_type == "Cast":
            continue
        if layers[node.output[0]] in kept:
            assert HALF not in sides, node.name
        else:
            assert types[node.output[0]] == were[outputs[node.name]], node.name
            assert set(sides) in ({HALF}, {FLOAT}, set()), node.name


@pytest.mark.parametrize("stage", STAGES)
def test_every_computing_node_occurs_once_and_no_cast_is_idle(mixed: Bundle, stage: str) -> None:
    before, after = opened(mixed, "fp16", stage), opened(mixed, "fp16-mixed", stage)
    types = tensor_types(after)

    wanted, found = ([node.name for node in graph.nodes if node.op_type != "Cast"] for graph in (before, after))
    casts = [(types[node.input[0]], types[node.output[0]]) for node in after.nodes if node.op_type == "Cast"]

    assert found == wanted
    assert all(source != output for source, output in casts)


@pytest.mark.parametrize("stage", STAGES)
def test_kept_weights_are_the_float32_ones_to_the_bit(mixed: Bundle, stage: str) -> None:
    exact, half, after = (opened(mixed, precision, stage) for precision in ("fp32", "fp16", "fp16-mixed"))

    for linear in find_linears(after):
        source = exact if linear.name in kept_linears(half) else half
        for name in filter(None, (linear.weight, linear.bias)):
            assert after.weights[name].dtype == source.weights[name].dtype
            assert np.array_equal(after.weights[name], source.weights[name])


@pytest.mark.parametrize("stage", STAGES)
def test_the_onnx_checker_accepts_it_and_its_inputs_outputs_and_costs_are_those_of_fp16(
    mixed: Bundle, stage: str
) -> None:
    before, after = (mixed.manifest.graphs[precision][stage] for precision in (FP16, FP16_MIXED))
    half, wide = opened(mixed, "fp16", stage), opened(mixed, "fp16-mixed", stage)

    onnx.checker.check_model(str(mixed.locate(after.file)), full_check=True)

    assert (after.inputs, after.outputs, after.flops) == (before.inputs, before.outputs, before.flops)
    # Each kept weight takes two bytes more; constants that both types read are stored twice.
    kept = [one for one in find_linears(half) if one.name in kept_linears(half)]
    grown = sum(2 * one.outputs * (one.inputs + 1) for one in kept)
    assert grown <= after.nbytes_moved - before.nbytes_moved < grown + 2048
    assert set(half_layers([wide])) < set(half_layers([half]))


def test_it_runs_and_is_closer_to_float32_than_fp16(mixed: Bundle) -> None:
    first = np.random.default_rng(1).standard_normal((4, 4, 4, 6)).astype(np.float32)
    made = {}
    for precision in ("fp32", "fp16", "fp16-mixed"):
        with vdmrt.load(mixed.path, precision=precision, threads=1) as model, model.session(seed=3) as session:
            session.start(first)
            made[precision] = session.step().latents
            assert session.cache()[0].dtype == (np.float32 if precision == "fp32" else np.float16)

    off = {name: np.linalg.norm(one - made["fp32"]) / np.linalg.norm(made["fp32"]) for name, one in made.items()}
    assert 0 < off["fp16-mixed"] < 1e-2
    assert off["fp16-mixed"] < 1.5 * off["fp16"]


def test_keeping_every_layer_leaves_only_inputs_and_outputs_in_fp16(mixed: Bundle) -> None:
    for stage in STAGES:
        half, exact = opened(mixed, "fp16", stage), opened(mixed, "fp32", stage)

        wide = keep_layers(half, half_layers([half]), exact)

        sides = {value.name for value in (*wide.model.graph.input, *wide.model.graph.output)}
        assert set(half_tensors(wide)) <= sides


def test_the_same_patterns_give_the_same_bytes_and_are_recorded(mixed: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(mixed.path, tmp_path / "bundle"))

    summary = mix_precisions(MixedRequest(copy, KEPT))

    assert open_bundle(copy).manifest.graphs == mixed.manifest.graphs
    assert open_bundle(copy).manifest.provenance["fp16-mixed"] == "--keep 'blocks.0.mlp.*' --keep blocks.1.attn.qkv"
    assert (summary.exact, summary.weights_nbytes > 0) == (True, True)
    assert "computed in float32: blocks.0.mlp.fc1, blocks.0.mlp.fc2, blocks.1.attn.qkv" in summary.describe()


def without(bundle: Path, precision: str) -> Manifest:
    manifest = open_bundle(bundle).manifest
    left = {name: graphs for name, graphs in manifest.graphs.items() if str(name) != precision}
    made = dataclasses.replace(manifest, graphs=left)
    BundleWriter(bundle).finish(made)
    return made


def test_without_fp32_graphs_weights_are_widened_and_the_summary_says_so(tiny_bundle: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    without(path, "fp32")

    summary = mix_precisions(MixedRequest(path, ("blocks.0.mlp.fc1",)))

    bundle, name = open_bundle(path), "blocks.0.mlp.fc1.weight"
    half, wide = (opened(bundle, precision, "denoise").weights[name] for precision in ("fp16", "fp16-mixed"))
    assert wide.dtype == np.float32 and np.array_equal(wide, half.astype(np.float32))
    assert "widened from FP16: the bundle has no fp32 graphs" in summary.describe()


def test_patterns_and_bundles_that_cannot_be_mixed_are_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))

    with pytest.raises(
        CalibrationError, match=r"--keep 'blocks.9.\*' matches no layer in FP16; the names are .*blocks"
    ):
        mix_precisions(MixedRequest(path, ("blocks.9.*",)))
    with pytest.raises(BundleError, match="not 'fp16-mixed'; make it with vdmrt calibrate"):
        vdmrt.load(path, precision="fp16-mixed")
    without(path, "fp16")
    with pytest.raises(CalibrationError, match="has fp32, not fp16; export it again with --precision fp16"):
        mix_precisions(MixedRequest(path, ("blocks.0.*",)))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--precision", "fp16"], "needs the layers to compute in float32; name them with --keep"),
        (["--precision", "fp16", "--keep", "*", "--data", "x"], "it takes --keep, but not --data"),
        (["--precision", "fp16", "--keep", "*", "--kv", "int8"], "it takes --keep, but not --kv"),
        ([], "--precision int8 observes rollouts and needs clips; name them with --data"),
        (["--precision", "none", "--kv", "fp8"], "--precision none observes rollouts and needs clips"),
    ],
)
def test_incompatible_options_are_refused_by_name(tiny_bundle: Path, options: list[str], sentence: str) -> None:
    done = CliRunner().invoke(main, ["calibrate", str(tiny_bundle), *options])

    assert done.exit_code == 2
    assert sentence in done.output
