"""Graphs with weights outside the bundle are refused before any library opens them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, ModelProto, TensorProto, helper

from vdmrt import load
from vdmrt.bundle import check_external_data, sha256_of
from vdmrt.errors import BundleError

Place = Callable[[ModelProto, TensorProto], object]


def external(location: str, *, name: str = "w") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="length", value="16")
    return tensor


def identity() -> ModelProto:
    value = helper.make_tensor_value_info
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [value("x", 1, [4])], [value("y", 1, [4])])
    return helper.make_model(graph)


def node_with(**members: object) -> onnx.NodeProto:
    node = helper.make_node("Constant", [], ["c"])
    node.attribute.append(AttributeProto(name="value", **members))  # type: ignore[arg-type]
    return node


def sparse(tensor: TensorProto, *, in_indices: bool) -> onnx.SparseTensorProto:
    plain = helper.make_tensor("plain", TensorProto.INT64, [1], [0])
    values, indices = (plain, tensor) if in_indices else (tensor, plain)
    return onnx.SparseTensorProto(values=values, indices=indices, dims=[4])


def subgraph(*nodes: onnx.NodeProto, initializer: TensorProto | None = None) -> onnx.GraphProto:
    return onnx.GraphProto(name="sub", node=nodes, initializer=[initializer] if initializer else [])


def nested(tensor: TensorProto, depth: int) -> onnx.NodeProto:
    node = node_with(t=tensor)
    for _ in range(depth):
        node = node_with(g=subgraph(node))
    return node


PLACES: dict[str, Place] = {
    "an initializer": lambda model, w: model.graph.initializer.append(w),
    "a sparse initializer's values": lambda model, w: model.graph.sparse_initializer.append(
        sparse(w, in_indices=False)
    ),
    "a sparse initializer's indices": lambda model, w: model.graph.sparse_initializer.append(
        sparse(w, in_indices=True)
    ),
    "an attribute": lambda model, w: model.graph.node.append(node_with(t=w)),
    "an attribute's list": lambda model, w: model.graph.node.append(node_with(tensors=[w])),
    "an attribute's sparse tensor": lambda model, w: model.graph.node.append(
        node_with(sparse_tensor=sparse(w, in_indices=False))
    ),
    "an attribute's sparse list": lambda model, w: model.graph.node.append(
        node_with(sparse_tensors=[sparse(w, in_indices=True)])
    ),
    "a subgraph": lambda model, w: model.graph.node.append(node_with(g=subgraph(initializer=w))),
    "a list of subgraphs": lambda model, w: model.graph.node.append(
        node_with(graphs=[subgraph(), subgraph(node_with(t=w))])
    ),
    "ten subgraphs deep": lambda model, w: model.graph.node.append(nested(w, 10)),
    "a function's node": lambda model, w: model.functions.append(onnx.FunctionProto(name="f", node=[node_with(t=w)])),
    "a function's default": lambda model, w: model.functions.append(
        onnx.FunctionProto(name="f", attribute_proto=[AttributeProto(name="value", t=w)])
    ),
    "training's graph": lambda model, w: model.training_info.append(
        onnx.TrainingInfoProto(algorithm=subgraph(initializer=w))
    ),
}


def save(path: Path, model: ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("where", PLACES)
def test_every_external_location_is_found(tmp_path: Path, where: str) -> None:
    model = identity()
    PLACES[where](model, external("../x"))
    path = save(tmp_path / "graph.onnx", model)
    sentence = "graph.onnx: names weights in '../x', where the bundle has 'weights.bin'; do not run this bundle"
    with pytest.raises(BundleError, match=sentence):
        check_external_data(path, "weights.bin")


@pytest.mark.parametrize("where", PLACES)
def test_weights_in_the_bundles_file_are_allowed(tmp_path: Path, where: str) -> None:
    model = identity()
    PLACES[where](model, external("weights.bin"))

    check_external_data(save(tmp_path / "graph.onnx", model), "weights.bin")


@pytest.mark.parametrize("location", ["/etc/passwd", "./weights.bin", "sub/weights.bin", "", "weights.bin\0", "ŵ"])
def test_other_spellings_of_the_weights_file_are_refused(tmp_path: Path, location: str) -> None:
    model = identity()
    model.graph.initializer.extend([external("weights.bin"), external(location, name="v")])
    path = save(tmp_path / "graph.onnx", model)
    with pytest.raises(BundleError, match="names weights in"):
        check_external_data(path, "weights.bin")


def test_no_weights_file_allows_none(tmp_path: Path) -> None:
    model = identity()
    model.graph.initializer.append(external("weights.bin"))
    path = save(tmp_path / "graph.onnx", model)
    with pytest.raises(BundleError, match="names weights in 'weights.bin', where the bundle has None"):
        check_external_data(path, None)


def test_the_last_of_two_locations_counts_as_it_does_for_protobuf(tmp_path: Path) -> None:
    tensor = external("weights.bin")
    tensor.external_data.add(key="location", value="../x")
    model = identity()
    model.graph.initializer.append(tensor)
    path = save(tmp_path / "graph.onnx", model)
    with pytest.raises(BundleError, match=r"names weights in '\.\./x'"):
        check_external_data(path, "weights.bin")


def test_a_graph_split_into_two_fields_is_merged(tmp_path: Path) -> None:
    model = identity()
    more = ModelProto(graph=subgraph(initializer=external("../x")))
    path = tmp_path / "graph.onnx"
    path.write_bytes(model.SerializeToString() + more.SerializeToString())
    with pytest.raises(BundleError, match=r"names weights in '\.\./x'"):
        check_external_data(path, None)


def test_too_deep_nesting_is_refused(tmp_path: Path) -> None:
    # Written by hand, because protobuf itself refuses to nest so deep: graph(6) of attribute(5) of node(1).
    content = b""
    for _ in range(2000):
        for key in (0x32, 0x2A, 0x0A):
            content = bytes([key]) + varint(len(content)) + content
    path = tmp_path / "graph.onnx"
    path.write_bytes(bytes([0x3A]) + varint(len(content)) + content)
    with pytest.raises(BundleError, match="nests graphs too deeply; do not run this bundle"):
        check_external_data(path, None)


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "graph.onnx"
    path.write_bytes(content)
    try:
        check_external_data(path, None)
    except BundleError as error:
        assert "is not an ONNX graph or is truncated: " in str(error) or "names weights in" in str(error)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_truncated_graph_is_refused(tiny_bundle: Path, tmp_path: Path, kept: float) -> None:
    path = Path(shutil.copy(tiny_bundle / "graphs" / "denoise.fp32.onnx", tmp_path))
    os.truncate(path, int(kept * path.stat().st_size))
    with pytest.raises(BundleError, match="denoise.fp32.onnx: is not an ONNX graph or is truncated: a field of"):
        check_external_data(path, "weights.fp32.bin")


def test_every_exported_graph_is_allowed(tiny_bundle: Path) -> None:
    for path in (tiny_bundle / "graphs").glob("*.onnx"):
        check_external_data(path, f"weights.{path.suffixes[-2][1:]}.bin")


def test_a_bundle_with_altered_weights_locations_is_not_run(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_bundle, tmp_path / "copy")
    path = copy / "graphs" / "fill.fp32.onnx"
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer.append(external("../../secret"))
    save(path, model)
    document = json.loads((copy / "model.json").read_text())
    record = document["graphs"]["fp32"]["fill"]["file"]
    record.update(sha256=sha256_of(path), nbytes=path.stat().st_size)
    (copy / "model.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match=r"names weights in '\.\./\.\./secret', where .* 'weights.fp32.bin'"):
        load(copy)
