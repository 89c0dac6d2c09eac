"""Costs of one run of a graph, counted on its nodes: operations, bytes, and copies of the cache."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import onnx_ir as ir

from ..bundle import CACHE_ROLES, CacheCopy, Role

if TYPE_CHECKING:
    from ..bundle import TensorSpec

__all__ = ["count_bytes", "count_flops", "find_cache_copies"]

# A run reads only one row of these inputs.
_TABLES = (Role.TIMESTEPS, Role.COEFFICIENTS, Role.NOISE)
# Views: ONNX Runtime and TensorRT copy nothing for them.
_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze"})
_PRODUCTS = frozenset({"MatMul", "Gemm"})


def count_flops(nodes: Iterable[ir.Node]) -> int:
    """Count two operations for each multiply-add of matrix products and convolutions; the rest is a few percent."""
    return sum(_flops(node) for node in nodes)


def _flops(node: ir.Node) -> int:
    if node.op_type == "Conv":
        # A weight is [outputs, inputs per group, *kernel].
        return 2 * math.prod(_shape(node.inputs[1])[1:]) * math.prod(_shape(node.outputs[0]))
    if node.op_type not in _PRODUCTS:
        return 0
    transposed = node.op_type == "Gemm" and node.attributes.get_int("transA", 0) == 1
    inner = _shape(node.inputs[0])[0 if transposed else -1]
    return 2 * inner * math.prod(_shape(node.outputs[0]))


def count_bytes(inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec], weights_nbytes: int) -> int:
    """Count the bytes that a run must read and write: inputs, outputs and weights, once each."""
    read = sum(spec.nbytes // (spec.shape[1] if spec.role in _TABLES else 1) for spec in inputs)
    return read + sum(spec.nbytes for spec in outputs) + weights_nbytes


def find_cache_copies(graph: ir.Graph, inputs: Iterable[TensorSpec]) -> tuple[CacheCopy, ...]:
    """Return the nodes that copy the KV cache.

    Matrix products only read it, including transposed: a Transpose that feeds only products is an operand's layout,
    which ONNX Runtime fuses (a test checks it). Views copy nothing.
    """
    copies = []
    for value, spec in zip(graph.inputs, inputs, strict=True):
        if spec.role in CACHE_ROLES:
            copies += [_copy(node, value) for node in _readers(value) if not _is_product(node)]
    return tuple(copies)


def _readers(value: ir.Value) -> Iterable[ir.Node]:
    for node, _ in value.uses():
        if node.op_type in _VIEWS:
            yield from _readers(node.outputs[0])
        else:
            yield node


def _is_product(node: ir.Node) -> bool:
    if node.op_type == "Transpose":
        users = [user for user, _ in node.outputs[0].uses()]
        return bool(users) and all(user.op_type in _PRODUCTS for user in users)
    return node.op_type in _PRODUCTS


def _copy(node: ir.Node, value: ir.Value) -> CacheCopy:
    nbytes = sum(math.prod(_shape(out)) * out.dtype.itemsize for out in node.outputs if out.dtype is not None)
    return CacheCopy(node.name or "", node.op_type, value.name or "", int(nbytes))


def _shape(value: ir.Value | None) -> tuple[int, ...]:
    assert value is not None and value.shape is not None, "exported graphs are static"
    return tuple(int(side) for side in value.shape.numpy())
