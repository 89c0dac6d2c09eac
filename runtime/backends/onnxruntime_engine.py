"""An ONNX Runtime engine of a bundle: found, held against this machine, and read with every hash checked."""

from __future__ import annotations

import logging

from ...bundle import (
    Bundle,
    Engine,
    Graph,
    Machine,
    Precision,
    check_external_data,
    find_engine,
    list_engines,
    precision_candidates,
    read_plan,
    verify_engine_weights,
)
from ...errors import EngineError

__all__ = ["EngineGraphs", "find_engine_graphs"]

_log = logging.getLogger("vdmrt")


def find_engine_graphs(
    bundle: Bundle, precision: Precision | None, machine: Machine, *, verify: bool = True
) -> EngineGraphs | None:
    """Return the newest engine that fits, None where the bundle has none; one that does not fit is warned of.

    Args:
        bundle: Where engines lie.
        precision: Of the graphs; None takes the first candidate that has an engine.
        machine: What engines must have been built for.
        verify: Whether the SHA-256 of the engine's weights is checked; lengths and graphs always are.

    Raises:
        BundleError: The bundle does not have that precision.
    """
    candidates = precision_candidates(bundle, precision, "onnxruntime")
    try:
        if not any(engine.manifest.precision in candidates for engine in list_engines(bundle, machine.backend)):
            return None
        return EngineGraphs(bundle, find_engine(bundle, precision, machine), verify=verify)
    except EngineError as error:
        _log.warning("running the graphs as they were exported, not an engine: %s", error)
        return None


class EngineGraphs:
    """The optimised graphs of an engine.

    Attributes:
        engine: Where they come from.
    """

    def __init__(self, bundle: Bundle, engine: Engine, *, verify: bool = True) -> None:
        self.engine = engine
        self._bundle = bundle
        self._verify = verify

    @property
    def key(self) -> str:
        """The engine's name."""
        return self.engine.manifest.key

    @property
    def precision(self) -> Precision:
        """Of its graphs."""
        return self.engine.manifest.precision

    def read(self, bundle: Bundle, stage: str, graph: Graph) -> bytes | None:
        """Return the optimised graph of a stage; None where it was made of another graph than this.

        Its weights lie in files relative to the bundle's folder: the bundle's own, and one of the engine.

        Raises:
            BundleError: It wants weights from elsewhere, or the bundle's are missing.
            EngineError: It or the engine's weights are missing, truncated or altered.
        """
        plan = self.engine.manifest.plans.get(stage)
        if bundle.path != self._bundle.path or plan is None or plan.graph_sha256 != graph.file.sha256:
            return None
        data = read_plan(self.engine, stage)
        allowed: list[str] = []
        if graph.weights is not None:
            bundle.locate(graph.weights)
            allowed.append(graph.weights.file)
        if plan.weights is not None:
            verify_engine_weights(self.engine, stage, hashed=self._verify)
            self._verify = False  # once: the stages share it
            allowed.append(f"{self.engine.path.relative_to(bundle.path).as_posix()}/{plan.weights.file}")
        check_external_data(self.engine.path / plan.file.file, *allowed, data=data)
        return data
