"""The recorder's network definition: layers and tensors of a parsed graph."""

from __future__ import annotations

import weakref
from typing import Any

from .natives import RecorderError
from .networks import Node, ParsedGraph, Tensor, layer_type_of
from .plans import TRT_TYPES, type_name

__all__ = ["BEHAVIORS"]


class _Network:
    def _start(self: Any, builder: Any, asked: set[str]) -> None:
        self._builder = builder
        self._logger = builder._logger
        self._asked = asked
        self._graph: ParsedGraph | None = None
        self._layers: list[Any] = []
        self._tensors: dict[str, Any] = {}
        self._parser: Any = lambda: self
        self._p_name = "Unnamed Network 0"

    def __del__(self: Any) -> None:
        if self._made:
            self._recorder.ended(self)

    def __len__(self: Any) -> int:
        return len(self._layers)

    def __getitem__(self: Any, index: int) -> Any:
        return self._layers[index]

    @property
    def builder(self: Any) -> Any:
        return self._builder

    @property
    def num_layers(self: Any) -> int:
        return len(self._layers)

    @property
    def num_inputs(self: Any) -> int:
        return len(self._graph.inputs) if self._graph else 0

    @property
    def num_outputs(self: Any) -> int:
        return len(self._graph.outputs) if self._graph else 0

    @property
    def has_implicit_batch_dimension(self: Any) -> bool:
        return self._recorder.major < 10 and "EXPLICIT_BATCH" not in self._asked

    def get_flag(self: Any, flag: Any) -> bool:
        return flag.name in self._asked

    def get_layer(self: Any, index: int) -> Any:
        return self._layers[index]

    def get_input(self: Any, index: int) -> Any:
        return self._tensor(self._graph.inputs[index])

    def get_output(self: Any, index: int) -> Any:
        return self._tensor(self._graph.outputs[index])

    def _typed_strongly(self: Any) -> bool:
        return self._recorder.major >= 11 or "STRONGLY_TYPED" in self._asked

    def _tensor(self: Any, tensor: Tensor) -> Any:
        if tensor.name not in self._tensors:
            self._tensors[tensor.name] = self._recorder.create("ITensor", tensor=tensor, network=self)
        return self._tensors[tensor.name]

    def _fill(self: Any, graph: ParsedGraph, parser: Any) -> None:
        self._graph = graph
        self._parser = weakref.ref(parser)
        self._layers = [self._recorder.create("ILayer", node=node, network=weakref.ref(self)) for node in graph.nodes]


class _Tensor:
    def _start(self: Any, tensor: Tensor, network: Any) -> None:
        self._tensor = tensor
        graph = network._graph
        self._sides = (tensor in graph.inputs, tensor in graph.outputs)
        self._p_allowed_formats = 1

    @property
    def name(self: Any) -> str:
        return str(self._tensor.name)

    @name.setter
    def name(self: Any, value: str) -> None:
        self._tensor.name = value

    @property
    def dtype(self: Any) -> Any:
        return self._recorder.enum("DataType", TRT_TYPES[self._tensor.dtype])

    @dtype.setter
    def dtype(self: Any, value: Any) -> None:
        if not any(self._sides):
            raise RecorderError("only the dtype of inputs and outputs can be set")
        self._tensor.dtype = type_name(value)

    @property
    def shape(self: Any) -> Any:
        return self._recorder.create("Dims", shape=self._tensor.shape)

    @property
    def is_network_input(self: Any) -> bool:
        return bool(self._sides[0])

    @property
    def is_network_output(self: Any) -> bool:
        return bool(self._sides[1])

    @property
    def is_shape_tensor(self: Any) -> bool:
        return False

    @property
    def is_execution_tensor(self: Any) -> bool:
        return True


class _Layer:
    def _start(self: Any, node: Node, network: Any) -> None:
        self._node = node
        self._network = network
        self._types: dict[int, Any] = {}

    @property
    def name(self: Any) -> str:
        return str(self._node.name)

    @name.setter
    def name(self: Any, value: str) -> None:
        self._node.name = value

    @property
    def metadata(self: Any) -> str:
        return f"[ONNX Layer: {self._node.name}]"

    @property
    def type(self: Any) -> Any:
        recorder = self._recorder
        return recorder.enum("LayerType", layer_type_of(self._node.operator, (recorder.major, recorder.minor)))

    @property
    def num_inputs(self: Any) -> int:
        return len(self._node.inputs)

    @property
    def num_outputs(self: Any) -> int:
        return len(self._node.outputs)

    def get_input(self: Any, index: int) -> Any:
        return self._network()._tensor(self._node.inputs[index]) if index < len(self._node.inputs) else None

    def get_output(self: Any, index: int) -> Any:
        return self._network()._tensor(self._node.outputs[index]) if index < len(self._node.outputs) else None

    @property
    def precision(self: Any) -> Any:
        own = self._recorder.enum("DataType", TRT_TYPES[self._node.outputs[0].dtype])
        return vars(self).get("_p_precision", own)

    @precision.setter
    def precision(self: Any, value: Any) -> None:
        object.__setattr__(self, "_p_precision", value)

    @property
    def precision_is_set(self: Any) -> bool:
        return "_p_precision" in vars(self)

    def reset_precision(self: Any) -> None:
        vars(self).pop("_p_precision", None)

    def set_output_type(self: Any, index: int, dtype: Any) -> None:
        self._types[index] = dtype

    def get_output_type(self: Any, index: int) -> Any:
        return self._types.get(index, self._recorder.enum("DataType", TRT_TYPES[self._node.outputs[index].dtype]))

    def output_type_is_set(self: Any, index: int) -> bool:
        return index in self._types

    def reset_output_type(self: Any, index: int) -> None:
        self._types.pop(index, None)


BEHAVIORS: dict[str, type] = {
    "ILayer": _Layer,
    "INetworkDefinition": _Network,
    "ITensor": _Tensor,
}
