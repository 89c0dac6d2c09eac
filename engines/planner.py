"""Planner of engines: estimates of memory, operations, and the number of lanes that fit, before a build."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..bundle import (
    CACHE_ROLES,
    FP32,
    Stage,
    format_flops,
    format_nbytes,
    stage_graphs,
)
from ..errors import EngineError

if TYPE_CHECKING:
    from ..bundle import (
        Bundle,
        Geometry,
        Graph,
        Precision,
    )
    from ..hosts.gpu import Gpu

__all__ = ["EnginePlan", "check_fit", "plan_engine"]

# Ratio of the width of a transformer block's hidden layer to its input.
_MLP = 4


@dataclass(frozen=True)
class EnginePlan:
    """Cost of an engine and its lanes.

    Attributes:
        precision: Precision of the graphs.
        weights_nbytes: Weights of all stages' plans together; each plan contains its own copy.
        cache_nbytes: KV cache of a lane, exact.
        staging_nbytes: Buffers for a lane's new keys and values, written by fill, exact.
        sides_nbytes: All other inputs and outputs of a lane, exact.
        scratch_nbytes: Scratch memory of a lane's contexts: an estimate, without fused attention.
        memory_nbytes: Memory of the GPU; None without one.
        flops: Operations by stage.
        nbytes_moved: Bytes that each stage must read and write.
        compute_seconds: Time of a denoising step at the GPU's peak of operations; None if the peak is unknown.
        memory_seconds: Time of a denoising step at the GPU's memory bandwidth; None without a GPU.
    """

    precision: Precision
    weights_nbytes: int
    cache_nbytes: int
    staging_nbytes: int
    sides_nbytes: int
    scratch_nbytes: int
    memory_nbytes: int | None
    flops: Mapping[str, int]
    nbytes_moved: Mapping[str, int]
    compute_seconds: float | None
    memory_seconds: float | None

    @property
    def lane_nbytes(self) -> int:
        """Bytes of one lane."""
        return self.cache_nbytes + self.staging_nbytes + self.sides_nbytes + self.scratch_nbytes

    @property
    def lanes(self) -> int | None:
        """Number of lanes that fit beside the weights; None without a GPU."""
        if self.memory_nbytes is None:
            return None
        return max(self.memory_nbytes - self.weights_nbytes, 0) // self.lane_nbytes

    @property
    def roofline_seconds(self) -> float | None:
        """Lower bound of the time of a denoising step; None if the GPU is unknown."""
        if self.compute_seconds is None or self.memory_seconds is None:
            return None
        return max(self.compute_seconds, self.memory_seconds)

    def lines(self) -> list[str]:
        """Return the plan as lines of text."""
        step = self.roofline_seconds
        bound = "memory" if (self.memory_seconds or 0) > (self.compute_seconds or 0) else "arithmetic"
        moved = format_nbytes(self.nbytes_moved[Stage.DENOISE])
        lines = [
            f"weights         {format_nbytes(self.weights_nbytes)} (each stage's plan holds its own)",
            f"KV cache        {format_nbytes(self.cache_nbytes)} a lane",
            f"staging         {format_nbytes(self.staging_nbytes)} a lane",
            f"inputs, outputs {format_nbytes(self.sides_nbytes)} a lane",
            f"scratch         about {format_nbytes(self.scratch_nbytes)} a lane",
            f"denoising step  {format_flops(self.flops[Stage.DENOISE])}, {moved} moved",
        ]
        if step is not None:
            lines.append(f"roofline        {1e3 * step:.3g} ms a denoising step at this GPU's highest clocks ({bound})")
        if self.memory_nbytes is not None:
            lines.append(f"lanes           {self.lanes} fit in {format_nbytes(self.memory_nbytes)}")
        return lines


def plan_engine(bundle: Bundle, precision: Precision, gpu: Gpu | None) -> EnginePlan:
    """Estimate the cost of an engine of a bundle.

    Args:
        bundle: Bundle; only its manifest is used, no file is read.
        precision: Precision of the graphs.
        gpu: GPU that will run the engine; None omits the figures that depend on it.

    Raises:
        BundleError: The bundle does not contain that precision.
    """
    graphs = stage_graphs(bundle, precision)
    geometry = bundle.manifest.geometry
    element = 4 if precision.around == FP32.around else 2  # of a block's activations; the cache's may be smaller
    cache = geometry.cache_elements * graphs[Stage.FILL].cache_element_nbytes
    weights = sum(graph.weights.nbytes if graph.weights else graph.file.nbytes for graph in graphs.values())
    staging = cache // geometry.slots * geometry.chunk_frames
    sides = sum(_sides_nbytes(graph) for graph in graphs.values())
    scratch = _scratch_nbytes(geometry, element)
    denoise = graphs[Stage.DENOISE]
    # The tables lack the peaks of 8 bit products.
    peak = gpu.peak_flops(precision) if gpu and denoise.quantized is None else None
    return EnginePlan(
        precision=precision,
        weights_nbytes=weights,
        cache_nbytes=cache,
        staging_nbytes=staging,
        sides_nbytes=sides,
        scratch_nbytes=scratch,
        memory_nbytes=gpu.memory_nbytes if gpu else None,
        flops={stage: graph.flops for stage, graph in graphs.items()},
        nbytes_moved={stage: graph.nbytes_moved for stage, graph in graphs.items()},
        compute_seconds=denoise.flops / peak if peak else None,
        memory_seconds=denoise.nbytes_moved / gpu.bandwidth if gpu and gpu.bandwidth else None,
    )


def check_fit(plan: EnginePlan) -> None:
    """Check that the GPU's memory holds the engine with one lane.

    Raises:
        EngineError: It does not; the message lists every part.
    """
    if plan.lanes != 0 or plan.memory_nbytes is None:
        return
    raise EngineError(
        f"this engine does not fit: weights {format_nbytes(plan.weights_nbytes)}, KV cache "
        f"{format_nbytes(plan.cache_nbytes)}, staging {format_nbytes(plan.staging_nbytes)}, inputs and outputs "
        f"{format_nbytes(plan.sides_nbytes)} and scratch of about {format_nbytes(plan.scratch_nbytes)} are more than "
        f"the GPU's {format_nbytes(plan.memory_nbytes)}; export with fewer --requests or --slots, or build anyway "
        "with --force"
    )


def _sides_nbytes(graph: Graph) -> int:
    """Return the bytes of inputs and outputs other than the lane's cache and staging."""
    return sum(spec.nbytes for spec in (*graph.inputs, *graph.outputs) if spec.role not in CACHE_ROLES)


def _scratch_nbytes(g: Geometry, element: int) -> int:
    """Estimate the peak of live activations in a block: residual stream, normed copy, and the widest operator.

    Scores and probabilities of an attention are counted in full, as without a fused kernel.
    """
    rows = g.rows * g.chunk_frames * g.tokens_per_frame
    width = g.heads * g.head_size
    stream = rows * width * (4 + 4 + element)
    linear = rows * width * element * 2 * _MLP
    scores = {
        "space": g.tokens_per_frame,
        "cache": (g.slots + g.chunk_frames) * g.slot_elements // g.head_size,
        "context": g.context_frames * g.tokens_per_frame,
        "text": g.text_tokens,
    }
    attention = rows * g.heads * max(scores.values()) * element * 2 + rows * width * element * 4
    return int(math.ceil((stream + max(linear, attention)) * 1.1))
