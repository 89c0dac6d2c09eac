"""The recorder's engines and their inspector, in the format of each release."""

from __future__ import annotations

import json
from typing import Any

from .memory import host_memory
from .plans import TRT_TYPES, encode_plan

__all__ = ["BEHAVIORS", "shown_layers"]

_FORMATS = {
    "float32": "FP32",
    "float16": "FP16",
    "int32": "Int32",
    "int8": "Int8",
    "bool": "BOOL",
    "int64": "Int64",
    "float8": "FP8",
}
_SHORT = {
    "float32": "Float",
    "float16": "Half",
    "int32": "Int32",
    "int8": "Int8",
    "bool": "Bool",
    "int64": "Int64",
    "float8": "FP8",
}


class _Engine:
    def _start(self: Any, runtime: Any, document: dict[str, Any]) -> None:
        self._runtime = runtime
        self._logger = runtime._logger
        self._document = document
        self._tensors = {
            side["name"]: (mode, side)
            for mode, key in (("INPUT", "inputs"), ("OUTPUT", "outputs"))
            for side in document[key]
        }
        self._contexts = 0
        self._budget = 0
        self._refitted = False

    def __del__(self: Any) -> None:
        if self._made:
            self._recorder.ended(self)

    def __getitem__(self: Any, index: int) -> str:
        return str(list(self._tensors)[index])

    @property
    def name(self: Any) -> str:
        return str(self._document["name"])

    @property
    def num_io_tensors(self: Any) -> int:
        return len(self._tensors)

    @property
    def num_layers(self: Any) -> int:
        return len(self._document["layers"])

    @property
    def num_optimization_profiles(self: Any) -> int:
        return 1

    @property
    def num_aux_streams(self: Any) -> int:
        return 0

    @property
    def refittable(self: Any) -> bool:
        return bool({"REFIT", "REFIT_IDENTICAL", "REFIT_INDIVIDUAL"} & set(self._document["flags"]))

    @property
    def has_implicit_batch_dimension(self: Any) -> bool:
        return False

    @property
    def profiling_verbosity(self: Any) -> Any:
        return self._recorder.enum("ProfilingVerbosity", self._document["verbosity"])

    @property
    def hardware_compatibility_level(self: Any) -> Any:
        return self._recorder.enum("HardwareCompatibilityLevel", self._document["hardware_compatibility"])

    @property
    def device_memory_size(self: Any) -> int:
        return int(self._document["scratch_nbytes"])

    device_memory_size_v2 = device_memory_size

    @property
    def streamable_weights_size(self: Any) -> int:
        return int(self._document["weights_nbytes"]) if "WEIGHT_STREAMING" in self._document["flags"] else 0

    @property
    def weight_streaming_scratch_memory_size(self: Any) -> int:
        return 0

    @property
    def weight_streaming_budget_v2(self: Any) -> int:
        return int(self._budget)

    @weight_streaming_budget_v2.setter
    def weight_streaming_budget_v2(self: Any, value: int) -> None:
        if self._contexts:
            self._recorder.say(self, "ERROR", "ICudaEngine::setWeightStreamingBudgetV2: there are active contexts")
            return
        self._budget = value

    weight_streaming_budget = weight_streaming_budget_v2

    def get_weight_streaming_automatic_budget(self: Any) -> int:
        return self.streamable_weights_size // 2 if hasattr(type(self), "streamable_weights_size") else 0

    def get_tensor_name(self: Any, index: int) -> str | None:
        names = list(self._tensors)
        if 0 <= index < len(names):
            return str(names[index])
        self._recorder.say(self, "ERROR", f"ICudaEngine::getIOTensorName: Error Code 3: index {index} out of range")
        return None

    def get_tensor_mode(self: Any, name: str) -> Any:
        mode, _ = self._find(name, "getTensorIOMode")
        return self._recorder.enum("TensorIOMode", mode)

    def get_tensor_shape(self: Any, name: str) -> Any:
        _, side = self._find(name, "getTensorShape")
        return self._recorder.create("Dims", shape=side["shape"])

    def get_tensor_dtype(self: Any, name: str) -> Any:
        _, side = self._find(name, "getTensorDataType")
        return self._recorder.enum("DataType", TRT_TYPES[side["dtype"]])

    def get_tensor_location(self: Any, name: str) -> Any:
        self._find(name, "getTensorLocation")
        return self._recorder.enum("TensorLocation", "DEVICE")

    def get_tensor_format(self: Any, name: str, profile_index: int = 0) -> Any:
        self._find(name, "getTensorFormat")
        return self._recorder.enum("TensorFormat", "LINEAR")

    def get_tensor_format_desc(self: Any, name: str, profile_index: int = 0) -> str:
        _, side = self._find(name, "getTensorFormatDesc")
        return f"Row major linear {_FORMATS[side['dtype']]} format (kLINEAR)"

    def get_tensor_profile_shape(self: Any, name: str, profile_index: int) -> list[Any]:
        return [self.get_tensor_shape(name)] * 3

    def is_shape_inference_io(self: Any, name: str) -> bool:
        return False

    def get_aliased_input_tensor(self: Any, name: str) -> str | None:
        return None

    def create_engine_inspector(self: Any) -> Any:
        return self._recorder.create("EngineInspector", engine=self)

    def create_execution_context(self: Any, **arguments: Any) -> Any:
        asked = arguments.get("strategy", arguments.get("runtime_config"))
        if asked is not None and not hasattr(asked, "value"):
            asked = asked.get_execution_context_allocation_strategy()
        managed = asked is not None and asked.name == "USER_MANAGED"
        if "REQUIRE_USER_ALLOCATION" in self._document["flags"] and not managed:
            self._recorder.say(
                self, "ERROR", "ICudaEngine::createExecutionContext: the engine requires user allocation"
            )
            return None
        config = arguments.get("runtime_config")
        return self._recorder.create("IExecutionContext", engine=self, managed=managed, config=config)

    def create_execution_context_without_device_memory(self: Any) -> Any:
        return self._recorder.create("IExecutionContext", engine=self, managed=True)

    def create_runtime_config(self: Any) -> Any:
        return self._recorder.create("IRuntimeConfig", engine=self)

    def serialize(self: Any) -> Any:
        return host_memory(self._recorder, encode_plan(self._document))

    def _find(self: Any, name: str, call: str) -> tuple[str, dict[str, Any]]:
        if name in self._tensors:
            mode, side = self._tensors[name]
            return mode, side
        message = f"ICudaEngine::{call}: Error Code 3: API Usage Error (Given invalid tensor name: {name}.)"
        self._recorder.say(self, "ERROR", message)
        return "NONE", {"shape": [], "dtype": "float32"}


class _Inspector:
    def _start(self: Any, engine: Any) -> None:
        self._engine = engine
        self._logger = engine._logger

    def get_engine_information(self: Any, format: Any) -> str:
        if format.name != "JSON":
            return "\n".join(layer["name"] for layer in self._layers())
        layers = [self._describe(layer) for layer in self._layers()]
        return json.dumps({"Layers": layers, "Bindings": list(self._engine._tensors)})

    def get_layer_information(self: Any, layer_index: int, format: Any) -> str:
        layer = self._layers()[layer_index]
        return json.dumps(self._describe(layer)) if format.name == "JSON" else str(layer["name"])

    def _layers(self: Any) -> list[dict[str, Any]]:
        document = self._engine._document
        return [] if document["verbosity"] == "NONE" else shown_layers(self._recorder, document)

    def _describe(self: Any, layer: dict[str, Any]) -> Any:
        if self._engine._document["verbosity"] != "DETAILED":
            return layer["name"]
        described = {
            "Name": layer["name"],
            "LayerType": layer["kind"],
            "Inputs": [self._side(side) for side in layer["inputs"]],
            "Outputs": [self._side(side) for side in layer["outputs"]],
            "TacticValue": "0x0000000000000000",
        }
        if self._recorder.major >= 10:
            onnx_names = layer.get("nodes", [layer["name"]])
            described |= {"StreamId": 0, "Metadata": "\x1e".join(f"[ONNX Layer: {name}]" for name in onnx_names)}
        return described

    def _side(self: Any, side: dict[str, Any]) -> dict[str, Any]:
        """Return a tensor of a layer; 8.5 spells the types of inputs and outputs in words, later ones in one word."""
        words = f"Row major linear {_FORMATS.get(side['dtype'], side['dtype'])}"
        long = words + " format" if side["dtype"] in ("float16", "int8") else words
        text = long if self._recorder.major < 10 else _SHORT.get(side["dtype"], side["dtype"])
        return {"Name": side["name"], "Location": "Device", "Dimensions": side["shape"], "Format/Datatype": text}


def shown_layers(recorder: Any, document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the layers that an engine reports: its own, or one opaque layer where the recorder fuses."""
    layers: list[dict[str, Any]] = document["layers"]
    if recorder.fuse and layers:
        name = f"{{ForeignNode[{layers[0]['name']}...{layers[-1]['name']}]}}"
        sides = {key: document[key] for key in ("inputs", "outputs")}
        return [{"name": name, "operator": "", "kind": "Myelin", **sides}]
    return layers


BEHAVIORS: dict[str, type] = {
    "EngineInspector": _Inspector,
    "ICudaEngine": _Engine,
}
