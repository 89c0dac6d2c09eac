"""An ONNX graph of a bundle, opened for surgery: nodes in memory, weights memory-mapped from their file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import BundleError

if TYPE_CHECKING:
    import onnx

    from ...bundle import Bundle, Graph, ParameterNames, TensorSpec

__all__ = ["GraphFile", "WeightsFile", "load_graph", "save_graph"]

Array = npt.NDArray[Any]
_ALIGNMENT = 64
# Smaller constants (shapes, axes) stay in the graph: parsers need their values.
_LEAST_NBYTES = 1024


@dataclass
class GraphFile:
    """A graph and its initializers by name.

    Attributes:
        model: Everything but the weights; its list of initializers is empty until it is saved.
        weights: Initializers, read from their file on access.
        float8: Names of initializers that hold E4M3 values as bytes, because numpy has no such type.
        specs: Roles of its inputs and outputs; their types are those of the graph.
        parameters: Naming of the model's parameters: blocks, linears to keep, and projections around the cache.
    """

    model: onnx.ModelProto
    weights: dict[str, Array]
    specs: tuple[TensorSpec, ...]
    parameters: ParameterNames
    float8: set[str] = field(default_factory=set)

    @property
    def nodes(self) -> Any:
        """The graph's nodes, a repeated field."""
        return self.model.graph.node

    def fresh_name(self, stem: str) -> str:
        """Return ``stem`` after checking that no tensor has that name.

        Raises:
            BundleError: A tensor has that name: the graph was quantized before.
        """
        if stem in self.weights or any(stem in node.output for node in self.nodes):
            raise BundleError(f"already has a tensor '{stem}'; calibrate a graph that was not quantized")
        return stem

    def copy(self) -> GraphFile:
        """Return a copy that shares the weights: arrays are replaced, never written to."""
        return replace(self, model=_copied(self.model), weights=dict(self.weights), float8=set(self.float8))

    def inlined(self) -> GraphFile:
        """Return the graph with its functions inlined, for code that needs single operators."""
        from onnx import inliner

        return replace(self.copy(), model=inliner.inline_local_functions(self.model))

    def raise_opset(self, least: int) -> None:
        """Raise the opset to ``least``. From 18 to 19 no operator in use changes its meaning."""
        imports = (self.model.opset_import, *(function.opset_import for function in self.model.functions))
        for opset in (opset for one in imports for opset in one):
            if opset.domain in ("", "ai.onnx"):
                opset.version = max(opset.version, least)
        self.model.ir_version = max(self.model.ir_version, 9 if least >= 19 else 8)

    def replace_nodes(self, nodes: list[Any]) -> None:
        """Set the graph's nodes, sorted topologically."""
        kept = [_copied(node) for node in nodes]
        del self.model.graph.node[:]
        self.model.graph.node.extend(kept)


class WeightsFile:
    """File of initializers shared by several graphs; each content is stored once, aligned to 64 bytes.

    Attributes:
        path: The file; created with the first tensor.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[tuple[str, bytes], tuple[int, int]] = {}

    def store(self, data: Array) -> tuple[int, int]:
        """Write an array unless its content is stored already; return its offset and length in bytes."""
        flat = np.ascontiguousarray(data).reshape(-1)
        key = (flat.dtype.name, hashlib.sha256(flat.view(np.uint8).data).digest())
        if key not in self._places:
            with self.path.open("ab") as file:
                file.write(b"\0" * (-file.tell() % _ALIGNMENT))
                self._places[key] = (file.tell(), flat.nbytes)
                file.write(flat.view(np.uint8).data)  # tofile does not report a full disk
        return self._places[key]


def load_graph(bundle: Bundle, graph: Graph) -> GraphFile:
    """Open a graph of a bundle.

    Raises:
        BundleError: A file is missing or is not an ONNX graph.
    """
    import onnx  # heavy, and not installed where bundles only run
    from google.protobuf.message import DecodeError

    path = bundle.locate(graph.file)
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise BundleError(f"not an ONNX graph: {error}", path=path) from error
    file = bundle.locate(graph.weights) if graph.weights else None
    weights = {tensor.name: _read(tensor, file) for tensor in model.graph.initializer}
    del model.graph.initializer[:]
    del model.graph.value_info[:]
    return GraphFile(model, weights, (*graph.inputs, *graph.outputs), bundle.manifest.parameters)


def save_graph(graph: GraphFile, path: Path, weights: WeightsFile) -> int:
    """Write a graph and its weights, reproducibly; return the size of all initializers in bytes."""
    total = 0
    model = _copied(graph.model)
    for name, data in _used(graph):
        tensor = _described(name, data, name in graph.float8)
        total += data.nbytes
        if data.nbytes >= _LEAST_NBYTES:
            _point_at(tensor, weights.path.name, *weights.store(data))
        else:
            tensor.raw_data = np.ascontiguousarray(data).tobytes()
        model.graph.initializer.append(tensor)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return total


def _used(graph: GraphFile) -> Iterator[tuple[str, Array]]:
    read = {name for node in graph.nodes for name in node.input}
    yield from ((name, data) for name, data in graph.weights.items() if name in read)


def _read(tensor: Any, file: Path | None) -> Array:
    import onnx

    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        inside: Array = onnx.numpy_helper.to_array(tensor)
        return inside
    place = {entry.key: entry.value for entry in tensor.external_data}
    if file is None or place["location"] != file.name:
        raise BundleError(f"'{tensor.name}' is stored in '{place['location']}', which is not the graph's weights file")
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    offset = int(place.get("offset", 0))
    return np.memmap(file, dtype, "r", offset, tuple(tensor.dims))


def _described(name: str, data: Array, float8: bool) -> Any:
    import onnx

    kind = onnx.TensorProto.FLOAT8E4M3FN if float8 else onnx.helper.np_dtype_to_tensor_dtype(data.dtype)
    return onnx.TensorProto(name=name, data_type=kind, dims=data.shape)


def _point_at(tensor: Any, location: str, offset: int, length: int) -> None:
    import onnx

    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _copied(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy
