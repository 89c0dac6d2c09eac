"""Atomic placement of engines of any backend in a bundle, by one process at a time."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from ..bundle import (
    ENGINE_MANIFEST,
    ENGINES_FOLDER,
    check_external_data,
    encode,
    engine_mismatches,
    open_engine,
    replace_folder,
    sha256_of,
    verify_engine,
)
from ..errors import BundleError, EngineError
from .claims import claim

if TYPE_CHECKING:
    from ..bundle import (
        Bundle,
        Engine,
        EngineManifest,
        Graph,
        Machine,
    )
    from .progress import Progress

__all__ = ["find_built", "place_engine", "utc_now", "verify_graphs"]

_log = logging.getLogger("vdmrt")


def find_built(bundle: Bundle, key: str, machine: Machine) -> Engine | None:
    """Return an existing engine that is complete, fits the machine, and was built by this user; None without one."""
    path = bundle.path / ENGINES_FOLDER / key
    if not (path / ENGINE_MANIFEST).is_file():
        return None
    try:
        engine = open_engine(path)
    except EngineError as error:
        _log.warning("%s; building it again", error)
        return None
    found = engine_mismatches(engine, bundle, machine)
    if found:
        return None
    try:
        verify_engine(engine)
    except EngineError as error:
        _log.warning("%s; building it again", error)
        return None
    return engine


def place_engine(
    bundle: Bundle,
    key: str,
    machine: Machine,
    build: Callable[[Path], EngineManifest],
    *,
    force: bool,
    progress: Progress,
) -> Engine:
    """Build an engine in a temporary folder, and rename it to ``engines/<key>`` when it is complete.

    Of two processes that build the same engine, one builds; the other waits and uses the result. An exception or a kill
    never leaves an incomplete engine.

    Args:
        bundle: Bundle that receives the engine.
        key: The engine's name.
        machine: Machine that it is built for.
        build: Function that writes every file but the manifest into the given folder, and returns the manifest.
        force: Whether to build an engine that exists already; ``progress`` then reports whether the plans are the same.
        progress: Called with lines of text.

    Raises:
        EngineError: The engine cannot be written.
    """
    folder = bundle.path / ENGINES_FOLDER
    with claim(folder, key, lambda: progress(f"another process builds {key}; waiting for it")) as work:
        found = None if force else find_built(bundle, key, machine)
        if found is not None:
            return found
        before = _opened(folder / key)
        manifest = build(work)
        text = json.dumps(encode(manifest), indent=1) + "\n"
        (work / ENGINE_MANIFEST).write_text(text, encoding="utf-8")
        replace_folder(work, folder / key)
    engine = open_engine(folder / key)
    if before is not None:
        progress(compare_plans(before, engine))
    return engine


def compare_plans(before: Engine, after: Engine) -> str:
    """Return in one line whether an engine that was built again is the same, byte for byte."""
    found, wanted = (
        {stage: (plan.file.sha256, plan.weights) for stage, plan in engine.manifest.plans.items()}
        for engine in (after, before)
    )
    other = [stage for stage in found if found[stage] != wanted.get(stage)]
    if not other:
        return "built again: every plan is the same, byte for byte"
    return f"built again: {', '.join(other)} differ from the older ones; the same timing cache gives the same kernels"


def verify_graphs(bundle: Bundle, graphs: Mapping[str, Graph]) -> None:
    """Check the location of weights, and the SHA-256 of every graph and its weights, which the manifest records.

    Raises:
        BundleError: A file is missing, or differs from the recorded one.
    """
    for graph in graphs.values():
        weights = bundle.locate(graph.weights).name if graph.weights else None
        check_external_data(bundle.locate(graph.file), weights)
    artifacts = {part.file: part for graph in graphs.values() for part in (graph.file, graph.weights) if part}
    for artifact in artifacts.values():
        path = bundle.locate(artifact)
        found = sha256_of(path)
        if found != artifact.sha256:
            raise BundleError(
                f"wanted SHA-256 {artifact.sha256[:16]}…, found {found[:16]}…; the file was altered: export it again",
                path=path,
            )


def utc_now() -> str:
    """Return the time for a manifest; the newest engine that fits is the one that runs."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _opened(path: Path) -> Engine | None:
    """Return the engine that is about to be replaced, or None if none can be read."""
    try:
        return open_engine(path)
    except EngineError:
        return None
