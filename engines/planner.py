"""What an engine will take, before minutes go into building it: memory, operations, and how many lanes fit."""

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

# A transformer block's hidden layer is so many times as wide as its input.
_MLP = 4


@dataclass(frozen=True)
class EnginePlan:
    """What an engine and its first lane take.

    Attributes:
        precision: Of the graphs.
        weights_nbytes: Of all stages' plans together: each holds its own.
        cache_nbytes: KV cache of a lane, exact.
        staging_nbytes: Where fill writes a lane's new keys and values, exact.
        sides_nbytes: All other inputs and outputs of a lane, exact.
        scratch_nbytes: Scratch memory of a lane's contexts: an estimate, without fused attention.
        memory_nbytes: The GPU's; None without one.
        lanes: How many lanes fit beside the weights; None without a GPU.
        flops: Operations by stage.
        nbytes_moved: Bytes that each stage must read and write.
        compute_seconds: Time of a denoising step at the GPU's peak of operations; None where that is not known.
        memory_seconds: Time of a denoising step at the GPU's memory bandwidth; None without a GPU.
    """

    precision: Precision
    weights_nbytes: int
    cache_nbytes: int
    staging_nbytes: int
    sides_nbytes: int
    scratch_nbytes: int
    memory_nbytes: int | None
    lanes: int | None
    flops: Mapping[str, int]
    nbytes_moved: Mapping[str, int]
    compute_seconds: float | None
    memory_seconds: float | None

    @property
    def lane_nbytes(self) -> int:
        """Bytes of one lane."""
        return self.cache_nbytes + self.staging_nbytes + self.sides_nbytes + self.scratch_nbytes

    @property
    def roofline_seconds(self) -> float | None:
        """The least time of a denoising step; None where the GPU is not known."""
        if self.compute_seconds is None or self.memory_seconds is None:
            return None
        return max(self.compute_seconds, self.memory_seconds)

    def lines(self) -> list[str]:
        """Return it for people."""
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
    """Say what an engine of a bundle will take.

    Args:
        bundle: Its manifest says all; no file is read.
        precision: Of the graphs.
        gpu: Where it is to run; None leaves out what hangs on it.

    Raises:
        BundleError: The bundle does not have that precision.
    """
    graphs = stage_graphs(bundle, precision)
    geometry = bundle.manifest.geometry
    element = 4 if precision.around == FP32.around else 2  # of what a block computes with; the cache may be smaller
    cache = geometry.cache_elements * graphs[Stage.FILL].cache_element_nbytes
    weights = sum(graph.weights.nbytes if graph.weights else graph.file.nbytes for graph in graphs.values())
    staging = cache // geometry.slots * geometry.chunk_frames
    sides = sum(_sides_nbytes(graph) for graph in graphs.values())
    scratch = _scratch_nbytes(geometry, element)
    lane = cache + staging + sides + scratch
    denoise = graphs[Stage.DENOISE]
    # What 8 bit products reach is not in the tables.
    peak = gpu.peak_flops(precision) if gpu and denoise.quantized is None else None
    return EnginePlan(
        precision=precision,
        weights_nbytes=weights,
        cache_nbytes=cache,
        staging_nbytes=staging,
        sides_nbytes=sides,
        scratch_nbytes=scratch,
        memory_nbytes=gpu.memory_nbytes if gpu else None,
        lanes=max(gpu.memory_nbytes - weights, 0) // lane if gpu else None,
        flops={stage: graph.flops for stage, graph in graphs.items()},
        nbytes_moved={stage: graph.nbytes_moved for stage, graph in graphs.items()},
        compute_seconds=denoise.flops / peak if peak else None,
        memory_seconds=denoise.nbytes_moved / gpu.bandwidth if gpu and gpu.bandwidth else None,
    )


def check_fit(plan: EnginePlan) -> None:
    """Refuse to build what the GPU cannot hold with one lane.

    Raises:
        EngineError: Names every part.
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
    """Count inputs and outputs that are not the lane's cache or staging."""
    return sum(spec.nbytes for spec in (*graph.inputs, *graph.outputs) if spec.role not in CACHE_ROLES)


def _scratch_nbytes(g: Geometry, element: int) -> int:
    """Estimate what is alive at the worst place of a block: residual stream, normed copy, and the widest operator.

    Scores and probabilities of an attention are counted whole, as without a fused kernel.
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
