"""What a profile found, as frozen dataclasses; :meth:`Report.to_json` is what ``--json`` writes, see REPORT.md."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...bundle import encode

if TYPE_CHECKING:
    from ...bundle import Precision
    from ..analysis.statistics import Interval, Summary
    from ..measuring.recorder import Span

__all__ = [
    "SCHEMA",
    "Ceilings",
    "Comparison",
    "Energy",
    "Environment",
    "FirstFrame",
    "Layer",
    "Memory",
    "Point",
    "Rate",
    "Ratio",
    "Report",
    "RooflineStage",
    "Workload",
]

SCHEMA = 1


@dataclass(frozen=True)
class Environment:
    """What it ran on.

    Attributes:
        vdmrt: Version.
        commit: Of the checkout it was imported from; None for an installed package.
        python: Version.
        platform: Operating system.
        cpu: Name of the processor.
        cpu_count: CPUs that the process may use.
        device: Where the tensors lay: "host" or "cuda:0".
        gpu: Name of the GPU; None on the host.
        driver: The newest CUDA that the GPU's driver runs, and its own version where NVML tells; None on the host.
        packages: Versions of what ran, by distribution.
    """

    vdmrt: str
    commit: str | None
    python: str
    platform: str
    cpu: str
    cpu_count: int
    device: str
    gpu: str | None
    driver: str | None
    packages: Mapping[str, str]


@dataclass(frozen=True)
class Workload:
    """What was run.

    Attributes:
        bundle: The folder.
        name: The model's name.
        random_weights: Whether the weights were never trained.
        backend: What ran it, in one line.
        precision: Of the graphs.
        sampler: The sampler.
        steps: Denoising steps of a chunk.
        seed: Of the noise and of the frames it went on from.
        chunk_frames: Latent frames of a chunk.
        slots: Capacity of the KV cache in latent frames.
        codec: "preview", "vae", or None where no codec ran.
        decoding: "serial", "overlapped" (with the next chunk) or "off".
        warmup_chunks: Chunks that were made first and are in no figure.
        chunks: Chunks that were measured.
    """

    bundle: str
    name: str
    random_weights: bool
    backend: str
    precision: Precision
    sampler: str
    steps: int
    seed: int
    chunk_frames: int
    slots: int
    codec: str | None
    decoding: str
    warmup_chunks: int
    chunks: int


@dataclass(frozen=True)
class FirstFrame:
    """Time to the first generated frames, milliseconds; each was measured once, except the warm ones.

    Attributes:
        load_ms: Loading the bundle; None where a loaded model was given.
        cold_ms: From asking for a session to the first chunk, on a lane that never ran; decoded where a codec ran.
        cold_with_load_ms: Both; None without ``load_ms``.
        warm_ms: From giving frames to a warm session to its first chunk.
    """

    load_ms: float | None
    cold_ms: float
    cold_with_load_ms: float | None
    warm_ms: float


@dataclass(frozen=True)
class Point:
    """One autoregressive step on the curve.

    Attributes:
        index: Number of the chunk since the start, from 0.
        cached_frames: Latent frames that its denoising steps saw in the cache.
        step_ms: Median of its denoising steps.
        fill_ms: Its cache fill.
        chunk_ms: All of it without the codec.
    """

    index: int
    cached_frames: int
    step_ms: float
    fill_ms: float
    chunk_ms: float


@dataclass(frozen=True)
class Rate:
    """How many frames come out.

    Attributes:
        latent_fps: Generated latent frames over the time of their autoregressive steps, codec excluded.
        frame_fps: Delivered frames over the wall time of the measured loop, codec included where one ran.
        wall_ms: Wall time of the measured loop.
        covered: Share of it that the recorded stages cover.
        target_fps: What was asked for; None leaves the rest None.
        real_time_factor: Median time between two chunks over the playing time of one; below 1 keeps up.
        attainment: Share of the chunks after the first that came before a player without pauses ran dry.
        stall_ms: How long a player that starts with the first chunk and waits for each late one stood still.
    """

    latent_fps: float
    frame_fps: float
    wall_ms: float
    covered: float
    target_fps: float | None = None
    real_time_factor: float | None = None
    attainment: float | None = None
    stall_ms: float | None = None


@dataclass(frozen=True)
class Memory:
    """Bytes.

    Attributes:
        cache_nbytes: The KV cache of the lane.
        device_nbytes: What the lanes hold on the device, programs excluded; None where it cannot be told.
        device_used_nbytes: In use on the whole GPU when the loop was over, by programs, libraries and other processes
            too; lanes allocate nothing on the way, so it is the peak where nobody else is there. None on the host.
        host_peak_nbytes: Largest resident size of the process since its start.
        denoise_nbytes: Inputs, outputs and weights of one denoising step, each once.
        copied_nbytes: Of the cache, copied by one denoising step; 0 is the aim.
        scatter_nbytes: Moved by the runtime in one autoregressive step: read and written.
    """

    cache_nbytes: int
    device_nbytes: int | None
    device_used_nbytes: int | None
    host_peak_nbytes: int
    denoise_nbytes: int
    copied_nbytes: int
    scatter_nbytes: int


@dataclass(frozen=True)
class Energy:
    """What NVML told of the measured rollout, the warm-up included.

    Attributes:
        joules: Energy of the whole GPU.
        joules_per_frame: Of one generated latent frame, those of the warm-up counted too.
        watts: Mean power.
        clock_mhz: SM clock at the end.
        memory_clock_mhz: Memory clock at the end.
        temperature_c: At the end.
        throttled: Why the clocks were held down, in words; empty where they were not.
    """

    joules: float
    joules_per_frame: float
    watts: float
    clock_mhz: int
    memory_clock_mhz: int
    temperature_c: int
    throttled: tuple[str, ...]


@dataclass(frozen=True)
class Ceilings:
    """What the device reached in the same run.

    Attributes:
        flops_per_second: Of the best matrix product; None where there is nothing to multiply with, as ``product``.
        bytes_per_second: Of the best copy, read and written bytes both counted.
        product: What was multiplied by what.
        copy: What was copied by what.
    """

    flops_per_second: float | None
    bytes_per_second: float
    product: str | None
    copy: str

    def describe(self) -> str:
        """Say both in a line."""
        copied = f"{self.bytes_per_second / 1e9:.4g} GB/s ({self.copy})"
        if self.flops_per_second is None:
            return copied
        return f"{self.flops_per_second / 1e9:.4g} GFLOP/s ({self.product}), {copied}"


@dataclass(frozen=True)
class RooflineStage:
    """A stage under the roofline.

    Attributes:
        stage: "step", "fill" or "decode".
        flops: Operations of one run, from model.json.
        nbytes: Bytes that it must move, from model.json.
        intensity: Operations a byte.
        bound_ms: What the roofline allows at best.
        measured_ms: Median.
        fraction: ``bound_ms`` over ``measured_ms``.
        limit: "compute" or "memory".
    """

    stage: str
    flops: int
    nbytes: int
    intensity: float
    bound_ms: float
    measured_ms: float
    fraction: float
    limit: str


@dataclass(frozen=True)
class Layer:
    """A layer of a loaded graph, over the profiled runs: a node in ONNX Runtime, one or many nodes in TensorRT.

    Attributes:
        stage: "denoise" or "fill".
        block: Number of the transformer block, or -1 before the first, after the last, and where it spans several.
        name: As the backend calls it.
        operator: The node's operator, or TensorRT's kind of layer.
        milliseconds: Median of one run.
        share: Of all layers of the stage.
    """

    stage: str
    block: int
    name: str
    operator: str
    milliseconds: float
    share: float


@dataclass(frozen=True)
class Ratio:
    """A figure of the other over a figure of this: above 1, the other takes longer.

    Attributes:
        what: Which.
        this: Median of this, milliseconds.
        other: Median of the other.
        ratio: Median of the rounds, each the median of the ratios of neighboring runs.
        interval: Where it lies, from the rounds.
        differs: Whether the interval leaves out 1.
    """

    what: str
    this: float
    other: float
    ratio: float
    interval: Interval
    differs: bool

    def describe(self) -> str:
        """Say what the interval says, and no more."""
        low, high = self.interval.low, self.interval.high
        told = (
            f"the other takes {low:.3f} to {high:.3f} times as long ({100 * self.interval.confidence:.3g} % interval)"
        )
        return f"{self.verdict}: {told}"

    @property
    def verdict(self) -> str:
        """Which is faster, where the interval shows it."""
        if not self.differs:
            return "no difference shown"
        return "the other is slower" if self.interval.low > 1 else "the other is faster"


@dataclass(frozen=True)
class Comparison:
    """This against another, in turn.

    Attributes:
        other: What the other was.
        pairs: Neighboring chunks, in all rounds.
        ratios: By figure.
        rounds: How often both were opened anew; each round is one value of a ratio.
    """

    other: str
    pairs: int
    ratios: tuple[Ratio, ...]
    rounds: int


@dataclass(frozen=True)
class Report:
    """A profile. Times are milliseconds of wall time, sizes bytes.

    Attributes:
        date: When, ISO 8601 with offset.
        stages: By stage: "chunk", "step", "noise", "denoise", "fill", "scatter", "encode", "decode", "host", "idle",
            "enqueue" and "arrival"; what did not happen is not there.
        curve: Each measured autoregressive step.
        arrivals_ms: Between the delivery of neighboring chunks.
        timeline: Spans of two neighboring chunks.
        warnings: What makes the figures doubtful.
        notes: What they include, and what could not be measured.
        spans: Of the whole loop, or its end where it was long; not in the JSON, a trace holds them.
        schema: Version of this format: it grows by fields without a new number.
    """

    date: str
    environment: Environment
    workload: Workload
    first: FirstFrame
    stages: Mapping[str, Summary]
    curve: tuple[Point, ...]
    arrivals_ms: tuple[float, ...]
    rate: Rate
    memory: Memory
    timeline: tuple[Span, ...]
    energy: Energy | None = None
    ceilings: Ceilings | None = None
    roofline: tuple[RooflineStage, ...] = ()
    layers: tuple[Layer, ...] = ()
    comparison: Comparison | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    spans: tuple[Span, ...] = field(default=(), repr=False)
    schema: int = field(default=SCHEMA)

    def to_json(self) -> str:
        """Return the report as JSON."""
        fields = encode(dataclasses.replace(self, spans=()))
        del fields["spans"]
        return json.dumps({"kind": "vdmrt.profile", **fields}, indent=1, allow_nan=False) + "\n"
