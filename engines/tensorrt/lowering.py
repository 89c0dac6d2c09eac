"""Lowering of graphs for TensorRT's parser: functions in TensorRT's forms, and for old releases fewer operators.

A lowered graph is written beside its source graph, so that both share one weights file, together with a JSON file of
the build's records, so that the build does not need onnx. The parser of TensorRT 8.5 supports opset 16 without
LayerNormalization; its networks are weakly typed, so the type of every tensor is recorded too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...bundle import (
    OLDEST_PARSER_OPSET,
    find_unsupported,
    sha256_of,
    stage_graphs,
    version_numbers,
    write_file,
)
from ...errors import EngineError
from ...hosts import needs_extra
from ..forms import check_forms
from .functions import choose_forms, find_shapes, write_out
from .quantized_weights import find_quantized_weights
from .residuals import flatten_residuals

if TYPE_CHECKING:
    import onnx

    from ...bundle import (
        Bundle,
        Graph,
        Precision,
    )
    from ..forms import Forms

__all__ = ["LOWERING", "RTX", "GraphSource", "find_source", "lower_graphs", "needs_lowering"]

# Part of a lowered graph's name and of an engine's key: raise it when the lowering changes.
LOWERING = 5
# Used in place of a version where the parser is that of TensorRT for RTX.
RTX = "rtx"
_OPSET, _IR = OLDEST_PARSER_OPSET, 8
# Opset of the exporter; quantized graphs of FP16 have a newer one.
_NEWEST_OPSET = 18
_FIRST_UNLOWERED = (8, 6)
_PRODUCTS = ("Gemm", "MatMul")


@dataclass(frozen=True)
class GraphSource:
    """Source of a plan.

    Attributes:
        path: The ONNX file that the parser reads.
        types: Type of every tensor by name: "float32", "float16", "int32", "int64" or "bool"; None for a strongly typed
            network, which does not need them.
        products: Type of every matrix product, by the node's name; None if unknown.
        forms: Number of calls of each function by form; empty for a graph that calls none.
        quantized_weights: The node that reads each quantized weight, by the name of the weight's DequantizeLinear.
    """

    path: Path
    types: Mapping[str, str] | None = None
    products: Mapping[str, str] | None = None
    forms: Forms = field(default_factory=dict)
    quantized_weights: Mapping[str, str] = field(default_factory=dict)


def needs_lowering(version: str) -> bool:
    """Whether the parser of a TensorRT version, such as "8.5.3", lacks the exported graphs' operators or opset."""
    return version != RTX and version_numbers(version) < _FIRST_UNLOWERED


def lower_graphs(
    bundle: Bundle,
    precision: Precision,
    *,
    release: str = "8.5",
    progress: Callable[[str], None] = lambda stage: None,
) -> dict[str, Path]:
    """Write the lowered graph of every stage beside the exported one, unless it exists; needs onnx, no weights.

    Args:
        bundle: Bundle; its ``graphs`` folder is written to.
        precision: Precision of the graphs.
        release: Version of the TensorRT that will parse them; :data:`RTX` for TensorRT for RTX.
        progress: Called with the name of each stage before it is lowered.

    Returns:
        The graph to parse by stage; the exported one where nothing needs lowering.

    Raises:
        BundleError: The bundle does not contain that precision, or a graph is missing.
        BuildError: A graph calls a function that has no form here, or not as often as model.json records.
        EngineError: An operator has no form that this release supports, or onnx is not installed.
    """
    graphs = stage_graphs(bundle, precision)
    extra = "tensorrt-rtx" if release == RTX else "tensorrt"
    paths = {}
    for stage, graph in graphs.items():
        path = paths[stage] = _source_path(bundle, graph, release)
        if path != bundle.locate(graph.file) and not (path.is_file() and _record_path(path).is_file()):
            progress(stage)
            _lower(_read(bundle, graph, extra), path, stage, graph, release)
    return paths


def find_source(bundle: Bundle, graph: Graph, version: str) -> GraphSource:
    """Return the source that a TensorRT version parses for a graph; needs no onnx.

    Raises:
        BundleError: The graph is missing.
        EngineError: It was not lowered, or the lowered graph is damaged.
    """
    path = _source_path(bundle, graph, version)
    if path == bundle.locate(graph.file):
        return GraphSource(path)
    try:
        document = json.loads(_record_path(path).read_text(encoding="utf-8"))
        types, products, wanted = document["types"], document["products"], document["sha256"]
        forms: Forms = document["forms"]
        weights: Mapping[str, str] = document["quantized_weights"]
    except FileNotFoundError:
        raise EngineError(
            f"{path}: TensorRT {version} needs this lowered graph, which is missing; create it where onnx is installed "
            f"with vdmrt.engines.lower_graphs, or install onnx here"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{_record_path(path)}: is damaged: {error}; delete it and lower the graph again") from error
    if not path.is_file() or sha256_of(path) != wanted:
        raise EngineError(f"{path}: is missing or was altered; delete it and lower the graph again")
    return GraphSource(path, types, products, forms, weights)


def _source_path(bundle: Bundle, graph: Graph, version: str) -> Path:
    """Return the path of the file to parse; a lowered graph's name contains its source graph and its lowering."""
    path = bundle.locate(graph.file)
    if not graph.calls and graph.quantized is None and not needs_lowering(version):
        return path
    kind = f"opset{_OPSET}" if needs_lowering(version) else RTX if version == RTX else "tensorrt"
    return path.with_name(f"{path.stem}.{kind}-{LOWERING}-{graph.file.sha256[:12]}.onnx")


def _record_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _read(bundle: Bundle, graph: Graph, extra: str) -> onnx.ModelProto:
    path = bundle.locate(graph.file)
    with needs_extra(extra, "writing a graph for TensorRT", fail=EngineError):
        import onnx
    if sha256_of(path) != graph.file.sha256:
        raise EngineError(f"{path}: differs from the graph that model.json records; export the bundle again")
    return onnx.load(str(path), load_external_data=False)


def _lower(model: onnx.ModelProto, path: Path, stage: str, graph: Graph, release: str) -> None:
    """Write a model for a release, then its record, whose presence shows that both are complete."""
    # The kernels of other forms are known of TensorRT for RTX only, whose compiler lists them without a GPU.
    if release == RTX:
        flatten_residuals(model, find_shapes(model))
    model, forms = write_out(model, choose_forms(model, last_only=release != RTX))
    check_forms(stage, graph, forms)
    record: dict[str, Any] = {"source_sha256": graph.file.sha256, "forms": forms, "types": None, "products": None}
    if needs_lowering(release):
        model, types = _restrict(model, path)
        products = {node.name: types[node.output[0]] for node in model.graph.node if node.op_type in _PRODUCTS}
        record |= {"types": types, "products": products}
    record["quantized_weights"] = find_quantized_weights(model.graph)
    _check_model(model)
    write_file(path, model.SerializeToString(deterministic=True), fail=EngineError)
    write_file(_record_path(path), json.dumps({**record, "sha256": sha256_of(path)}), fail=EngineError)


def _check_model(model: onnx.ModelProto) -> None:
    """Check a model by ONNX's rules, with its weights as inputs: the checker opens no file then.

    It would refuse weights with several hard links, such as those of a bundle that was copied by links.
    """
    import onnx

    _check_locations(model)
    checked = onnx.ModelProto()
    checked.CopyFrom(model)
    for tensor in model.graph.initializer:
        checked.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    del checked.graph.initializer[:]
    onnx.checker.check_model(checked)


def _restrict(model: onnx.ModelProto, path: Path) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return a model in operators of the oldest parser, and the type of every tensor."""
    import onnx

    opset = max(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if opset > _NEWEST_OPSET:
        raise EngineError(
            f"{path.parent}: the graph uses opset {opset}, which FP8 and quantized FP16 need, and cannot be lowered to "
            f"opset {_OPSET}, the newest of TensorRT 8.5; use TensorRT 10 or newer"
        )
    types = _types_of(_infer(model))
    nodes = [lowered for node in model.graph.node for lowered in _lower_node(node, model.graph, types)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", _OPSET))
    model.ir_version = _IR
    model = _infer(model)
    types = _types_of(model)
    for node in model.graph.node:
        _check_node(node, types)
    return model, types


def _infer(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the type and shape of every tensor."""
    import onnx

    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


def _types_of(model: onnx.ModelProto) -> dict[str, str]:
    import onnx

    numbers = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        numbers[value.name] = value.type.tensor_type.elem_type
    return {name: str(onnx.helper.tensor_dtype_to_np_dtype(number)) for name, number in numbers.items()}


def _lower_node(node: onnx.NodeProto, graph: onnx.GraphProto, types: dict[str, str]) -> Iterator[onnx.NodeProto]:
    if node.op_type == "LayerNormalization":
        yield from _expand_layer_normalization(node, graph, types)
        return
    yield node


def _expand_layer_normalization(
    node: onnx.NodeProto, graph: onnx.GraphProto, types: dict[str, str]
) -> Iterator[onnx.NodeProto]:
    """Expand a LayerNormalization into basic operators, in float32 up to the scale, as its stash_type requires.

    The operator's function body in ONNX is not used: it computes the variance as E[x²] − E[x]², which cancels where the
    mean is large, and determines the shape at run time.
    """
    import onnx

    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if attributes.get("stash_type", 1) != onnx.TensorProto.FLOAT or any(node.output[1:]):
        raise EngineError(f"node '{node.name}' (LayerNormalization) is not a plain float32 norm; TensorRT 8.5")
    axis = attributes.get("axis", -1)
    if axis >= 0:
        raise EngineError(f"node '{node.name}' (LayerNormalization) counts its axis from the front; TensorRT 8.5")
    half = types[node.input[0]] == "float16"
    stem, prefix = node.output[0], node.name or node.output[0]
    epsilon = f"{stem}/epsilon"
    graph.initializer.append(
        onnx.helper.make_tensor(epsilon, onnx.TensorProto.FLOAT, [], [attributes.get("epsilon", 1e-5)])
    )

    def make(operator: str, inputs: list[str], part: str, **more: Any) -> onnx.NodeProto:
        output = stem if part == "" else f"{stem}/{part}"
        return onnx.helper.make_node(operator, inputs, [output], name=f"{prefix}/{part or 'output'}", **more)

    def of(part: str) -> str:
        return f"{stem}/{part}"

    x = node.input[0]
    axes = list(range(axis, 0))
    if half:
        yield make("Cast", [x], "float", to=onnx.TensorProto.FLOAT)
        x = of("float")
    yield make("ReduceMean", [x], "mean", axes=axes, keepdims=1)
    yield make("Sub", [x, of("mean")], "deviation")
    yield make("Mul", [of("deviation"), of("deviation")], "square")
    yield make("ReduceMean", [of("square")], "variance", axes=axes, keepdims=1)
    yield make("Add", [of("variance"), epsilon], "positive")
    yield make("Sqrt", [of("positive")], "spread")
    yield make("Div", [of("deviation"), of("spread")], "unit")
    unit = of("unit")
    if half:
        yield make("Cast", [unit], "half", to=onnx.TensorProto.FLOAT16)
        unit = of("half")
    shift = node.input[2] if len(node.input) > 2 else ""
    yield make("Mul", [unit, node.input[1]], "scaled" if shift else "")
    if shift:
        yield make("Add", [of("scaled"), shift], "")


def _check_node(node: onnx.NodeProto, types: Mapping[str, str]) -> None:
    """Check that the parser supports a node, and that it has the same meaning in the lower opset."""
    import onnx

    found = types.get(node.input[0]) if node.input else None
    reason = find_unsupported(node.op_type, node.domain, found)
    if reason is not None:
        raise EngineError(f"node '{node.name}': {reason}; use TensorRT 10 or newer")
    if node.op_type == "ReduceMean":
        return  # written here, for this opset
    before, after = (onnx.defs.get_schema(node.op_type, version, "").since_version for version in (_OPSET, 18))
    # Split of opset 18 adds to that of opset 13 an attribute that exported graphs do not use.
    unchanged = node.op_type == "Split" and all(attribute.name != "num_outputs" for attribute in node.attribute)
    if before != after and not unchanged:
        raise EngineError(f"node '{node.name}' ({node.op_type}) of opset 18 has no form in opset {_OPSET}")


def _check_locations(model: onnx.ModelProto) -> None:
    """Check that every weights file is in the graph's folder."""
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value != os.path.basename(entry.value):
                raise EngineError(f"the graph reads weights from '{entry.value}', which is not a plain file name")
