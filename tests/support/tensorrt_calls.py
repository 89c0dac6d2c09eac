"""TensorRT calls for the tests of the recorder, in the form of each release."""

from __future__ import annotations

import importlib
import json
from typing import Any

import onnx
import onnx.parser
from tensorrt_recorder import Recorder, make_plan

__all__ = [
    "SIDES", "build", "graph_bytes", "layers_of", "make_engine", "make_logger", "managed_context", "parse", "tensorrt",
]  # fmt: skip

GRAPH = """
<ir_version: 8, opset_import: ["" : 16]>
tiny (float16[2,4] x) => (float[2,4] y)
<float16[4,4] w = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}>
{
    [product] h = MatMul (x, w)
    [curve] s = Erf (h)
    [widen] y = Cast <to = 1> (s)
}
"""
SIDES = {"inputs": [("x", "float16", (2, 4))], "outputs": [("y", "float32", (2, 4))]}


def tensorrt() -> Any:
    """Return the installed module."""
    return importlib.import_module("tensorrt")


def make_logger(said: list[str]) -> Any:
    """Create a logger that appends each line to ``said``."""
    trt = tensorrt()

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            said.append(f"{severity.name}: {msg}")

    return Logger()


def strong_flags() -> int:
    """Return the flags of a strongly typed network, or the closest that the release has."""
    flags = tensorrt().NetworkDefinitionCreationFlag
    name = "STRONGLY_TYPED" if hasattr(flags, "STRONGLY_TYPED") else "EXPLICIT_BATCH"
    return 1 << int(getattr(flags, name))


def parse(logger: Any, data: bytes, flags: int | None = None) -> tuple[Any, Any, Any, bool]:
    """Return builder, network, parser and whether it parsed."""
    trt = tensorrt()
    builder = trt.Builder(logger)
    network = builder.create_network(strong_flags() if flags is None else flags)
    parser = trt.OnnxParser(network, logger)
    return builder, network, parser, parser.parse(data)


def graph_bytes(text: str = GRAPH) -> bytes:
    """Return the ONNX file of a graph in ONNX text."""
    model = onnx.parser.parse_model(text)
    return bytes(onnx.shape_inference.infer_shapes(model).SerializeToString())


def build(config_of: Any = lambda trt, config: None, flags: int | None = None) -> Any:
    """Build GRAPH and return the plan, or None."""
    trt = tensorrt()
    builder, network, parser, parsed = parse(make_logger([]), graph_bytes(), flags)
    assert parsed, parser.get_error(0)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config_of(trt, config)
    return builder.build_serialized_network(network, config)


def make_engine(recorder: Recorder, said: list[str] | None = None, **document: Any) -> Any:
    """Load a plan with the tensors of SIDES."""
    plan = make_plan(recorder, SIDES["inputs"], SIDES["outputs"], **document)
    return tensorrt().Runtime(make_logger([] if said is None else said)).deserialize_cuda_engine(plan)


def managed_context(engine: Any) -> Any:
    """Create a context whose device memory the caller sets."""
    strategies = getattr(tensorrt(), "ExecutionContextAllocationStrategy", None)
    if strategies is None:
        return engine.create_execution_context_without_device_memory()
    return engine.create_execution_context(strategies.USER_MANAGED)


def layers_of(engine: Any) -> dict[str, Any]:
    """Return the inspector's layers by name."""
    trt = tensorrt()
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return {layer["Name"]: layer for layer in json.loads(text)["Layers"]}
