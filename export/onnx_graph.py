"""Tracing of torch modules to ONNX graphs that share one weights file."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
import onnx_ir as ir
import torch
from onnx_ir.passes.common import ShapeInferencePass
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..bundle import FUNCTION_DOMAIN, Graph
from ..errors import ExportError
from .costs import count_bytes, count_flops, find_cache_copies
from .functions import define_functions
from .operators import OPSET, check_operators

if TYPE_CHECKING:
    from ..bundle import BundleWriter, TensorSpec

__all__ = ["Exportable", "export_graphs"]

_S = TypeVar("_S", bound=str)

_ALIGNMENT = 64
# Smaller constants (shapes, axes) stay in the graph: parsers need their values while parsing.
_LEAST_NBYTES = 1024


class Exportable(nn.Module):
    """A module whose ``forward`` takes and returns named tensors in order.

    Attributes:
        inputs: The tensors that it takes.
        outputs: The tensors that it returns.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class WeightsFile:
    """External data file with the initializers of several graphs, deduplicated by content and aligned to 64 bytes.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[tuple[str, bytes], tuple[int, int]] = {}

    def store(self, tensor: ir.TensorProtocol, name: str) -> ir.ExternalTensor:
        """Write a tensor unless the file already has its content, and return a reference to it."""
        data = np.ascontiguousarray(tensor.numpy())
        key = (tensor.dtype.name, hashlib.sha256(data.reshape(-1).view(np.uint8).data).digest())
        if key not in self._places:
            self._places[key] = self._append(data)
        offset, length = self._places[key]
        return ir.ExternalTensor(
            self.path.name,
            offset,
            length,
            tensor.dtype,
            shape=ir.Shape(data.shape),
            name=name,
            base_dir=self.path.parent,
        )

    def _append(self, data: npt.NDArray[Any]) -> tuple[int, int]:
        with self.path.open("ab") as file:
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            offset = file.tell()
            file.write(data.reshape(-1).view(np.uint8).data)  # tofile hides the reason when the disk is full
        return offset, data.nbytes


def export_graphs(
    modules: Mapping[_S, Exportable], writer: BundleWriter, label: str, progress: Callable[[str], None]
) -> dict[_S, Graph]:
    """Trace modules, write them as graphs that share one weights file, and count the costs of each.

    Initializers keep the names of the model's ``state_dict``, by which scales and refits find them.

    Args:
        modules: Modules by stage; set to evaluation mode.
        writer: The new bundle; receives ``graphs/<stage>.<label>.onnx`` and ``graphs/weights.<label>.bin``.
        label: The precision, or another name for this set of graphs.
        progress: Called with the name of each stage before it begins, as "tracing fill.fp32".

    Raises:
        ExportError: A module cannot be traced, or its graph fails a check.
    """
    weights = WeightsFile(writer.path / "graphs" / f"weights.{label}.bin")
    graphs = {}
    for stage, module in modules.items():
        progress(f"tracing {stage}.{label}")
        model = _trace(module)
        progress(f"writing {stage}.{label}")
        graphs[stage] = _write(model, module, writer, f"graphs/{stage}.{label}.onnx", weights)
    if not weights.path.exists():
        return graphs
    progress(f"hashing {weights.path.name}")
    record = writer.record(f"graphs/{weights.path.name}")
    return {stage: dataclasses.replace(graph, weights=record) for stage, graph in graphs.items()}


def _write(model: ir.Model, module: Exportable, writer: BundleWriter, file: str, weights: WeightsFile) -> Graph:
    """Write a traced module and its weights, check the graph, and count its costs."""
    graph = model.graph
    _drop_metadata(model)
    _strip_prefix(graph)
    weights_nbytes = _externalise(graph, weights)
    _check_outputs(graph, module.outputs)
    _define_functions(model)
    whole = _inlined(model)
    check_operators(whole.graph)
    path = writer.path / file
    ir.save(model, path)
    _check(path)
    return Graph(
        file=writer.record(file),
        weights=None,
        inputs=module.inputs,
        outputs=module.outputs,
        flops=count_flops(whole.graph),
        nbytes_moved=count_bytes(module.inputs, module.outputs, weights_nbytes),
        cache_copies=find_cache_copies(whole.graph, module.inputs),
        calls=_count_calls(model),
    )


def _trace(module: Exportable) -> ir.Model:
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module.eval(),
                _example(module),
                dynamo=True,
                opset_version=OPSET,
                input_names=[spec.name for spec in module.inputs],
                output_names=[spec.name for spec in module.outputs],
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise ExportError(f"the graph cannot be traced: {error}") from error
    assert program is not None
    return program.model


def _example(module: Exportable) -> tuple[torch.Tensor, ...]:
    """Return fake inputs for tracing, which take no memory: a cache may be larger than the host's memory."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        return tuple(torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in module.inputs)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's messages about deprecations and packages that are not needed here."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _drop_metadata(model: ir.Model) -> None:
    """Remove the exporter's stack traces: they are large, and contain paths of the exporting machine."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()


def _strip_prefix(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if name.startswith("model."):
            value.name = name.removeprefix("model.")


def _calls(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.domain == FUNCTION_DOMAIN]


def _count_calls(model: ir.Model) -> dict[str, int]:
    return dict(sorted(collections.Counter(node.op_type for node in _calls(model)).items()))


def _define_functions(model: ir.Model) -> None:
    """Name function calls after their functions, and add the functions' bodies."""
    calls = _calls(model)
    for number, node in enumerate(calls):
        node.name = f"{node.op_type}_{number}"
        for place, output in enumerate(node.outputs):
            output.name = f"{node.name}.{place}" if len(node.outputs) > 1 else node.name
    for function in define_functions({node.op_type for node in calls}):
        model.functions[function.identifier()] = function


def _inlined(model: ir.Model) -> ir.Model:
    """Return the model with functions inlined and shapes inferred for every tensor."""
    whole = ir.from_proto(onnx.inliner.inline_local_functions(ir.to_proto(model)))
    ShapeInferencePass()(whole)
    return whole


def _externalise(graph: ir.Graph, weights: WeightsFile) -> int:
    """Move large initializers to the weights file; return the bytes of all initializers."""
    total = 0
    for name, value in graph.initializers.items():
        assert value.const_value is not None
        total += value.const_value.nbytes
        if value.const_value.nbytes >= _LEAST_NBYTES:
            value.const_value = weights.store(value.const_value, name)
    return total


def _check_outputs(graph: ir.Graph, wanted: tuple[TensorSpec, ...]) -> None:
    for value, spec in zip(graph.outputs, wanted, strict=True):
        assert value.dtype is not None and value.shape is not None
        shape = tuple(int(side) for side in value.shape.numpy())
        if (value.name, value.dtype.numpy().name, shape) != (spec.name, spec.dtype, spec.shape):
            raise ExportError(
                f"output '{spec.name}' should be {spec.dtype} {list(spec.shape)}, "
                f"was traced as '{value.name}' {value.dtype.numpy().name} {list(shape)}"
            )


def _check(path: Path) -> None:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{path.name}: the ONNX checker rejects the graph: {error}") from error
