"""The kernel report of one stage."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ...bundle import EIGHT_BITS
from .kernel import OUTSIDE

if TYPE_CHECKING:
    from ...bundle import PlanAudit
    from .kernel import Kernel

__all__ = ["CacheCopies", "StageReport"]


@dataclass(frozen=True)
class CacheCopies:
    """How often a run copies a tensor of the KV cache: the kernels that read it, and neither multiply nor sum."""

    tensor: str
    count: int
    nbytes: int


@dataclass(frozen=True)
class StageReport:
    """What the compiler made of one graph.

    Attributes:
        graph: The graph's file, relative to the bundle; its hash where the bundle has another one now.
        library: "tensorrt" or "tensorrt_rtx".
        release: Its version.
        kernels: Kernels in order of execution.
        has_blocks: Whether the kernels' transformer blocks are known.
        build_seconds: Duration of the build.
        plan_nbytes: Size of the plan.
        audit: Audit of the plan; None where the engine records none.
    """

    graph: str
    library: str
    release: str
    kernels: tuple[Kernel, ...]
    has_blocks: bool
    build_seconds: float
    plan_nbytes: int
    audit: PlanAudit | None = None

    @cached_property
    def nbytes(self) -> int:
        """Bytes that all kernels read and write."""
        return sum(kernel.nbytes for kernel in self.kernels)

    @cached_property
    def products(self) -> dict[str, int]:
        """Number of products and attentions by the types of their operands, as "fp16 x fp16"."""
        found = (" x ".join(kernel.operand_types) for kernel in self.kernels if kernel.computes)
        return dict(collections.Counter(found).most_common())

    @cached_property
    def products_in_8_bits(self) -> int:
        """Number of products that read both operands in 8 bits."""
        return sum(kernel.computes and set(kernel.operand_types) <= set(EIGHT_BITS) for kernel in self.kernels)

    @cached_property
    def cache_copies(self) -> tuple[CacheCopies, ...]:
        """Copies of each tensor of the cache that is copied."""
        reads = [side for kernel in self.kernels if kernel.copies for side in kernel.cached]
        counts = collections.Counter(side.name for side in reads)
        sizes = {side.name: side.nbytes for side in reads}
        return tuple(CacheCopies(name, count, count * sizes[name]) for name, count in counts.items())

    @cached_property
    def blocks(self) -> dict[int, tuple[Kernel, ...]]:
        """Kernels by transformer block."""
        found: dict[int, list[Kernel]] = {}
        for kernel in self.kernels:
            if kernel.block != OUTSIDE:
                found.setdefault(kernel.block, []).append(kernel)
        return {block: tuple(kernels) for block, kernels in sorted(found.items())}

    @property
    def blocks_to_show(self) -> dict[int, tuple[Kernel, ...]]:
        """A typical block, and the first and the last one where they differ from it."""
        shapes = {block: _shape_of(kernels) for block, kernels in self.blocks.items()}
        if not shapes:
            return {}
        usual = collections.Counter(shapes.values()).most_common(1)[0][0]
        typical = next(block for block, shape in shapes.items() if shape == usual)
        ends = [block for block in (min(shapes), max(shapes)) if shapes[block] != usual]
        return {block: self.blocks[block] for block in sorted({typical, *ends})}

    def to_json(self) -> dict[str, Any]:
        """Return the report, ready for JSON: MB are 10⁶ bytes."""
        computing = [kernel for kernel in self.kernels if kernel.computes]
        return {
            "graph": self.graph,
            self.library: self.release,
            "kernels": len(self.kernels),
            "kinds": dict(collections.Counter(kernel.layer.kind for kernel in self.kernels)),
            "fused_attentions": sum(kernel.work == "attention" for kernel in self.kernels),
            "softmaxes_outside": sum(kernel.is_loose_softmax for kernel in self.kernels),
            **_moved(self.kernels),
            "gflop": round(sum(kernel.flops for kernel in self.kernels) / 1e9, 1),
            "roofline_ms": _roofline_ms(self.kernels),
            "roofline_of_kernels_that_compute_ms": _roofline_ms(computing),
            "cache_read_by_copies_mb": _mb(sum(_cached_nbytes(one) for one in self.kernels if not one.computes)),
            "most_copies_of_a_cached_tensor": max((copies.count for copies in self.cache_copies), default=0),
            "products": self.products,
            "products_in_8_bits": self.products_in_8_bits,
            "quantized_weights": self.audit.quantized_weights if self.audit else 0,
            "quantized_weights_in_8_bits": self.audit.quantized_products if self.audit else 0,
            "opaque_layers": sum(kernel.layer.is_opaque for kernel in self.kernels),
            "build_s": round(self.build_seconds, 1),
            "plan_mb": _mb(self.plan_nbytes),
            "cache_copies": [
                {"tensor": one.tensor, "copies": one.count, "mb": round(one.nbytes / 1e6, 3)}
                for one in self.cache_copies
            ],
            "blocks": [{"block": block, **_sums(kernels)} for block, kernels in self.blocks.items()]
            if self.has_blocks
            else None,
            "outside_blocks": _sums([kernel for kernel in self.kernels if kernel.block == OUTSIDE])
            if self.has_blocks
            else None,
        }


def _cached_nbytes(kernel: Kernel) -> int:
    return sum(side.nbytes for side in kernel.cached)


def _sums(kernels: Sequence[Kernel]) -> dict[str, Any]:
    return {"kernels": len(kernels), **_moved(kernels), "roofline_ms": _roofline_ms(kernels)}


def _moved(kernels: Iterable[Kernel]) -> dict[str, float]:
    kernels = tuple(kernels)
    return {
        "moved_mb": _mb(sum(kernel.nbytes for kernel in kernels)),
        "moved_by_kernels_that_compute_nothing_mb": _mb(sum(one.nbytes for one in kernels if not one.computes)),
    }


def _roofline_ms(kernels: Iterable[Kernel]) -> float:
    return round(sum(kernel.roofline_us for kernel in kernels) / 1e3, 2)


def _mb(nbytes: int) -> float:
    return round(nbytes / 1e6, 1)


def _shape_of(kernels: Iterable[Kernel]) -> tuple[object, ...]:
    """Return what is equal in blocks that do the same."""
    return tuple(
        (kernel.layer.kind, kernel.work, tuple((side.dtype, side.shape) for side in kernel.layer.outputs))
        for kernel in kernels
    )
