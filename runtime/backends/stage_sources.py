"""Reading of a bundle's stages for a backend, with checks of hashes, weights' paths and trust."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...bundle import (
    BACKENDS,
    PROVIDERS,
    Stage,
    check_external_data,
    read_plan,
    stage_graphs,
    verify_engine_weights,
)
from .stage_source import BuiltStage, StageSource

if TYPE_CHECKING:
    from ...bundle import (
        Bundle,
        Engine,
        Graph,
        Precision,
    )

__all__ = ["StageSources"]


class StageSources:
    """The stages of a bundle at one precision, from an engine or as exported; each is checked when read."""

    __slots__ = ("_bundle", "_engine", "_graphs", "_precision", "_trust_plans", "_verified")

    def __init__(
        self,
        bundle: Bundle,
        precision: Precision,
        engine: Engine | None = None,
        *,
        trust_plans: bool = False,
        verify: bool = True,
    ) -> None:
        """Store a bundle and an optional engine of it; no file is read yet.

        Args:
            bundle: Bundle of the graphs.
            precision: Precision of the graphs.
            engine: Engine of that precision; None runs the exported graphs.
            trust_plans: Whether to read plans that this user has no record of building.
            verify: Whether to check the SHA-256 of an engine's weights. Lengths, plans and graphs are always checked.

        Raises:
            BundleError: The bundle lacks the precision.
        """
        self._bundle, self._precision, self._engine = bundle, precision, engine
        self._graphs = stage_graphs(bundle, precision)
        self._trust_plans = trust_plans
        self._verified = not verify

    @property
    def engine(self) -> Engine | None:
        """Engine of the stages, or None."""
        return self._engine

    def read(self, stage: str) -> StageSource:
        """Return a checked stage; an engine's file is read completely.

        Raises:
            BundleError: A file is missing, or its weights are outside the bundle's files.
            EngineError: A file of the engine is missing, truncated, altered or untrusted.
            ValueError: The engine was built from another graph.
        """
        graph = self._graphs[stage]
        built = None if self._engine is None else self._read_built(self._engine, stage, graph)
        if built is None or built.stripped:
            self._check_exported(graph)
        file = self._bundle.path / graph.file.file
        return StageSource(stage=Stage(stage), precision=self._precision, graph=graph, file=file, built=built)

    def _check_exported(self, graph: Graph) -> None:
        weights = self._bundle.locate(graph.weights).name if graph.weights else None
        check_external_data(self._bundle.locate(graph.file), weights)

    def _read_built(self, engine: Engine, stage: str, graph: Graph) -> BuiltStage:
        manifest, plan = engine.manifest, engine.plan(stage)
        if plan.graph_sha256 != graph.file.sha256:
            raise ValueError(f"{engine.path}: wanted the graph of '{stage}' that it was built from, got another")
        data = read_plan(engine, stage, trust_plans=self._trust_plans)
        file = engine.path / plan.file.file
        if not BACKENDS[manifest.backend].is_native:
            self._check_weights(engine, stage, graph, file, data)
        return BuiltStage(
            key=manifest.key,
            file=file,
            data=data,
            sha256=plan.file.sha256,
            release=manifest.machine.release,
            stripped=manifest.stripped,
            is_optimized=manifest.machine.provider != PROVIDERS["cuda"],
            weights_folder=self._bundle.path,
        )

    def _check_weights(self, engine: Engine, stage: str, graph: Graph, file: Path, data: bytes) -> None:
        """Check that an optimized graph's weights are in the bundle's or the engine's weights file."""
        allowed = []
        if graph.weights is not None:
            self._bundle.locate(graph.weights)
            allowed.append(graph.weights.file)
        weights = engine.plan(stage).weights
        if weights is not None:
            verify_engine_weights(engine, stage, hashed=not self._verified)
            self._verified = True  # once: the stages share the file
            allowed.append(f"{engine.path.relative_to(self._bundle.path).as_posix()}/{weights.file}")
        check_external_data(file, *allowed, data=data)
