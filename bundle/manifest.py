"""What ``model.json`` says, as frozen dataclasses: the contract between all folders."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from .model import CACHE_ROLES, Geometry, ParameterNames, Role, Stage, TensorSpec
from .precision import FP8, EightBits, Precision

__all__ = [
    "SCHEMA",
    "Artifact",
    "CacheCopy",
    "Calibration",
    "Graph",
    "Manifest",
    "SamplerDefaults",
    "ScheduleSpec",
]

SCHEMA = 2


@dataclass(frozen=True)
class Artifact:
    """A file of the bundle: relative path, SHA-256 and length in bytes."""

    file: str
    sha256: str
    nbytes: int


@dataclass(frozen=True)
class CacheCopy:
    """A node that reads the KV cache and writes it elsewhere: so many bytes at each run of the graph."""

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
        quantized: The 8 bit type of its linears; None where they are floating point.
        calls: How often it calls each function of the domain ``vdmrt``, by the function's name.
    """

    file: Artifact
    weights: Artifact | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    flops: int
    nbytes_moved: int
    cache_copies: tuple[CacheCopy, ...] = ()
    quantized: EightBits | None = None
    calls: Mapping[str, int] = field(default_factory=dict)

    @property
    def has_fp8(self) -> bool:
        """Whether its linears or its cache are FP8."""
        return self.quantized == FP8 or any(spec.dtype == "float8_e4m3fn" for spec in self.inputs)

    def with_role(self, *roles: Role) -> tuple[TensorSpec, ...]:
        """Return the inputs, then the outputs, of some roles, as they are ordered in the graph."""
        return tuple(spec for spec in (*self.inputs, *self.outputs) if spec.role in roles)

    def tensor(self, role: Role, layer: int | None = None) -> TensorSpec:
        """Return the tensor of a role, and of a layer where the role has several.

        Raises:
            KeyError: The graph has none.
        """
        for spec in self.with_role(role):
            if spec.layer == layer:
                return spec
        raise KeyError(f"{self.file.file} has no tensor of role {role}" + ("" if layer is None else f", layer {layer}"))

    @property
    def cache_element_nbytes(self) -> int:
        """Bytes of one element of the KV cache."""
        spec = self.with_role(*CACHE_ROLES)[0]
        return spec.nbytes // math.prod(spec.shape)


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
class Calibration:
    """How the graphs of a precision were quantized.

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
class Manifest:
    """What ``model.json`` says.

    Attributes:
        schema: Version of this format.
        family: Kind of model, as it is registered in ``vdmrt.export.families``: "ca2vdm".
        name: The model's name, for people.
        prediction: What the network predicts.
        geometry: Every size.
        parameters: What the names of the model's parameters mean.
        schedule: The noise schedule of its training.
        sampler: Defaults of a session.
        graphs: By precision, then by stage: fill, denoise and what else depends on the precision.
        components: The graphs that every precision shares, by stage: the VAE, the text encoder.
        codec: What the VAE's stages are: "preview" for the fixed map that stands in where no VAE was exported, "vae"
            for a trained one; None where pictures cannot be had.
        null_text: The null prompt, .npy float32 [tokens, width]; None without text.
        random_weights: Whether the weights were never trained, so that the frames mean nothing.
        provenance: Where it came from: checkpoint and its hash, versions, command.
        calibrations: How the quantized precisions were made.
    """

    family: str
    name: str
    prediction: Literal["epsilon", "v", "flow"]
    geometry: Geometry
    parameters: ParameterNames
    schedule: ScheduleSpec
    sampler: SamplerDefaults
    graphs: Mapping[Precision, Mapping[str, Graph]]
    components: Mapping[Stage, Graph]
    codec: Literal["preview", "vae"] | None
    null_text: Artifact | None
    random_weights: bool
    provenance: Mapping[str, str]
    calibrations: tuple[Calibration, ...] = ()
    schema: int = field(default=SCHEMA)

    @property
    def picture_size(self) -> tuple[int, int] | None:
        """Height and width of a pixel frame; None where pictures cannot be had."""
        if self.codec is None:
            return None
        height, width = self.components[Stage.VAE_DECODE].tensor(Role.PICTURES).shape[2:]
        return height, width

    def artifacts(self) -> Iterator[Artifact]:
        """Yield every file that the bundle consists of, each once."""
        graphs = [graph for stages in self.graphs.values() for graph in stages.values()]
        graphs += self.components.values()
        files = {part.file: part for graph in graphs for part in (graph.file, graph.weights) if part is not None}
        if self.null_text is not None:
            files[self.null_text.file] = self.null_text
        files |= {part.file: part for made in self.calibrations for part in made.artifacts()}
        yield from files.values()

    def graphs_sha256(self, precision: Precision) -> str:
        """Return the hash of the graphs of a precision and of their weights."""
        parts = [
            part.sha256 for _, one in sorted(self.graphs[precision].items()) for part in (one.file, one.weights) if part
        ]
        return hashlib.sha256("".join(parts).encode()).hexdigest()
