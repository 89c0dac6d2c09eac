"""Kernels of a compiled plan: what each of them computes and moves."""

from __future__ import annotations

import collections
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...bundle import EIGHT_BITS, FP16
from .card import CARD

if TYPE_CHECKING:
    from ..tensorrt.layers import Layer, Tensor

__all__ = ["OUTSIDE", "Kernel", "make_kernels"]

OUTSIDE = -1
_HALF_OR_LESS = (FP16.linears, "bf16", *EIGHT_BITS)
# The compiler's name of a kernel is "__myl_" and its operators, or an ONNX node, then a suffix with its number.
_DECORATION = re.compile(r"^_+(myl_)?|(_myl\d+)?_\d+$")


@dataclass(frozen=True)
class Kernel:
    """A kernel of a plan.

    Attributes:
        layer: The plan's layer.
        block: Its transformer block, :data:`OUTSIDE` for none.
        cached: Tensors of the KV cache that it reads.
    """

    layer: Layer
    block: int = OUTSIDE
    cached: tuple[Tensor, ...] = ()

    @property
    def work(self) -> Literal["attention", "product", "moving"]:
        """What it does; "moving" where it multiplies no matrices."""
        if self.layer.is_attention:
            return "attention"
        return "product" if self.layer.is_product else "moving"

    @property
    def computes(self) -> bool:
        """Whether it multiplies matrices."""
        return self.work != "moving"

    @property
    def copies(self) -> bool:
        """Whether it writes only what it reads: it neither multiplies matrices nor sums."""
        return not self.computes and not self.layer.reduces

    @property
    def is_loose_softmax(self) -> bool:
        """Whether it is a softmax outside a fused attention."""
        return "MaxrSubExp" in self.layer.name

    @property
    def label(self) -> str:
        """Short name: the module whose weight it reads, or else its operators."""
        weights = [one.name for one in self.layer.constants if ".weight" in one.name]
        if weights:
            return weights[0].partition(".weight")[0]
        return _DECORATION.sub("", self.layer.name)

    @property
    def nbytes(self) -> int:
        """Bytes of everything that it reads and writes."""
        return self.layer.nbytes_moved

    @property
    def flops(self) -> int:
        """FLOPs of a product or an attention, from the shapes; 0 for the rest, and for convolutions."""
        matrices = [side.shape for side in (*self.layer.inputs, *self.layer.constants) if len(side.shape) > 1]
        if not self.computes or not matrices or self.layer.kind == "correlation":
            return 0
        if self.work == "attention":
            keys = self.layer.operands
            return 4 * keys[0].count * keys[1].shape[-1] if keys else 0
        written = max((side.count for side in self.layer.outputs), default=0)
        inner = {shape[-1] for shape in matrices} & {shape[-2] for shape in matrices}
        return 2 * written * max(inner, default=0)

    @property
    def roofline_us(self) -> float:
        """Least microseconds on :data:`~.card.CARD`: arithmetic, not a measurement."""
        is_half = any(side.dtype in _HALF_OR_LESS for side in self.layer.inputs)
        return CARD.roofline_us(nbytes=self.nbytes, flops=self.flops, is_half=is_half)

    @property
    def operand_types(self) -> tuple[str, str]:
        """Types of a product's two operands; "unknown" where the plan does not list them."""
        operands = self.layer.operands
        return (operands[0].dtype, operands[1].dtype) if operands else ("unknown", "unknown")


def make_kernels(layers: Iterable[Layer], blocks: Mapping[str, int], cache: Collection[str]) -> tuple[Kernel, ...]:
    """Return the kernels of a plan; waits between streams and views are none.

    Args:
        layers: Layers of the plan, in order of execution.
        blocks: Transformer block of each ONNX node, as :func:`~vdmrt.bundle.find_blocks` returns them.
        cache: Names of the KV cache's input tensors.
    """
    kept = [layer for layer in layers if not layer.is_idle]
    return tuple(
        Kernel(layer, block, tuple(side for side in layer.inputs if side.name in cache))
        for layer, block in zip(kept, _blocks_of(kept, blocks), strict=True)
    )


def _blocks_of(layers: list[Layer], blocks: Mapping[str, int]) -> Iterator[int]:
    """Yield the block of most of a layer's nodes, the later one if equal.

    A layer without known nodes, which the compiler made, is in the block of the previous layer, or of the next one
    where that is outside.
    """
    found = [_block_of_nodes(layer, blocks) for layer in layers]
    previous = OUTSIDE
    for index, block in enumerate(found):
        if block is None and previous == OUTSIDE:
            block = next((one for one in found[index:] if one is not None), OUTSIDE)
        elif block is None:
            block = previous
        previous = block
        yield block


def _block_of_nodes(layer: Layer, blocks: Mapping[str, int]) -> int | None:
    if layer.is_opaque:
        return OUTSIDE
    found = collections.Counter(blocks[node] for node in layer.nodes if node in blocks)
    return max(found, key=lambda block: (found[block], block)) if found else None
