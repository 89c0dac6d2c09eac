"""The kernel report of an engine, read from the list of layers in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...bundle import BACKENDS, CACHE_ROLES, LAYERS_FILE, Stage, find_blocks, read_layers_file, stage_graphs
from ...errors import EngineError
from ..tensorrt.layers import read_layers
from .card import CARD
from .kernel import make_kernels
from .stage import StageReport

if TYPE_CHECKING:
    from ...bundle import Bundle, Engine, Plan
    from ..tensorrt.layers import Layer

__all__ = ["KernelReport", "has_layers", "read_report"]


@dataclass(frozen=True)
class KernelReport:
    """What the compiler made of an engine's graphs.

    Attributes:
        engine: The engine's key.
        title: Library, precision and targets, in words.
        stages: Reports by stage.
        precision: Precision of the graphs.
        targets: Compute capabilities that the plans are for; none for portable plans, and for TensorRT.
    """

    engine: str
    title: str
    stages: Mapping[str, StageReport]
    precision: str = ""
    targets: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the report, ready for JSON."""
        stages = {stage: report.to_json() for stage, report in self.stages.items()}
        about = {"engine": self.engine, "precision": self.precision, "targets": list(self.targets)}
        return {**about, "roofline": CARD.describe(), "stages": stages}


def has_layers(engine: Engine) -> bool:
    """Whether an engine's folder contains the list of its layers."""
    return engine.manifest.layers is not None and (engine.path / LAYERS_FILE).is_file()


def read_report(engine: Engine, bundle: Bundle | None) -> KernelReport:
    """Return the report of an engine.

    Args:
        engine: An engine of TensorRT or TensorRT for RTX.
        bundle: The bundle that it was built from; without it, the blocks of the kernels are unknown.

    Raises:
        BundleError: A graph of the bundle is missing.
        EngineError: The engine is one of ONNX Runtime, or its list of layers is missing or damaged.
    """
    manifest = engine.manifest
    layers = _read_layers(engine)
    stages = {stage: _report_stage(engine, stage, layers[stage], bundle) for stage in manifest.plans}
    title = f"{BACKENDS[manifest.backend].title} {manifest.machine.release}, {manifest.precision}"
    if manifest.targets:
        title += f", for {', '.join(manifest.targets)}"
    return KernelReport(manifest.key, title, stages, str(manifest.precision), manifest.targets)


def _read_layers(engine: Engine) -> dict[str, tuple[Layer, ...]]:
    """Return the layers of every stage."""
    backend = BACKENDS[engine.manifest.backend]
    if not backend.is_native:
        raise EngineError(
            f"{engine.path}: an engine of {backend.title} lists no kernels; name one of TensorRT or TensorRT for "
            "RTX, or build one with vdmrt build --backend tensorrt-rtx"
        )
    file = engine.path / LAYERS_FILE
    try:
        document = json.loads(read_layers_file(engine))
    except (ValueError, RecursionError) as error:
        raise EngineError(f"{file}: cannot be read: {error}; build the engine again with --force") from error
    if not isinstance(document, dict):
        raise EngineError(
            f"{file}: wanted the layers of each stage, found {type(document).__name__}; build the engine again with "
            "--force"
        )
    return {stage: _layers_of(engine, stage, document.get(stage)) for stage in engine.manifest.plans}


def _layers_of(engine: Engine, stage: str, document: object) -> tuple[Layer, ...]:
    """Return the layers of one stage; an inspector's output that was no JSON is kept as text."""
    where = f"{engine.path / LAYERS_FILE}: {stage}"
    try:
        layers = read_layers(document if isinstance(document, str) else json.dumps(document))
    except EngineError as error:
        raise EngineError(f"{where}: lists no readable layers; build the engine again with --force") from error
    if not any(layer.inputs or layer.outputs for layer in layers):
        raise EngineError(
            f"{where}: lists {len(layers)} layers without their tensors; build the engine again with --force"
        )
    return layers


def _report_stage(engine: Engine, stage: str, layers: tuple[Layer, ...], bundle: Bundle | None) -> StageReport:
    manifest = engine.manifest
    plan = manifest.plans[stage]
    graph, blocks = _find_graph(engine, stage, plan, bundle)
    cache = {spec.name for spec in plan.inputs if spec.role in CACHE_ROLES}
    return StageReport(
        graph=graph,
        library=manifest.backend.replace("-", "_"),
        release=manifest.machine.release,
        kernels=make_kernels(layers, blocks or {}, cache),
        has_blocks=blocks is not None,
        build_seconds=plan.build_seconds,
        plan_nbytes=plan.file.nbytes,
        audit=plan.audit,
    )


def _find_graph(engine: Engine, stage: str, plan: Plan, bundle: Bundle | None) -> tuple[str, Mapping[str, int] | None]:
    """Return the name of the graph that a plan was built from, and the blocks of its nodes, None where unknown."""
    precision = engine.manifest.precision
    graphs = stage_graphs(bundle, precision) if bundle and precision in bundle.manifest.graphs else {}
    graph = graphs.get(stage)
    if bundle is None or graph is None or graph.file.sha256 != plan.graph_sha256:
        return f"sha256 {plan.graph_sha256[:16]}", None
    is_transformer = stage in (Stage.FILL, Stage.DENOISE)
    return graph.file.file, find_blocks(bundle, graph) if is_transformer else None
