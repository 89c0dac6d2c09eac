"""Graphs for a TensorRT whose parser knows less than the exporter writes.

The parser of TensorRT 8.5 takes opset 16 and no LayerNormalization. A lowered graph says the same with what it takes.
It lies beside the graph that it was made from, so that both share one weights file, and beside it lies a JSON file with
the type of every tensor: a weakly typed network is held to these types, and who builds the plan needs no onnx.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...bundle import (
    OLDEST_PARSER_OPSET,
    Bundle,
    Graph,
    Precision,
    find_unsupported,
    sha256_of,
    stage_graphs,
    version_numbers,
    write_file,
)
from ...errors import EngineError
from ...hosts import needs_extra

if TYPE_CHECKING:
    import onnx

__all__ = ["GraphSource", "find_source", "lower_graphs", "needs_lowering"]

# Part of a lowered graph's name: raise it when the lowering changes.
_LOWERING = 1
_OPSET, _IR = OLDEST_PARSER_OPSET, 8
# What the exporter writes; quantised graphs of FP16 are newer.
_NEWEST_OPSET = 18
_FIRST_UNLOWERED = (8, 6)


@dataclass(frozen=True)
class GraphSource:
    """What a plan is built from.

    Attributes:
        path: The ONNX file that the parser reads.
        types: Type of every tensor by name: "float32", "float16", "int32", "int64" or "bool"; None where the network is
            strongly typed and nobody needs to know.
        products: Type of every node that multiplies matrices, by the node's name; None where it is not known.
    """

    path: Path
    types: Mapping[str, str] | None = None
    products: Mapping[str, str] | None = None


def needs_lowering(version: str) -> bool:
    """Whether the parser of a TensorRT, as "8.5.3", cannot take the exported graphs."""
    return version_numbers(version) < _FIRST_UNLOWERED


def lower_graphs(
    bundle: Bundle,
    precision: Precision,
    *,
    release: str = "8.5",
    progress: Callable[[str], None] = lambda stage: None,
) -> dict[str, Path]:
    """Write the lowered graph of every stage beside the exported one, unless it is there. Needs onnx, and no weights.

    Args:
        bundle: Its ``graphs`` folder is written to.
        precision: Of the graphs.
        release: The TensorRT that is to parse them.
        progress: Called with the name of each stage before it is lowered.

    Returns:
        The graph to parse by stage; the exported one where nothing needs lowering.

    Raises:
        BundleError: The bundle does not have that precision, or a graph is missing.
        EngineError: An operator has no form that this release takes, or onnx is not installed.
    """
    graphs = stage_graphs(bundle, precision)
    if not needs_lowering(release):
        return {stage: bundle.locate(graph.file) for stage, graph in graphs.items()}
    paths = {}
    for stage, graph in graphs.items():
        paths[stage] = _lowered_path(bundle, graph)
        if not (paths[stage].is_file() and _types_path(paths[stage]).is_file()):
            progress(stage)
            _lower(_read(bundle, graph), paths[stage], graph.file.sha256)
    return paths


def find_source(bundle: Bundle, graph: Graph, version: str) -> GraphSource:
    """Return what a TensorRT is to parse for a graph; needs no onnx.

    Raises:
        BundleError: The graph is missing.
        EngineError: It was not lowered, or what was lowered is damaged.
    """
    if not needs_lowering(version):
        return GraphSource(bundle.locate(graph.file))
    path = _lowered_path(bundle, graph)
    try:
        document = json.loads(_types_path(path).read_text(encoding="utf-8"))
        types, products, wanted = document["types"], document["products"], document["sha256"]
    except FileNotFoundError:
        raise EngineError(
            f"{path}: TensorRT {version} needs this lowered graph, which is missing; make it where onnx is installed, "
            f"with vdmrt.engines.lower_graphs, or install onnx here"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{_types_path(path)}: is damaged: {error}; delete it and lower the graph again") from error
    if not path.is_file() or sha256_of(path) != wanted:
        raise EngineError(f"{path}: is missing or was altered; delete it and lower the graph again")
    return GraphSource(path, types, products)


def _lowered_path(bundle: Bundle, graph: Graph) -> Path:
    """Return the place of a lowered graph: its name says of which graph and which lowering."""
    path = bundle.locate(graph.file)
    return path.with_name(f"{path.stem}.opset{_OPSET}-{_LOWERING}-{graph.file.sha256[:12]}.onnx")


def _types_path(path: Path) -> Path:
    return path.with_suffix(".types.json")


def _read(bundle: Bundle, graph: Graph) -> onnx.ModelProto:
    path = bundle.locate(graph.file)
    with needs_extra("calibrate", "lowering a graph for TensorRT 8.5", fail=EngineError):
        import onnx
    if sha256_of(path) != graph.file.sha256:
        raise EngineError(f"{path}: is not the graph that model.json records; export the bundle again")
    return onnx.load(str(path), load_external_data=False)


def _lower(model: onnx.ModelProto, path: Path, source_sha256: str) -> None:
    """Rewrite a model in place, check it, and write it with its types; the types last, as a sign that both stand."""
    import onnx

    opset = max(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if opset > _NEWEST_OPSET:
        raise EngineError(
            f"{path.parent}: the graph is of opset {opset}, as FP8 and quantised FP16 need, and has no form in "
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
    write_file(path, model.SerializeToString(), fail=EngineError)
    if all((path.parent / location).is_file() for location in _check_locations(model)):  # not where weights come later
        onnx.checker.check_model(str(path))
    document = {
        "source_sha256": source_sha256,
        "sha256": sha256_of(path),
        "types": types,
        "products": {node.name: types[node.output[0]] for node in nodes if node.op_type in ("Gemm", "MatMul")},
    }
    write_file(_types_path(path), json.dumps(document), fail=EngineError)


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
    """Say a LayerNormalization in parts, in float32 up to the scale, as its stash_type has it.

    Not by the operator's own function body: that computes the variance as E[x²] − E[x]², which cancels where the mean
    is large, and finds the shape at run time.
    """
    import onnx

    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if attributes.get("stash_type", 1) != onnx.TensorProto.FLOAT or any(node.output[1:]):
        raise EngineError(f"node '{node.name}' (LayerNormalization) computes more than a float32 norm; TensorRT 8.5")
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
    """Refuse what the parser lacks, and what did not mean the same in the opset that the graph is relabelled to."""
    import onnx

    found = types.get(node.input[0]) if node.input else None
    reason = find_unsupported(node.op_type, node.domain, found)
    if reason is not None:
        raise EngineError(f"node '{node.name}': {reason}; use TensorRT 10 or newer")
    if node.op_type == "ReduceMean":
        return  # ours, written for this opset
    before, after = (onnx.defs.get_schema(node.op_type, version, "").since_version for version in (_OPSET, 18))
    # Split of opset 18 is the one of opset 13 and an attribute, which exported graphs do not use.
    unchanged = node.op_type == "Split" and all(attribute.name != "num_outputs" for attribute in node.attribute)
    if before != after and not unchanged:
        raise EngineError(f"node '{node.name}' ({node.op_type}) of opset 18 has no form in opset {_OPSET}")


def _check_locations(model: onnx.ModelProto) -> set[str]:
    """Return the files that hold weights; each must lie beside the graph."""
    locations = {
        entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
    for location in locations:
        if location != os.path.basename(location):
            raise EngineError(f"the graph wants weights from '{location}', which is no plain file name")
    return locations
