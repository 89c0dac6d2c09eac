"""What ``model.json`` says, as frozen dataclasses: the contract between all folders."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from .engines.speed import Speed
from .precision import Precision
from .quantities import format_count

__all__ = [
    "SCHEMA",
    "Accuracy",
    "Artifact",
    "CacheCopy",
    "Calibration",
    "Codec",
    "Geometry",
    "Graph",
    "Manifest",
    "SamplerDefaults",
    "ScheduleSpec",
    "TensorSpec",
]

SCHEMA = 1


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph.

    Attributes:
        name: As in the graph.
        dtype: "float32", "float16", "int32", or "int8" or "float8_e4m3fn" for a quantised cache.
        shape: Static.
    """

    name: str
    dtype: Literal["float32", "float16", "int32", "int8", "float8_e4m3fn"]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        count = {"int8": 1, "float8_e4m3fn": 1, "float16": 2}.get(self.dtype, 4)
        for side in self.shape:
            count *= side
        return count

    @property
    def storage(self) -> str:
        """The type of numpy that holds its bytes: numpy has no FP8, whose bytes are "uint8"."""
        return "uint8" if self.dtype == "float8_e4m3fn" else self.dtype


@dataclass(frozen=True)
class Artifact:
    """A file of the bundle: relative path, SHA-256 and length in bytes."""

    file: str
    sha256: str
    nbytes: int


@dataclass(frozen=True)
class CacheCopy:
    """A node that reads ``past_*`` and writes it elsewhere: so many bytes at each run of the graph."""

    node: str
    operator: str
    tensor: str
    nbytes: int


@dataclass(frozen=True)
class Graph:
    """An ONNX graph of the bundle.

    Attributes:
        file: The graph.
        weights: The file its initializers lie in; shared by graphs of one precision. None where they are inside.
        inputs: Tensors it reads.
        outputs: Tensors it writes.
        flops: Floating-point operations of one run: two for each multiply-add of its matrix products.
        nbytes_moved: Bytes of inputs, outputs and weights of one run: what a roofline counts.
        cache_copies: Nodes that copy the cache; empty is the aim.
        quantised: The 8 bit type of its linears; None where they are floating point.
    """

    file: Artifact
    weights: Artifact | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    flops: int
    nbytes_moved: int
    cache_copies: tuple[CacheCopy, ...] = ()
    quantised: Literal["int8", "fp8"] | None = None

    @property
    def has_fp8(self) -> bool:
        """Whether its linears or its cache are FP8."""
        return self.quantised == "fp8" or any(spec.dtype == "float8_e4m3fn" for spec in self.inputs)


@dataclass(frozen=True)
class Geometry:
    """Every size of the model and of its graphs; all of them are static.

    Attributes:
        layers: Transformer blocks L.
        heads: Attention heads H.
        head_size: Channels d of a head.
        tokens_per_frame: Tokens S of a latent frame.
        latent_channels: Channels c of the latent.
        latent_height: Height h of the latent.
        latent_width: Width w of the latent.
        chunk_frames: Latent frames T that one autoregressive step makes.
        slots: Capacity K of the KV cache in latent frames.
        requests: Requests R that one run of the denoise graph carries.
        rows_per_request: Transformer rows of a request: 2 with guidance (null and prompt), else 1.
        max_steps: Most denoising steps.
        positions: Kind of temporal positions.
        position_count: Rows of the temporal table.
        context: What the cross-frame attention of a noisy chunk sees; None without it.
        context_frames: P, how many latent frames that are; 0 without it.
        text_tokens: Tokens of a prompt; 0 without text.
        text_width: Width of the text embeddings; 0 without text.
        learned_variance: Whether the model predicts the variance too.
        stochastic: Whether the denoise graph takes noise.
    """

    layers: int
    heads: int
    head_size: int
    tokens_per_frame: int
    latent_channels: int
    latent_height: int
    latent_width: int
    chunk_frames: int
    slots: int
    requests: int
    rows_per_request: int
    max_steps: int
    positions: Literal["cyclic", "rope", "absolute"]
    position_count: int
    context: Literal["previous", "first"] | None
    context_frames: int
    text_tokens: int
    text_width: int
    learned_variance: bool
    stochastic: bool

    def __post_init__(self) -> None:
        optional = ("context_frames", "text_tokens", "text_width")
        for name, value in vars(self).items():
            if isinstance(value, int) and not isinstance(value, bool) and value < (0 if name in optional else 1):
                raise ValueError(f"{name} must be at least {0 if name in optional else 1}, got {value}")
        if self.chunk_frames > self.slots:
            raise ValueError(f"slots must be at least chunk_frames={self.chunk_frames}, got {self.slots}")
        if self.context_frames > self.chunk_frames:
            raise ValueError(
                f"chunk_frames must be at least context_frames={self.context_frames}, got {self.chunk_frames}"
            )
        self._check_slots()

    def _check_slots(self) -> None:
        """Refuse more slots than positions: latent frames that are visible together must not share one."""
        most = self.position_count
        if self.positions == "absolute":
            if self.slots > most:  # never filled: no more latent frames than positions are ever made
                raise ValueError(
                    f"there are {most} absolute positions, and no more latent frames can be cached, "
                    f"got slots={self.slots}; use slots={most} or fewer"
                )
        elif self.slots + self.chunk_frames > most:
            fitting = most - self.chunk_frames
            remedy = f"slots={fitting}" if fitting >= self.chunk_frames else f"chunk_frames={most // 2}"
            raise ValueError(
                f"there are {most} {self.positions} positions for the latent frames of cache and chunk together, "
                f"got slots={self.slots}, chunk_frames={self.chunk_frames}; use {remedy} or fewer"
            )

    @property
    def rows(self) -> int:
        """Transformer rows B of the denoise graph."""
        return self.requests * self.rows_per_request

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a latent frame."""
        return self.latent_channels, self.latent_height, self.latent_width

    @property
    def cache_elements(self) -> int:
        """Elements of the whole KV cache: 2·L·K·B·S·C."""
        width = self.heads * self.head_size
        return 2 * self.layers * self.slots * self.rows * self.tokens_per_frame * width


@dataclass(frozen=True)
class ScheduleSpec:
    """The noise schedule the model was trained with; None stands for the schedule's own default."""

    name: Literal["linear", "cosine", "scaled_linear"] = "linear"
    train_steps: int = 1000
    beta_start: float | None = None
    beta_end: float | None = None


@dataclass(frozen=True)
class SamplerDefaults:
    """What a session takes where its caller says nothing."""

    name: str = "iddpm"
    steps: int = 50
    guidance: float = 1.0


@dataclass(frozen=True)
class Codec:
    """Two graphs between pictures and latents.

    Attributes:
        kind: "preview" for the fixed map that stands in where no VAE was exported, "vae" for a trained one.
        encode: ``pictures`` [1, 3, H, W] in -1..1 to ``latent`` [1, c, h, w].
        decode: ``latent`` [T, c, h, w] to ``pictures`` [T, 3, H, W] in -1..1.
    """

    kind: Literal["preview", "vae"]
    encode: Graph
    decode: Graph

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width of a pixel frame."""
        return self.encode.inputs[0].shape[2], self.encode.inputs[0].shape[3]


@dataclass(frozen=True)
class Calibration:
    """How the graphs of a precision were quantised.

    Attributes:
        precision: The precision.
        scales: Every scale, JSON.
        report: What was observed and chosen, JSON.
        data: The calibration set in one line.
        data_sha256: Of its files.
        picture: Quality and estimated speed over the groups kept, SVG; None where no budget was set.
    """

    precision: Precision
    scales: Artifact
    report: Artifact
    data: str
    data_sha256: str
    picture: Artifact | None = None

    def artifacts(self) -> Iterator[Artifact]:
        """Yield its files."""
        yield from (self.scales, self.report)
        if self.picture is not None:
            yield self.picture


@dataclass(frozen=True)
class Accuracy:
    """What ``vdmrt verify`` found of a precision.

    Attributes:
        precision: What was measured.
        against: What it was compared with.
        chunks: Autoregressive steps.
        seeds: Rollouts.
        passed: Whether every gate held.
        figures: The figures by name: "free-running psnr", in dB, and so on.
        graphs_sha256: Of the graphs that were measured; others say nothing about them.
        backend: What ran them, in one line; "" where that was not recorded.
    """

    precision: Precision
    against: str
    chunks: int
    seeds: int
    passed: bool
    figures: Mapping[str, float]
    graphs_sha256: str
    backend: str = ""

    def describe(self) -> str:
        """Describe it in one line."""
        told = ", ".join(f"{name} {value:.3g}" for name, value in self.figures.items())
        held = "every gate held" if self.passed else "A GATE WAS MISSED"
        ran = f", run by {self.backend}" if self.backend else ""
        over = format_count(self.chunks, "chunk")
        return f"{self.precision} against {self.against} over {over}{ran}: {told}; {held}"


@dataclass(frozen=True)
class Manifest:
    """What ``model.json`` says.

    Attributes:
        schema: Version of this format.
        family: Kind of model: "ca2vdm".
        name: The model's name, for people.
        prediction: What the network predicts.
        geometry: Every size.
        schedule: The noise schedule of its training.
        sampler: Defaults of a session.
        graphs: By precision, then by stage: "fill" and "denoise".
        codec: Between pictures and latents; None where pictures cannot be had.
        null_text: The null prompt, .npy float32 [tokens, width]; None without text.
        random_weights: Whether the weights were never trained, so that the frames mean nothing.
        provenance: Where it came from: checkpoint and its hash, versions, command.
        calibrations: How the quantised precisions were made.
        accuracy: What was measured of them.
        speeds: How fast they are beside floating point.
    """

    family: Literal["ca2vdm"]
    name: str
    prediction: Literal["epsilon", "v", "flow"]
    geometry: Geometry
    schedule: ScheduleSpec
    sampler: SamplerDefaults
    graphs: Mapping[str, Mapping[str, Graph]]
    codec: Codec | None
    null_text: Artifact | None
    random_weights: bool
    provenance: Mapping[str, str]
    calibrations: tuple[Calibration, ...] = ()
    accuracy: tuple[Accuracy, ...] = ()
    speeds: tuple[Speed, ...] = ()
    schema: int = field(default=SCHEMA)

    def artifacts(self) -> Iterator[Artifact]:
        """Yield every file that the bundle consists of, each once."""
        graphs = [graph for stages in self.graphs.values() for graph in stages.values()]
        if self.codec is not None:
            graphs += [self.codec.encode, self.codec.decode]
        files = {part.file: part for graph in graphs for part in (graph.file, graph.weights) if part is not None}
        if self.null_text is not None:
            files[self.null_text.file] = self.null_text
        files |= {part.file: part for made in self.calibrations for part in made.artifacts()}
        yield from files.values()

    def accuracy_of(self, precision: str) -> Accuracy | None:
        """Return what was measured of the graphs of a precision; None where nothing was, or other graphs were."""
        found = [one for one in self.accuracy if one.precision == precision]
        return found[0] if found and found[0].graphs_sha256 == self.graphs_sha256(precision) else None

    def speed_of(self, precision: str) -> Speed | None:
        """Return how fast the graphs of a precision were; None where they, or these, were never timed."""
        found = [one for one in self.speeds if one.precision == precision]
        return found[0] if found and found[0].graphs_sha256 == self.graphs_sha256(precision) else None

    def graphs_sha256(self, precision: str) -> str:
        """Return the hash of the graphs of a precision and of their weights."""
        parts = [
            part.sha256 for _, one in sorted(self.graphs[precision].items()) for part in (one.file, one.weights) if part
        ]
        return hashlib.sha256("".join(parts).encode()).hexdigest()
