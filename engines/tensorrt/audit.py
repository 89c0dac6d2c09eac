"""Audit of a built plan: precisions and copies of its layers."""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from ...bundle import FP32, LayerCopy, PlanAudit
from ...errors import EngineError
from .quantized_weights import find_weight_uses

if TYPE_CHECKING:
    from .layers import Layer

__all__ = ["audit_layers", "check_precision", "check_quantized"]

_SINGLE = FP32.linears


def audit_layers(
    layers: tuple[Layer, ...], cache: Collection[str], weights: Mapping[str, str] | None = None
) -> PlanAudit:
    """Count the precisions of layers and the products in 8 bits, and list the layers that only copy the KV cache.

    Args:
        layers: Layers of the plan.
        cache: Names of the cache's input tensors.
        weights: The node that reads each quantized weight, by the name of the weight's DequantizeLinear.
    """
    uses = find_weight_uses(layers, weights or {})
    precisions = collections.Counter(_first_dtype(layer) for layer in layers)
    products = collections.Counter(layer.dtype for layer in layers if layer.is_product)
    unknown = products.pop("", 0) + sum(layer.is_opaque for layer in layers)
    return PlanAudit(
        layers=len(layers),
        precisions=dict(precisions),
        products=dict(products),
        unknown_products=unknown,
        cache_copies=tuple(_copies(layers, cache)),
        quantized_weights=len(weights or {}),
        quantized_products=len(uses.narrow),
        widened_weights=len(uses.widened),
    )


def check_precision(stage: str, layers: tuple[Layer, ...], products: Mapping[str, str] | None, wanted: bool) -> None:
    """Check that no product runs in float32 where the graph has it in half.

    Args:
        stage: Stage of the plan, for the message.
        layers: Layers of the plan.
        products: Type of every product of the graph by its node's name; None if unknown.
        wanted: Whether the graph has products in half.

    Raises:
        EngineError: Such products exist; the message gives their number and one name.
    """
    if not wanted:
        return
    found = [layer for layer in layers if layer.is_product]
    half = {name for name, dtype in (products or {}).items() if dtype == "float16"}
    wrong = [layer.name for layer in found if layer.dtype == _SINGLE and half & layer.nodes]
    # Where the inspector hides fused layers, the visible products may be those that the graph itself has in float32.
    in_sight = bool(found) and not any(layer.is_opaque for layer in layers)
    all_wrong = in_sight and all(layer.dtype == _SINGLE for layer in found)
    if wrong or all_wrong:
        names = wrong or [layer.name for layer in found]
        raise EngineError(
            f"{stage}: fp16 was requested, but {len(names)} of {len(found)} matrix products run in float32, such as "
            f"'{names[0]}'; the plan is not kept"
        )


def check_quantized(stage: str, layers: tuple[Layer, ...], quantized: str, weights: Mapping[str, str]) -> None:
    """Check that each quantized weight is multiplied in 8 bits, as far as the layers show their products.

    Args:
        stage: Stage of the plan, for the message.
        layers: Layers of the plan.
        quantized: The 8 bit type.
        weights: The node that reads each quantized weight, by the name of the weight's DequantizeLinear.

    Raises:
        EngineError: Some weight is widened, or no product reads the 8 bit type; the message gives numbers and a name.
    """
    widened = find_weight_uses(layers, weights).widened
    if widened:
        raise EngineError(
            f"{stage}: {quantized} was requested, but {len(widened)} of {len(weights)} quantized weights are widened "
            f"before their product, such as '{widened[0]}', which takes longer than fp16; the plan is not kept; use "
            "fp16, or export and calibrate the bundle again"
        )
    found = [layer for layer in layers if layer.is_product]
    reads = {side.dtype for layer in found for side in layer.inputs}
    if found and quantized not in reads and not any(layer.is_opaque for layer in layers):
        raise EngineError(
            f"{stage}: {quantized} was requested, but none of {len(found)} matrix products reads it; they read "
            f"{', '.join(sorted(reads - {''})) or 'unknown types'}; the plan is not kept"
        )


def _first_dtype(layer: Layer) -> str:
    return next((side.dtype for side in layer.outputs if side.dtype), "unknown")


def _copies(layers: tuple[Layer, ...], cache: Collection[str]) -> Iterator[LayerCopy]:
    for layer in layers:
        if layer.is_product or layer.reduces or layer.is_opaque or layer.is_idle:
            continue
        for side in layer.inputs:
            if side.name in cache:
                nbytes = sum(out.nbytes for out in layer.outputs)
                yield LayerCopy(layer.name, layer.kind, side.name, nbytes)
                break
