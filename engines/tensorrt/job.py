"""A TensorRT build job: precision, graphs, release and options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..keys import engine_key
from .lowering import LOWERING
from .network import CONSTRAINTS

if TYPE_CHECKING:
    from ...bundle import Graph, Precision
    from ...hosts.tensorrt.library import TensorRtLibrary
    from ..progress import Progress
    from .options import BuildOptions

__all__ = ["BuildJob", "describe_options"]


@dataclass(frozen=True)
class BuildJob:
    """One build of every stage of a precision.

    Attributes:
        tensorrt: The release, opened for a GPU.
        precision: Precision of the graphs.
        graphs: Graphs by stage.
        options: Options of the build.
        progress: Called with lines of text, from any thread.
    """

    tensorrt: TensorRtLibrary
    precision: Precision
    graphs: Mapping[str, Graph]
    options: BuildOptions
    progress: Progress

    @property
    def key(self) -> str:
        """Name of the engine's folder."""
        described = describe_options(self.options, self.tensorrt)
        return engine_key(self.precision, self.graphs, self.tensorrt.machine, described)


def describe_options(options: BuildOptions, tensorrt: TensorRtLibrary) -> dict[str, str]:
    """Return the options that affect the plans, as text for the manifest and the key."""
    constraints = {} if tensorrt.strongly_typed else {"constraints": str(CONSTRAINTS)}
    return {**options.to_manifest(), **constraints, "lowering": str(LOWERING)}
