"""Layers of a built plan, from the JSON of TensorRT's engine inspector."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...bundle import EIGHT_BITS, FP8, FP16, FP32, INT8
from ...errors import EngineError

__all__ = ["Layer", "Tensor", "read_layers"]

# The inspector writes "Row major linear FP16 format" for tensors of TensorRT's own kernels and "Half" for those of its
# compiler. The types of linears have the names used for precisions.
_SINGLE, _HALF = FP32.linears, FP16.linears
_TYPES = (
    (r"BF(loat)?16", "bf16", 2), (r"FP16|Half", _HALF, 2), (r"FP32|Float", _SINGLE, 4), (r"FP8", FP8, 1),
    (r"U?Int8", INT8, 1), (r"Int32", "int32", 4), (r"Int64", "int64", 8), (r"Bool", "bool", 1),
)  # fmt: skip
_NBYTES = {name: nbytes for _, name, nbytes in _TYPES}
_PRODUCT = re.compile(r"gemm|correlation|matrix_?multiply|matmul|fully_?connected|\bfc\b|mha|conv", re.IGNORECASE)
# A matrix product in the names of the compiler's fusions, such as "__myl_FcAddCast_myl0_21".
_FUSED_PRODUCT = re.compile(r"Fc")
_FUSIONS = ("", "kgen", "fusion", "runtime_fusion")
# Kinds that neither compute nor move data: waits between streams, and views.
_IDLE = re.compile(r"^(signal|wait|noop|constant|reshape)$", re.IGNORECASE)
# In the names of kernels that TensorRT's compiler makes of several operators.
_REDUCTION = re.compile(r"Sum|Max")
# A whole subgraph of TensorRT's compiler, without details from the inspector (8.5).
_OPAQUE = re.compile(r"myelin|foreignnode", re.IGNORECASE)


@dataclass(frozen=True)
class Tensor:
    """A tensor of a layer: its name, its type ("fp16", ..., "" where it is not given), its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes, 0 where the type is not given."""
        return self.count * _NBYTES.get(self.dtype, 0)


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
        constants: Weights and other constants that it reads; empty where the inspector does not list them.
    """

    name: str
    kind: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    text: str
    nodes: frozenset[str] = frozenset()
    constants: tuple[Tensor, ...] = ()

    @property
    def is_opaque(self) -> bool:
        """Whether it represents many layers."""
        return bool(_OPAQUE.search(self.kind) or self.name.startswith("{ForeignNode"))

    @property
    def is_idle(self) -> bool:
        """Whether it neither computes nor moves data: a wait between streams, or a view."""
        return bool(_IDLE.match(self.kind))

    @property
    def is_attention(self) -> bool:
        """Whether it is a fused attention: both products and the softmax between them."""
        return "mha" in self.name

    @property
    def reduces(self) -> bool:
        """Whether it sums, or takes a largest value: it computes even where it is no product."""
        return bool(_REDUCTION.search(self.name))

    @property
    def is_product(self) -> bool:
        """Whether it multiplies matrices."""
        return not self.is_opaque and bool(_PRODUCT.search(self.text) or _FUSED_PRODUCT.search(self.text))

    @property
    def dtype(self) -> str:
        """Type of a product's inputs: half if any floating-point input is half, since sums may be kept in float32."""
        found = [side.dtype for side in (*self.inputs, *self.outputs) if side.dtype in (_SINGLE, _HALF, "bf16")]
        reads = [side.dtype for side in self.inputs if side.dtype in (_SINGLE, _HALF, "bf16", *EIGHT_BITS)]
        small = [dtype for dtype in reads if dtype != _SINGLE]
        return (small or reads or found or [""])[0]

    @property
    def nbytes_moved(self) -> int:
        """Bytes of everything that it reads and writes, as if no cache kept any of it."""
        return sum(side.nbytes for side in (*self.inputs, *self.constants, *self.outputs))

    @property
    def operands(self) -> tuple[Tensor, Tensor] | None:
        """The two matrices that a product multiplies, the left one first; None where they cannot be determined.

        They are the largest pair of one type whose inner sizes agree, or of two types if there is none; for an
        attention, queries and transposed keys; for a convolution, what it reads and its kernel.
        """
        if self.kind == "correlation":
            read = (*self.inputs, *self.constants)
            return (read[0], max(read[1:], key=lambda side: len(side.shape))) if len(read) > 1 else None
        matrices = [side for side in (*self.inputs, *self.constants) if len(side.shape) > 1]
        if not self.is_product or not matrices:
            return None
        firsts = matrices[:1] if self.is_attention else matrices
        pairs = [(a, b) for a, b in itertools.product(firsts, matrices) if a is not b and a.shape[-1] == b.shape[-2]]
        # What is added to a product may have the shape of its left operand.
        return max(
            pairs, key=lambda pair: (pair[0].dtype == pair[1].dtype, pair[0].count * pair[1].count), default=None
        )


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


def _layer(item: Any) -> Layer:
    if isinstance(item, str):  # built without detailed verbosity
        return Layer(item, "", (), (), item)
    name, kind = str(item.get("Name", "")), str(item.get("LayerType", ""))
    more = [str(item.get(key, "")) for key in ("ParameterType", "TacticName", "Metadata")]
    # The name of a fused layer lists many nodes, so the kind decides where it is specific.
    text = " ".join([kind, *more[:2]] if kind.lower() not in _FUSIONS else [kind, *more[:2], name])
    reads, writes, constants = (
        tuple(_tensor(side) for side in item.get(key) or ()) for key in ("Inputs", "Outputs", "Constants")
    )
    return Layer(name, kind, reads, writes, text, frozenset(_nodes(name, more[2])), constants)


def _tensor(side: Mapping[str, Any]) -> Tensor:
    text = str(side.get("Format/Datatype", side.get("Datatype", "")))
    dtype = next((name for pattern, name, _ in _TYPES if re.search(pattern, text, re.IGNORECASE)), "")
    shape = tuple(int(number) for number in side.get("Dimensions") or ())
    return Tensor(str(side.get("Name", "")), dtype, shape)


def _nodes(name: str, metadata: str) -> Iterator[str]:
    """Yield the ONNX nodes in a layer, from its metadata, or from its name, joined by plus signs."""
    yield from re.findall(r"\[ONNX Layer: ([^\]]+)\]", metadata)
    yield from (part.strip() for part in name.split(" + "))
