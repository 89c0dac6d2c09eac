"""Options of an export, and the geometry that follows from them, checked without torch before weights are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..bundle import EXPORTED, FP32, ScheduleSpec
from .families import find_family

if TYPE_CHECKING:
    from ..bundle import Geometry, Precision, SamplerDefaults
    from .families.family import Architecture

__all__ = ["LARGEST_REQUESTS", "ExportOptions", "ExportRequest", "make_geometry"]

# Requests × (steps + 1) rows of the sampler's table are indexed by int32.
LARGEST_REQUESTS = 2**16


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export; all are static in the graphs.

    Attributes:
        precisions: Types of the blocks' weights and of the cache; each has its own pair of graphs.
        chunk_frames: Latent frames T of one autoregressive step.
        slots: Capacity K of the cache in latent frames.
        requests: Requests R in one run of the denoise graph.
        max_steps: Maximum number of denoising steps.
        guidance: Whether a model with text gets null rows for classifier-free guidance.
        stochastic: Whether the denoise graph has a noise input; otherwise only deterministic samplers can be used.
        prediction: What the network predicts.
        schedule: The noise schedule that it was trained with.
        sampler: Default sampler of a session.
    """

    precisions: tuple[Precision, ...] = (FP32,)
    chunk_frames: int = 8
    slots: int = 25
    requests: int = 1
    max_steps: int = 100
    guidance: bool = True
    stochastic: bool = True
    prediction: Literal["epsilon", "v", "flow"] = "epsilon"
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    sampler: SamplerDefaults | None = None

    def __post_init__(self) -> None:
        """Check the options that do not depend on the model.

        Raises:
            ValueError: An option is out of range.
        """
        if not self.precisions or set(self.precisions) - set(EXPORTED):
            known = " or ".join(map(str, EXPORTED))
            raise ValueError(f"precisions must be {known} or both, got {list(self.precisions)}")
        if self.slots < 1:
            raise ValueError(f"slots must be at least 1, got {self.slots}")
        _check_range("requests", self.requests, LARGEST_REQUESTS)
        _check_range("max_steps", self.max_steps, self.schedule.train_steps)
        if self.sampler is not None and self.sampler.steps > self.max_steps:
            raise ValueError(
                f"max_steps must be at least the default of sampler {self.sampler.name!r}, "
                f"{self.sampler.steps} steps, got {self.max_steps}"
            )


@dataclass(frozen=True, kw_only=True)
class ExportRequest(ExportOptions):
    """What to export, and where to. What the graphs are made for is inherited.

    Attributes:
        config: A preset's name, or a JSON or YAML file of constructor arguments.
        output: The bundle's folder.
        checkpoint: A file, a sharded index or a folder of them; None for random weights.
        random_init: Seed of random weights, instead of a checkpoint.
        weights: Set of weights of a checkpoint with several; None takes the EMA weights, if any.
        latent_size: Height and width of the latent; None takes the configuration's.
        name: The model's name; None takes that of the configuration.
        force: Whether an existing bundle is replaced.
    """

    config: str
    output: Path
    checkpoint: Path | None = None
    random_init: int | None = None
    weights: str | None = None
    latent_size: tuple[int, int] | None = None
    name: str | None = None
    force: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.checkpoint is None) == (self.random_init is None):
            raise ValueError("give either CHECKPOINT or --random-init SEED")
        if self.checkpoint is None and self.weights is not None:
            raise ValueError("--weights selects a set of CHECKPOINT; omit it with --random-init")


def make_geometry(config: Architecture, options: ExportOptions) -> Geometry:
    """Return all sizes of the graphs for an architecture and options.

    Raises:
        ValueError: The options do not fit the architecture.
    """
    return find_family(config.family).make_geometry(config, options)


def _check_range(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise ValueError(f"{name} must be at least 1 and at most {most}, got {value}")
