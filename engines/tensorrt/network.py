"""TensorRT networks parsed from ONNX files, constrained to the graph's types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ...errors import BackendError, EngineError

if TYPE_CHECKING:
    from ...bundle import Graph, TensorSpec
    from ...hosts.tensorrt.library import TensorRtLibrary
    from .lowering import GraphSource

__all__ = ["CONSTRAINTS", "parse_network"]

# Part of a weakly typed engine's key: raise it when the type constraints change.
CONSTRAINTS = 2

# Layers that write no floating-point numbers, or take their types from their scales.
_UNTYPED = ("SHAPE", "QUANTIZE", "DEQUANTIZE")
# Casts: the parser has set their output types.
_CASTS = ("IDENTITY", "CAST")
_TRT_NAMES = {"float32": "FLOAT", "float16": "HALF", "int32": "INT32", "int8": "INT8", "float8_e4m3fn": "FP8"}


def parse_network(tensorrt: TensorRtLibrary, builder: Any, graph: Graph, source: GraphSource) -> tuple[Any, Any]:
    """Return the network of a graph, and its parser, which owns the weights and must outlive the build.

    From TensorRT 10 the network is strongly typed: every type is the graph's. Before, every layer that computes in
    floating point is constrained to the type of its output in the graph.

    Raises:
        BackendError: The parser refuses the graph; the message names the node.
        EngineError: Inputs or outputs differ from the graph's.
    """
    trt = tensorrt.module
    flag = trt.NetworkDefinitionCreationFlag
    kind = flag.STRONGLY_TYPED if tensorrt.strongly_typed else flag.EXPLICIT_BATCH
    network = builder.create_network(1 << int(kind))
    if network is None:
        raise BackendError(f"{tensorrt.name} creates no network: {tensorrt.log.take_errors()}")
    parser = trt.OnnxParser(network, tensorrt.log.logger)
    if not parser.parse_from_file(str(source.path)):
        raise BackendError(_refusal(tensorrt, parser, source))
    tensorrt.log.take_errors()
    _set_sides(tensorrt, network, graph)
    if not tensorrt.strongly_typed:
        if source.types is None:
            raise EngineError(f"{source.path}: {tensorrt.name} is weakly typed; lower the graph first")
        constrain_types(tensorrt, network, source.types)
    return network, parser


def constrain_types(tensorrt: TensorRtLibrary, network: Any, types: Mapping[str, str]) -> int:
    """Constrain every layer of a weakly typed network to the graph's types; return the number of constrained layers.

    Constants too: a builder that may use FP16 stores unconstrained constants in it, and fuses them with the shuffle
    that follows (NVIDIA/TensorRT issues 3224 and 3257). Rounding the constants with largest value 1 on a CPU, among
    them the timestep's frequencies, raises the error of a recorded rollout from 1e-3 to 3e-2.

    The parser creates several layers for some nodes, with inner tensors that the graph does not name: they get the type
    of their inputs. Layers that read a dequantized tensor are not constrained: in float32 they could not run in INT8.
    """
    trt = tensorrt.module
    members = {"float32": trt.DataType.FLOAT, "float16": trt.DataType.HALF}
    names = {int(member): name for name, member in members.items()}
    known = dict(types)
    held = 0
    dequantized: set[str] = set()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        outputs = [layer.get_output(position) for position in range(layer.num_outputs)]
        wanted = [_type_of(tensor, layer, known, names) for tensor in outputs]
        for tensor, dtype in zip(outputs, wanted, strict=True):
            known.setdefault(tensor.name, dtype or "other")
        if _is(layer, trt, ("DEQUANTIZE",)):
            dequantized |= {tensor.name for tensor in outputs}
        if dequantized & _read_by(layer):
            continue
        if _is(layer, trt, _UNTYPED) or any(dtype not in members for dtype in wanted):
            continue
        if not _is(layer, trt, _CASTS):
            layer.precision = members[str(wanted[0])]
            held += 1
        for position, dtype in enumerate(wanted):
            layer.set_output_type(position, members[str(dtype)])
    return held


def _type_of(tensor: Any, layer: Any, known: Mapping[str, str], names: Mapping[int, str]) -> str | None:
    """Return the graph's type of a tensor; for a tensor of the parser, the type of its layer's input."""
    if tensor.name in known:
        return known[tensor.name]
    own = names.get(int(tensor.dtype))
    if own is None:
        return None
    for position in range(layer.num_inputs):
        read = layer.get_input(position)
        found = known.get(read.name) if read is not None else None
        if found is None and read is not None:
            found = names.get(int(read.dtype))
        if found in ("float32", "float16"):
            return found
    return own


def _read_by(layer: Any) -> set[str]:
    read = (layer.get_input(position) for position in range(layer.num_inputs))
    return {tensor.name for tensor in read if tensor is not None}


def _is(layer: Any, trt: Any, kinds: tuple[str, ...]) -> bool:
    return any(layer.type == getattr(trt.LayerType, kind) for kind in kinds if hasattr(trt.LayerType, kind))


def _set_sides(tensorrt: TensorRtLibrary, network: Any, graph: Graph) -> None:
    """Check inputs and outputs against the manifest, and set them to linear format."""
    trt = tensorrt.module
    linear = 1 << int(trt.TensorFormat.LINEAR)
    inputs = {tensor.name: tensor for tensor in map(network.get_input, range(network.num_inputs))}
    outputs = {tensor.name: tensor for tensor in map(network.get_output, range(network.num_outputs))}
    for found, specs in ((inputs, graph.inputs), (outputs, graph.outputs)):
        if set(found) != {spec.name for spec in specs}:
            raise EngineError(f"model.json has {[spec.name for spec in specs]}, the graph has {sorted(found)}")
        for tensor, spec in _pairs(found, specs):
            wanted = getattr(trt.DataType, _TRT_NAMES[spec.dtype])
            if tensor.dtype != wanted:
                if tensorrt.strongly_typed:
                    raise EngineError(f"'{spec.name}' is {spec.dtype} in model.json and {tensor.dtype} in the graph")
                tensor.dtype = wanted
            shape = tuple(tensor.shape)
            if shape != tuple(spec.shape):
                raise EngineError(f"'{spec.name}' is {list(spec.shape)} in model.json and {list(shape)} in the graph")
            tensor.allowed_formats = linear


def _pairs(found: Mapping[str, Any], specs: tuple[TensorSpec, ...]) -> Iterator[tuple[Any, TensorSpec]]:
    for spec in specs:
        yield found[spec.name], spec


def _refusal(tensorrt: TensorRtLibrary, parser: Any, source: GraphSource) -> str:
    """Return the parser's errors in one sentence, with their nodes."""
    reasons = [_describe(parser.get_error(index), source) for index in range(parser.num_errors)]
    logged = tensorrt.log.take_errors()
    return f"{source.path}: the parser of {tensorrt.name} refuses it: " + ("; ".join(reasons) or logged)


def _describe(error: Any, source: GraphSource) -> str:
    index = error.node()
    text = str(error.desc())
    if hasattr(error, "node_name") and error.node_name():
        return f"node '{error.node_name()}' ({error.node_operator()}): {text}"
    name = _node_name(source, index) if index >= 0 else None
    if name is not None:
        return f"node {name}: {text}"
    return f"node {index}: {text}" if index >= 0 else text


def _node_name(source: GraphSource, index: int) -> str | None:
    """Return the name of a node if onnx is installed: parsers before 9 report only its index."""
    try:
        import onnx
    except ModuleNotFoundError:
        return None
    nodes = onnx.load(str(source.path), load_external_data=False).graph.node
    return f"'{nodes[index].name}' ({nodes[index].op_type})" if index < len(nodes) else None
