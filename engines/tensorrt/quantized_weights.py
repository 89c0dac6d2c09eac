"""Quantized weights of a graph, and how the products of its plan multiply them.

A compiler that moves an operator between a product and its DequantizeLinear no longer finds two 8 bit operands: it
widens the weight in a kernel of its own, in every run, and multiplies in FP16, which takes longer than the FP16 graph.
TensorRT for RTX 1.7.1 does so with a Split of packed q, k and v behind the product, not with one Transpose into three
parts, the form of :mod:`.functions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...bundle import EIGHT_BITS

if TYPE_CHECKING:
    import onnx

    from .layers import Layer

__all__ = ["WeightUses", "find_quantized_weights", "find_weight_uses"]


@dataclass(frozen=True)
class WeightUses:
    """How a plan multiplies the quantized weights of its graph, by their DequantizeLinear's names.

    Attributes:
        narrow: Weights that a product reads in 8 bits, as it does its other operand.
        widened: Weights that no product reads so.
        hidden: Weights whose products are not listed with both operands.
    """

    narrow: tuple[str, ...]
    widened: tuple[str, ...]
    hidden: tuple[str, ...]


def find_quantized_weights(graph: onnx.GraphProto) -> dict[str, str]:
    """Return the node that reads each quantized weight, by the name of the weight's DequantizeLinear."""
    constants = {tensor.name for tensor in graph.initializer}
    made = {
        node.output[0]: node.name
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    return {made[name]: node.name for node in graph.node for name in node.input if name in made}


def find_weight_uses(layers: tuple[Layer, ...], weights: Mapping[str, str]) -> WeightUses:
    """Find the products of quantized weights among the layers of a plan; one product may multiply several weights.

    Args:
        layers: Layers of the plan.
        weights: The node that reads each weight, by the name of the weight's DequantizeLinear.
    """
    products = [layer for layer in layers if layer.is_product]
    is_complete = any(layer.constants for layer in layers) and not any(layer.is_opaque for layer in layers)
    narrow, widened, hidden = [], [], []
    for weight, reader in weights.items():
        own = [layer for layer in products if weight in layer.nodes or reader in layer.nodes]
        if any(_types(layer) <= set(EIGHT_BITS) for layer in own):
            narrow.append(weight)
        elif own and is_complete and all("" not in _types(layer) for layer in own):
            widened.append(weight)
        else:
            hidden.append(weight)
    return WeightUses(tuple(narrow), tuple(widened), tuple(hidden))


def _types(product: Layer) -> set[str]:
    """Return the types of a product's operands, "" for one that is not listed."""
    return {side.dtype for side in product.operands} if product.operands else {""}
