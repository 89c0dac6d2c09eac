"""Audit of a built plan: precisions and copies of its layers, from TensorRT's engine inspector."""

from __future__ import annotations

import collections
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...bundle import EIGHT_BITS, FP8, FP16, FP32, INT8, LayerCopy, PlanAudit
from ...errors import EngineError

__all__ = ["audit_layers", "check_precision", "check_quantized", "read_layers"]

# The inspector writes "Row major linear FP16 format" for tensors of TensorRT's own kernels and "Half" for those of its
# compiler. The types of linears have the names used for precisions.
_SINGLE, _HALF = FP32.linears, FP16.linears
_TYPES = (
    (r"BF(loat)?16", "bf16", 2), (r"FP16|Half", _HALF, 2), (r"FP32|Float", _SINGLE, 4), (r"FP8", FP8, 1),
    (r"U?Int8", INT8, 1), (r"Int32", "int32", 4), (r"Int64", "int64", 8), (r"Bool", "bool", 1),
)  # fmt: skip
_NBYTES = {name: nbytes for _, name, nbytes in _TYPES}
_PRODUCT = re.compile(r"gemm|matrix_?multiply|matmul|fully_?connected|\bfc\b|mha|conv", re.IGNORECASE)
# Kinds that neither compute nor move data: waits between streams, and views.
_IDLE = re.compile(r"^(signal|wait|noop|constant|reshape)$", re.IGNORECASE)
# A whole subgraph of TensorRT's compiler, without details from the inspector (8.5).
_OPAQUE = re.compile(r"myelin|foreignnode", re.IGNORECASE)


@dataclass(frozen=True)
class Tensor:
    """An input or output of a layer: its name, its type ("fp16", ..., "" where it is not given), its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size in bytes, 0 where the type is not given."""
        return math.prod(self.shape) * _NBYTES.get(self.dtype, 0)


@dataclass(frozen=True)
class Layer:
    """A layer of a built plan.

    Attributes:
        name: Name given by the inspector.
        kind: Its LayerType.
        inputs: Tensors that it reads.
        outputs: Tensors that it writes.
        text: Text that shows whether it is a matrix product: kind, tactic, and the name where the kind is unspecific.
        nodes: ONNX nodes that it contains.
    """

    name: str
    kind: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    text: str
    nodes: frozenset[str] = frozenset()

    @property
    def is_opaque(self) -> bool:
        """Whether it stands for many layers."""
        return bool(_OPAQUE.search(self.kind) or self.name.startswith("{ForeignNode"))

    @property
    def is_product(self) -> bool:
        """Whether it multiplies matrices."""
        return not self.is_opaque and bool(_PRODUCT.search(self.text))

    @property
    def dtype(self) -> str:
        """Type of a product's inputs: half if any floating-point input is half, since sums may be kept in float32."""
        found = [side.dtype for side in (*self.inputs, *self.outputs) if side.dtype in (_SINGLE, _HALF, "bf16")]
        reads = [side.dtype for side in self.inputs if side.dtype in (_SINGLE, _HALF, "bf16", *EIGHT_BITS)]
        small = [dtype for dtype in reads if dtype != _SINGLE]
        return (small or reads or found or [""])[0]


def read_layers(text: str) -> tuple[Layer, ...]:
    """Parse the inspector's JSON of any release; layers given by name alone have no types.

    Raises:
        EngineError: The text is not such JSON.
    """
    try:
        document = json.loads(text, strict=False)  # 8.6 and 10.0 write bare control characters
        layers = document["Layers"] if isinstance(document, dict) else document
        return tuple(_layer(item) for item in layers)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"TensorRT's inspector returned no readable JSON: {text[:80]!r}") from error


def audit_layers(layers: tuple[Layer, ...], cache: Collection[str]) -> PlanAudit:
    """Count the precisions of layers, and list the layers that only copy the KV cache.

    Args:
        layers: Layers of the plan.
        cache: Names of the cache's input tensors.
    """
    precisions = collections.Counter(_first_dtype(layer) for layer in layers)
    products = collections.Counter(layer.dtype for layer in layers if layer.is_product)
    unknown = products.pop("", 0) + sum(layer.is_opaque for layer in layers)
    return PlanAudit(
        layers=len(layers),
        precisions=dict(precisions),
        products=dict(products),
        unknown_products=unknown,
        cache_copies=tuple(_copies(layers, cache)),
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


def check_quantized(stage: str, layers: tuple[Layer, ...], quantized: str) -> None:
    """Check that some product runs in the graph's 8 bit type, where the inspector shows all of them.

    Raises:
        EngineError: None does; the message gives the number of products and their types.
    """
    found = [layer for layer in layers if layer.is_product]
    reads = {side.dtype for layer in found for side in layer.inputs}
    if found and quantized not in reads and not any(layer.is_opaque for layer in layers):
        raise EngineError(
            f"{stage}: {quantized} was requested, but none of {len(found)} matrix products reads it; they read "
            f"{', '.join(sorted(reads - {''})) or 'unknown types'}; the plan is not kept"
        )


def _layer(item: Any) -> Layer:
    if isinstance(item, str):  # built without detailed verbosity
        return Layer(item, "", (), (), item)
    name, kind = str(item.get("Name", "")), str(item.get("LayerType", ""))
    more = [str(item.get(key, "")) for key in ("ParameterType", "TacticName", "Metadata")]
    # The name of a fused layer lists many nodes, so the kind decides where it is specific.
    text = " ".join([kind, *more[:2]] if kind.lower() not in ("", "kgen", "fusion") else [kind, *more[:2], name])
    sides = [tuple(_tensor(side) for side in item.get(key) or ()) for key in ("Inputs", "Outputs")]
    return Layer(name, kind, sides[0], sides[1], text, frozenset(_nodes(name, more[2])))


def _tensor(side: Mapping[str, Any]) -> Tensor:
    text = str(side.get("Format/Datatype", side.get("Datatype", "")))
    dtype = next((name for pattern, name, _ in _TYPES if re.search(pattern, text, re.IGNORECASE)), "")
    shape = tuple(int(number) for number in side.get("Dimensions") or ())
    return Tensor(str(side.get("Name", "")), dtype, shape)


def _first_dtype(layer: Layer) -> str:
    return next((side.dtype for side in layer.outputs if side.dtype), "unknown")


def _nodes(name: str, metadata: str) -> Iterator[str]:
    """Yield the ONNX nodes in a layer, from its metadata, or from its name, joined by plus signs."""
    yield from re.findall(r"\[ONNX Layer: ([^\]]+)\]", metadata)
    yield from (part.strip() for part in name.split(" + "))


def _copies(layers: tuple[Layer, ...], cache: Collection[str]) -> Iterator[LayerCopy]:
    for layer in layers:
        if layer.is_product or layer.is_opaque or _IDLE.match(layer.kind):
            continue
        for side in layer.inputs:
            if side.name in cache:
                nbytes = sum(out.nbytes for out in layer.outputs)
                yield LayerCopy(layer.name, layer.kind, side.name, nbytes)
                break
