"""The bundle manifest ``model.json`` as frozen dataclasses: the contract between all folders."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .artifact import Artifact
from .graph import Graph
from .model import Geometry, ParameterNames, Role, Stage
from .precision import Precision
from .storage.decoding import InvalidDocument

__all__ = [
    "SCHEMA",
    "Calibration",
    "Manifest",
    "SamplerDefaults",
    "ScheduleSpec",
    "check_schema",
]

SCHEMA = 2


@dataclass(frozen=True)
class ScheduleSpec:
    """The noise schedule the model was trained with; None selects the schedule's default."""

    name: Literal["linear", "cosine", "scaled_linear"] = "linear"
    train_steps: int = 1000
    beta_start: float | None = None
    beta_end: float | None = None


@dataclass(frozen=True)
class SamplerDefaults:
    """Default sampler settings of a session."""

    name: str = "iddpm"
    steps: int = 50
    guidance: float = 1.0


@dataclass(frozen=True)
class Calibration:
    """How the graphs of a precision were quantized.

    Attributes:
        precision: The precision.
        scales: All scales, JSON.
        report: Observed ranges and chosen scales, JSON.
        data: The calibration set in one line.
        data_sha256: SHA-256 of its files.
        picture: Chart of quality and estimated speed over the kept groups, SVG; None where no budget was set.
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
    """The content of ``model.json``.

    Attributes:
        schema: Version of this format.
        family: Model family, as registered in ``vdmrt.export.families``: "ca2vdm".
        name: The model's name, for people.
        prediction: What the network predicts.
        geometry: Every size.
        parameters: Roles of the model's parameters, by name.
        schedule: The noise schedule of its training.
        sampler: Defaults of a session.
        graphs: By precision, then by stage: fill, denoise and what else depends on the precision.
        components: The graphs that every precision shares, by stage: the VAE, the text encoder.
        codec: "vae" for a trained VAE, "preview" for the fixed map that replaces it where no VAE was exported; None
            without pictures.
        null_text: The null prompt, .npy float32 [tokens, width]; None without text.
        random_weights: Whether the weights are untrained, so that the frames are noise.
        provenance: Its origin: checkpoint and hash, versions, command.
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
        """Height and width of a pixel frame; None without a codec."""
        if self.codec is None:
            return None
        height, width = self.components[Stage.VAE_DECODE].tensor(Role.PICTURES).shape[2:]
        return height, width

    def artifacts(self) -> Iterator[Artifact]:
        """Yield every file of the bundle, each once."""
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


def check_schema(document: Any) -> None:
    """Check the document's schema version before anything else in it is read."""
    found = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(found, int) or isinstance(found, bool):
        raise InvalidDocument("schema", f"wanted a number, found {found!r}; this is not a model.json of vdmrt")
    if found > SCHEMA:
        raise InvalidDocument("schema", f"this vdmrt reads schema {SCHEMA}, found {found}; install a newer vdmrt")
    if found < SCHEMA:
        raise InvalidDocument("schema", f"this vdmrt reads schema {SCHEMA}, found {found}; {_remedy(document)}")


def _remedy(document: Mapping[str, Any]) -> str:
    """Return how to export the bundle again: the command that made it, where the document names it."""
    provenance = document.get("provenance")
    command = provenance.get("command") if isinstance(provenance, dict) else None
    if not isinstance(command, str):
        return "export the model again"
    return f"export the model again; the bundle names this command: {command}"
