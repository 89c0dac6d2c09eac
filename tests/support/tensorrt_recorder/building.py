"""The recorder's builder: checks, waits, and writes a plan that contains the request."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from .memory import host_memory
from .natives import RecorderError
from .networks import Node, ParsedGraph, Tensor, kind_of
from .plans import encode_plan, new_document, type_name
from .waiting import wait_for_build

if TYPE_CHECKING:
    from .recorder import Recorder

__all__ = ["BEHAVIORS"]


class _Builder:
    def _start(self: Any, logger: Any) -> None:
        if not self._recorder.driver:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger
        self._p_max_threads = 1

    def __del__(self: Any) -> None:
        if self._made:
            self._recorder.ended(self)

    @property
    def logger(self: Any) -> Any:
        return self._logger

    @property
    def platform_has_fast_fp16(self: Any) -> bool:
        return True

    platform_has_fast_int8 = platform_has_tf32 = platform_has_fast_fp16

    @property
    def num_DLA_cores(self: Any) -> int:
        return 0

    def create_network(self: Any, flags: int = 0) -> Any:
        members = self._recorder.module.NetworkDefinitionCreationFlag.__members__
        known = sum(1 << int(member) for member in set(members.values()))
        if int(flags) & ~known:
            self._recorder.say(self, "ERROR", f"IBuilder::createNetworkV2: Error Code 3: unknown flags {flags}")
            return None
        asked = {name for name, member in members.items() if int(flags) >> int(member) & 1}
        return self._recorder.create("INetworkDefinition", builder=self, asked=asked)

    def create_builder_config(self: Any) -> Any:
        return self._recorder.create("IBuilderConfig", builder=self)

    def create_optimization_profile(self: Any) -> Any:
        return self._recorder.create("IOptimizationProfile")

    def is_network_supported(self: Any, network: Any, config: Any) -> bool:
        return True

    def reset(self: Any) -> None:
        """Do nothing: there is no state."""

    def build_serialized_network(self: Any, network: Any, config: Any, **_: Any) -> Any:
        recorder = self._recorder
        reason = self._refusal(network, config)
        if reason is None and not wait_for_build(recorder, config):
            reason = "Error Code 10: Internal Error (the build was cancelled by the progress monitor)"
        if reason is not None:
            recorder.say(self, "ERROR", f"IBuilder::buildSerializedNetwork: {reason}")
            return None
        return host_memory(recorder, encode_plan(_document(recorder, network, config)))

    def _refusal(self: Any, network: Any, config: Any) -> str | None:
        """Return what TensorRT would log instead of building, or None."""
        recorder = self._recorder
        if not network._graph or not network._graph.outputs:
            return "Error Code 4: Internal Error (Network must have at least one output)"
        if network._parser() is None:
            raise RecorderError("the parser died before the build, and the network's weights with it")
        limit = config._pools.get("WORKSPACE")
        if limit is not None and limit < recorder.workspace_nbytes:
            return (
                "Error Code 10: Internal Error (Could not find any implementation for node "
                f"{network._graph.nodes[-1].name}. Requires {recorder.workspace_nbytes} bytes of workspace)"
            )
        for layer in network._layers:
            asked = vars(layer).get("_p_precision")
            if asked is not None and not {side.dtype for side in layer._node.outputs} <= {"float32", "float16"}:
                where = f"precision {asked.name} on '{layer._node.name}', which computes integers"
                return f"Error Code 3: API Usage Error ({where})"
        missed: str | None = self._timing(network, config)
        return missed

    def _timing(self: Any, network: Any, config: Any) -> str | None:
        cache = vars(config).get("_cache")
        if cache is None or "DISABLE_TIMING_CACHE" in config._names_of_flags():
            return None
        keys = {
            hashlib.sha256(f"{node.operator}{node.outputs}".encode()).hexdigest()[:16] for node in network._graph.nodes
        }
        missing = keys - cache._keys
        if missing and "ERROR_ON_TIMING_CACHE_MISS" in config._names_of_flags():
            return f"Error Code 10: Internal Error (timing cache miss for {len(missing)} layers)"
        cache._keys |= keys
        return None


def _document(recorder: Recorder, network: Any, config: Any) -> dict[str, Any]:
    graph: ParsedGraph = network._graph
    flags = config._names_of_flags()
    strong = network._typed_strongly()
    shown = [layer for layer in network._layers if layer._node.operator != "Constant"]
    small = _dequantized([layer._node for layer in shown]) if strong or "INT8" in flags else {}
    layers = [_layer(recorder, layer, flags, strong, small) for layer in shown]
    level = vars(config).get("_p_hardware_compatibility_level")
    return {
        **new_document(recorder),
        "name": network._p_name,
        "flags": flags,
        "strongly_typed": strong,
        "verbosity": config._p_profiling_verbosity.name,
        "hardware_compatibility": level.name if level is not None else "NONE",
        "inputs": [_side(tensor, tensor.dtype) for tensor in graph.inputs],
        "outputs": [_side(tensor, tensor.dtype) for tensor in graph.outputs],
        "layers": layers,
        "weights_nbytes": graph.weights_nbytes,
    }


def _dequantized(nodes: list[Node]) -> dict[str, str]:
    """Return the source of each dequantized tensor: a product is fused with its Q/DQ pairs and reads the source."""
    return {node.outputs[0].name: node.inputs[0].dtype for node in nodes if node.operator == "DequantizeLinear"}


def _layer(
    recorder: Recorder, layer: Any, flags: list[str], strong: bool, dequantized: dict[str, str]
) -> dict[str, Any]:
    node: Node = layer._node
    asked = vars(layer).get("_p_precision")
    held = asked is not None and {"OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"} & set(flags)

    def run_as(dtype: str) -> str:
        if dtype not in ("float32", "float16"):
            return dtype
        if not strong:
            dtype = type_name(asked) if held else "float16" if "FP16" in flags else "float32"
        return recorder.layer_type(node.operator, dtype) if recorder.layer_type else dtype

    def read_as(tensor: Tensor) -> str:
        if node.operator in ("Gemm", "MatMul", "Conv") and tensor.name in dequantized:
            return dequantized[tensor.name]
        return tensor.dtype if strong else run_as(tensor.dtype)

    return {
        "name": node.name,
        "operator": node.operator,
        "kind": kind_of(node.operator, recorder.major),
        "inputs": [_side(tensor, read_as(tensor)) for tensor in node.inputs],
        "outputs": [_side(tensor, run_as(tensor.dtype)) for tensor in node.outputs],
    }


def _side(tensor: Tensor, dtype: str) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": dtype, "shape": tensor.shape}


BEHAVIORS: dict[str, type] = {"Builder": _Builder}
