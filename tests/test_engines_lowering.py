"""Lowered graphs compute the same as exported ones, in operators that TensorRT 8.5 supports."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from golden import relative_error

from vdmrt.bundle import FP16, FP32, Graph, Stage, open_bundle, stage_graphs
from vdmrt.engines import find_source, lower_graphs, needs_lowering
from vdmrt.engines.tensorrt.functions import SUMS_OF_PRODUCTS, THREE_VIEWS
from vdmrt.engines.tensorrt.lowering import RTX
from vdmrt.errors import EngineError

VERSION = "8.5.3.1"


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny bundle that may be changed."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def run(model: Path | onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    given = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(given, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def random_feeds(graph: Graph) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    feeds: dict[str, Any] = {}
    for spec in graph.inputs:
        if spec.dtype == "int32":
            feeds[spec.name] = rng.integers(0, 2, spec.shape, dtype=np.int32)
        else:
            feeds[spec.name] = rng.standard_normal(spec.shape).astype(spec.dtype)
    return feeds


@pytest.mark.parametrize("fixture", ["tiny_bundle", "text_bundle"])
def test_lowered_graphs_compute_the_same(fixture: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    copied = shutil.copytree(request.getfixturevalue(fixture), tmp_path / "bundle")
    opened = open_bundle(copied)
    for precision, release in itertools.product(opened.manifest.graphs, ("8.5", "10.3", RTX)):
        paths = lower_graphs(opened, precision, release=release)
        for stage, graph in stage_graphs(opened, precision).items():
            feeds = random_feeds(graph)

            wanted = run(opened.locate(graph.file), feeds)
            found = run(paths[stage], feeds)

            tolerance = 1e-5 if precision == FP32 else 2e-3
            for spec, ours, theirs in zip(graph.outputs, found, wanted, strict=True):
                assert relative_error(ours, theirs) <= tolerance, (stage, precision, spec.name)


def test_a_bundle_copied_by_links_is_lowered(bundle: Path, tmp_path: Path) -> None:
    linked = shutil.copytree(bundle, tmp_path / "linked", copy_function=os.link)

    paths = lower_graphs(open_bundle(linked), FP16)

    assert {path.parent for path in paths.values()} == {linked / "graphs"}
    assert all(path.is_file() for path in paths.values())


def test_lowered_graphs_are_opset_16_without_layer_normalization(bundle: Path) -> None:
    paths = lower_graphs(open_bundle(bundle), FP16)

    for path in paths.values():
        onnx.checker.check_model(str(path))
        model = onnx.load(str(path), load_external_data=False)
        assert [(part.domain, part.version) for part in model.opset_import] == [("", 16)]
        assert model.ir_version == 8
        assert "LayerNormalization" not in {node.op_type for node in model.graph.node}


def test_normalization_is_float32_where_its_input_is_half() -> None:
    from vdmrt.engines.tensorrt.lowering import _infer, _lower_node, _types_of

    tensor = onnx.helper.make_tensor_value_info
    half = onnx.TensorProto.FLOAT16
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("LayerNormalization", ["x", "scale", "shift"], ["y"], name="norm", epsilon=1e-6)],
        "g",
        [tensor("x", half, [2, 8]), tensor("scale", half, [8]), tensor("shift", half, [8])],
        [tensor("y", half, [2, 8])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    rng = np.random.default_rng(1)
    feeds = {
        "x": (rng.standard_normal((2, 8)) + 300).astype(np.float16),
        "scale": rng.standard_normal(8).astype(np.float16),
        "shift": rng.standard_normal(8).astype(np.float16),
    }
    wanted = run(model, feeds)
    nodes = list(_lower_node(model.graph.node[0], model.graph, _types_of(_infer(model))))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", 16))

    found = run(model, feeds)

    types = _types_of(_infer(model))
    assert {types[node.output[0]] for node in nodes if node.op_type in ("ReduceMean", "Sqrt", "Div")} == {"float32"}
    np.testing.assert_allclose(found[0].astype(float), wanted[0].astype(float), rtol=2e-3, atol=2e-3)


def test_every_tensor_of_a_lowered_graph_has_its_type(bundle: Path) -> None:
    opened = open_bundle(bundle)
    lower_graphs(opened, FP16)

    source = find_source(opened, opened.manifest.graphs[FP16]["denoise"], VERSION)

    assert source.types is not None and source.products is not None
    for node in onnx.load(str(source.path), load_external_data=False).graph.node:
        assert all(name in source.types for name in (*node.input, *node.output) if name)
    assert source.types["past_k.0"] == "float16"
    assert source.types["next_step"] == "int32"
    assert set(source.products.values()) == {"float16", "float32"}


def test_weights_are_shared_and_not_copied(bundle: Path) -> None:
    before = {path.name for path in (bundle / "graphs").glob("*.bin")}

    paths = lower_graphs(open_bundle(bundle), FP16)

    assert {path.name for path in (bundle / "graphs").glob("*.bin")} == before
    model = onnx.load(str(paths["denoise"]), load_external_data=False)
    locations = {e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"}
    assert locations == {"weights.fp16.bin"}


def test_lowering_needs_no_weights(bundle: Path) -> None:
    (bundle / "graphs" / "weights.fp16.bin").unlink()

    paths = lower_graphs(open_bundle(bundle), FP16)

    assert paths["denoise"].is_file()


def test_graphs_are_lowered_once(bundle: Path) -> None:
    opened = open_bundle(bundle)
    said: list[str] = []

    lower_graphs(opened, FP16, progress=said.append)
    lower_graphs(opened, FP16, progress=said.append)

    assert said == ["fill", "denoise", "vae_encode", "vae_decode"]


@pytest.mark.parametrize(
    ("version", "wanted"), [("8.5.3.1", True), ("8.6.1", False), ("10.3.0", False), ("11.4", False)]
)
def test_only_old_parsers_need_lowering(version: str, wanted: bool) -> None:
    assert needs_lowering(version) is wanted


def test_a_newer_parser_gets_the_exported_graph_with_functions_expanded(bundle: Path) -> None:
    opened = open_bundle(bundle)
    graph = opened.manifest.graphs[FP16]["denoise"]

    paths = lower_graphs(opened, FP16, release="10.3")

    model = onnx.load(str(paths["denoise"]), load_external_data=False)
    source = find_source(opened, graph, "10.3.0")
    assert (source.path, source.types) == (paths["denoise"], None)
    assert [part.version for part in model.opset_import if part.domain == ""] == [18]
    assert not model.functions and all(node.domain == "" for node in model.graph.node)
    assert paths["vae_decode"] == opened.locate(opened.manifest.components[Stage.VAE_DECODE].file)


def test_attention_over_the_cache_reads_each_tensor_once(bundle: Path) -> None:
    opened = open_bundle(bundle)
    graph = opened.manifest.graphs[FP16]["denoise"]

    path = lower_graphs(opened, FP16, release=RTX)["denoise"]

    readers = [
        (node.op_type, name)
        for node in onnx.load(str(path), load_external_data=False).graph.node
        for name in node.input
        if name.startswith("past_")
    ]
    assert sorted(readers) == [("Concat", f"past_{part}.{layer}") for part in "kv" for layer in range(2)]
    forms = find_source(opened, graph, RTX).forms
    assert forms["CachedAttention"] == {SUMS_OF_PRODUCTS: 2}
    assert forms["SplitProjection"] == {THREE_VIEWS: 4}
    assert {name: sum(found.values()) for name, found in forms.items()} == graph.calls


def test_a_graph_that_was_not_lowered_is_named(tiny_bundle: Path) -> None:
    opened = open_bundle(tiny_bundle)

    with pytest.raises(EngineError, match=r"TensorRT 8\.5\.3\.1 needs this lowered graph, which is missing"):
        find_source(opened, opened.manifest.graphs[FP16]["denoise"], VERSION)


def test_an_altered_lowered_graph_is_refused(bundle: Path) -> None:
    opened = open_bundle(bundle)
    path = lower_graphs(opened, FP16)["denoise"]
    path.write_bytes(path.read_bytes() + b"\0")

    with pytest.raises(EngineError, match="is missing or was altered; delete it"):
        find_source(opened, opened.manifest.graphs[FP16]["denoise"], VERSION)


def test_damaged_types_are_refused(bundle: Path) -> None:
    opened = open_bundle(bundle)
    path = lower_graphs(opened, FP16)["denoise"].with_suffix(".json")
    path.write_text(json.dumps({"types": {}}))

    with pytest.raises(EngineError, match="is damaged"):
        find_source(opened, opened.manifest.graphs[FP16]["denoise"], VERSION)


def test_an_altered_exported_graph_is_not_lowered(bundle: Path) -> None:
    path = bundle / "graphs" / "denoise.fp16.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))

    with pytest.raises(EngineError, match="differs from the graph that model.json records"):
        lower_graphs(open_bundle(bundle), FP16)


@pytest.mark.parametrize(
    ("node", "dtype", "sentence"),
    [
        (onnx.helper.make_node("Mish", ["x"], ["y"], name="odd"), 1, r"'odd': ai\.onnx\.Mish is not supported by the"),
        (
            onnx.helper.make_node("Clip", ["x"], ["y"], name="low"),
            6,
            r"node 'low': Clip reads int32; the parser of TensorRT 8\.5 accepts float16, float32",
        ),
        (
            onnx.helper.make_node("Split", ["x"], ["y", "z"], name="cut", num_outputs=2),
            1,
            r"node 'cut' \(Split\) of opset 18 has no form in opset 16",
        ),
    ],
)
def test_an_operator_that_the_parser_lacks_is_named(node: onnx.NodeProto, dtype: int, sentence: str) -> None:
    from vdmrt.engines.tensorrt.lowering import _check_node

    name = {1: "float32", 6: "int32"}[dtype]

    with pytest.raises(EngineError, match=sentence):
        _check_node(node, {"x": name, "y": name})
