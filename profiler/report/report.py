"""The report of a profile, as frozen dataclasses; ``--json`` writes :meth:`Report.to_json`, see REPORT.md."""

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
    """Hardware and software of the run.

    Attributes:
        vdmrt: Version of vdmrt.
        commit: Commit of the checkout it was imported from; None for an installed package.
        python: Version of Python.
        platform: Operating system.
        cpu: Name of the processor.
        cpu_count: CPUs available to the process.
        device: Device of the tensors: "host" or "cuda:0".
        gpu: Name of the GPU; None on the host.
        driver: Newest CUDA that the GPU's driver supports, and the driver's version if NVML reports it; None on the
            host.
        packages: Versions of the packages used, by distribution.
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
    """Model and settings of the run.

    Attributes:
        bundle: The bundle's folder.
        name: The model's name.
        random_weights: Whether the weights are random (untrained).
        backend: The backend, in one line.
        precision: Precision of the graphs.
        sampler: The sampler.
        steps: Denoising steps of a chunk.
        seed: Seed of the noise and of the given frames.
        chunk_frames: Latent frames of a chunk.
        slots: Capacity of the KV cache in latent frames.
        codec: "preview", "vae", or None where no codec ran.
        decoding: "serial", "overlapped" (with the next chunk) or "off".
        warmup_chunks: Warm-up chunks, not counted in any figure.
        chunks: Number of measured chunks.
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
        load_ms: Time to load the bundle; None for a model that was loaded already.
        cold_ms: Time from the request of a session to the first chunk, on a new lane; decoded where a codec ran.
        cold_with_load_ms: Sum of ``load_ms`` and ``cold_ms``; None without ``load_ms``.
        warm_ms: Time from the given frames of a warm session to its first chunk.
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
        cached_frames: Latent frames in the cache during its denoising steps.
        step_ms: Median time of its denoising steps.
        fill_ms: Time of its cache fill.
        chunk_ms: Time of the whole chunk without the codec.
    """

    index: int
    cached_frames: int
    step_ms: float
    fill_ms: float
    chunk_ms: float


@dataclass(frozen=True)
class Rate:
    """Rate of generated frames.

    Attributes:
        latent_fps: Generated latent frames over the time of their autoregressive steps, codec excluded.
        frame_fps: Delivered frames over the wall time of the measured loop, codec included where one ran.
        wall_ms: Wall time of the measured loop.
        covered: Share of it that the recorded stages cover.
        target_fps: Target rate; if None, the fields below are None.
        real_time_factor: Median time between two chunks over the playing time of one; below 1 keeps up.
        attainment: Share of chunks after the first that arrived before a player without pauses needed them.
        stall_ms: Total stall of a player that starts with the first chunk and waits for late ones.
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
    """Memory in use and moved, in bytes.

    Attributes:
        cache_nbytes: KV cache of the lane.
        device_nbytes: Device memory of the lanes, without programs; None if unknown.
        device_used_nbytes: Memory in use on the whole GPU at the end of the loop, including programs, libraries and
            other processes; lanes allocate nothing during the loop, so without other processes it is the peak. None
            on the host.
        host_peak_nbytes: Largest resident size of the process since its start.
        denoise_nbytes: Inputs, outputs and weights of one denoising step, each once.
        copied_nbytes: Bytes of the cache copied by one denoising step; the goal is 0.
        scatter_nbytes: Bytes moved by the runtime in one autoregressive step: read and written.
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
    """NVML's readings of the measured rollout, including the warm-up.

    Attributes:
        joules: Energy of the whole GPU.
        joules_per_frame: Energy for each generated latent frame, including the warm-up.
        watts: Mean power.
        clock_mhz: SM clock at the end.
        memory_clock_mhz: Memory clock at the end.
        temperature_c: Temperature at the end, in °C.
        throttled: Reasons for reduced clocks, in words; empty if they were not reduced.
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
    """Ceilings of the device, measured in the same run.

    Attributes:
        flops_per_second: Rate of the fastest matrix product; None, like ``product``, if cuBLAS is missing.
        bytes_per_second: Rate of the fastest copy, counting read and written bytes.
        product: Description of the product.
        copy: Description of the copy.
    """

    flops_per_second: float | None
    bytes_per_second: float
    product: str | None
    copy: str

    def describe(self) -> str:
        """Return both in one line."""
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
        intensity: Operations per byte.
        bound_ms: Lower bound of the time by the roofline.
        measured_ms: Median of the measured times.
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
        name: Name given by the backend.
        operator: The node's operator, or TensorRT's type of layer.
        milliseconds: Median time of one run.
        share: Share of the time of all layers of the stage.
    """

    stage: str
    block: int
    name: str
    operator: str
    milliseconds: float
    share: float


@dataclass(frozen=True)
class Ratio:
    """Ratio of a time of the other contender to that of this one: above 1, the other takes longer.

    Attributes:
        what: Name of the time.
        this: Median of this one, milliseconds.
        other: Median of the other, milliseconds.
        ratio: Median of the rounds, each the median of the ratios of neighboring runs.
        interval: Confidence interval of the ratio, from the rounds.
        differs: Whether the interval excludes 1.
    """

    what: str
    this: float
    other: float
    ratio: float
    interval: Interval
    differs: bool

    def describe(self) -> str:
        """Return the verdict and the interval."""
        low, high = self.interval.low, self.interval.high
        ratio = (
            f"the other takes {low:.3f} to {high:.3f} times as long ({100 * self.interval.confidence:.3g} % interval)"
        )
        return f"{self.verdict}: {ratio}"

    @property
    def verdict(self) -> str:
        """Which is faster, if the interval shows it."""
        if not self.differs:
            return "no difference shown"
        return "the other is slower" if self.interval.low > 1 else "the other is faster"


@dataclass(frozen=True)
class Comparison:
    """Comparison of two contenders by alternating chunks.

    Attributes:
        other: Description of the other.
        pairs: Pairs of neighboring chunks, in all rounds.
        ratios: Ratios of the times.
        rounds: Number of rounds, each of which opens both again and gives one value of a ratio.
    """

    other: str
    pairs: int
    ratios: tuple[Ratio, ...]
    rounds: int


@dataclass(frozen=True)
class Report:
    """A profile. Times are milliseconds of wall time, sizes bytes.

    Attributes:
        date: Time of the profile, ISO 8601 with offset.
        stages: Summaries by stage: "chunk", "step", "noise", "denoise", "fill", "scatter", "encode", "decode", "host",
            "idle", "enqueue" and "arrival"; stages that did not occur are absent.
        curve: Each measured autoregressive step.
        arrivals_ms: Times between the deliveries of neighboring chunks.
        timeline: Spans of two neighboring chunks.
        warnings: Reasons why figures are doubtful.
        notes: What the figures include, and what could not be measured.
        spans: Spans of the whole loop, or of its end if it was long; not in the JSON, but in a trace.
        schema: Version of this format; new fields do not change it.
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
