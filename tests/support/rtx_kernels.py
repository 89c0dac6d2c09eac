"""Plans of one stage that TensorRT for RTX builds for no target, without a GPU."""

from __future__ import annotations

from pathlib import Path

from vdmrt.bundle import Bundle, stage_graphs
from vdmrt.engines import Layer, find_source, lower_graphs, read_layers
from vdmrt.engines.tensorrt.job import BuildJob
from vdmrt.engines.tensorrt.lowering import RTX, GraphSource
from vdmrt.engines.tensorrt.options import BuildOptions
from vdmrt.engines.tensorrt.plans import BuiltPlan, build_plan
from vdmrt.hosts.tensorrt.rtx import open_tensorrt_rtx

__all__ = ["build_source", "build_stage", "kernels_of", "lower"]


def lower(bundle: Bundle, stage: str) -> tuple[BuildJob, GraphSource]:
    """Lower the graphs of a bundle's only precision; return the job and the source of a stage."""
    (precision,) = bundle.manifest.graphs
    graphs = stage_graphs(bundle, precision)
    lower_graphs(bundle, precision, release=RTX)
    job = BuildJob(open_tensorrt_rtx(), precision, graphs, BuildOptions(), lambda line: None)
    return job, find_source(bundle, graphs[stage], RTX)


def build_source(job: BuildJob, stage: str, source: GraphSource, folder: Path) -> BuiltPlan:
    """Build a stage's plan into a folder."""
    return build_plan(job, stage, source, b"", folder / f"{stage}.plan")


def build_stage(bundle: Bundle, stage: str, folder: Path) -> BuiltPlan:
    """Build the plan of a stage of a bundle's only precision into a folder."""
    job, source = lower(bundle, stage)
    return build_source(job, stage, source, folder)


def kernels_of(plan: BuiltPlan) -> list[Layer]:
    """Return the kernels of a plan; waits between streams are none."""
    return [layer for layer in read_layers(plan.inspection) if not layer.is_idle]
