"""Engines with a kernel report: chosen in a bundle, or named by a folder or a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...bundle import ENGINE_MANIFEST, ENGINES_FOLDER, list_engines, open_bundle, open_engine
from ...errors import EngineError
from .report import has_layers, read_report

if TYPE_CHECKING:
    from ...bundle import Bundle, Engine, Precision

__all__ = ["choose_engine", "read_other"]

_BUNDLE_MANIFEST = "model.json"


def choose_engine(bundle: Bundle, key: str | None = None, precision: Precision | None = None) -> Engine:
    """Return an engine of a bundle: the one named, or else the newest that has a list of layers.

    Args:
        bundle: The bundle.
        key: Name of the engine's folder.
        precision: Only engines of this precision; None for all.

    Raises:
        EngineError: There is none.
    """
    engines = list_engines(bundle)
    if key is not None:
        found = [engine for engine in engines if engine.manifest.key == Path(key).name]
        if not found:
            there = ", ".join(engine.manifest.key for engine in engines) or "none"
            raise EngineError(f"{bundle.path}: has no engine '{key}'; its engines: {there}")
        return found[0]
    listed = [one for one in engines if has_layers(one) and precision in (None, one.manifest.precision)]
    if not listed:
        wanted = "engine" if precision is None else f"{precision} engine"
        chosen = "" if precision is None else f" --precision {precision}"
        raise EngineError(
            f"{bundle.path}: has no {wanted} that lists its kernels; build one with "
            f"vdmrt build {bundle.path}{chosen} --backend tensorrt-rtx"
        )
    return listed[0]


def read_other(path: Path, precision: Precision) -> dict[str, Any]:
    """Return the report to compare with, as JSON.

    Args:
        path: A bundle, whose newest engine of the same precision is taken, an engine's folder, or a JSON report.
        precision: Precision of the engine that is compared.

    Raises:
        BundleError: The bundle is damaged.
        EngineError: The path is none of these, or its report cannot be read.
    """
    if path.is_file():
        return _read_json(path)
    if (path / _BUNDLE_MANIFEST).is_file():
        bundle = open_bundle(path)
        return read_report(choose_engine(bundle, precision=precision), bundle).to_json()
    if (path / ENGINE_MANIFEST).is_file():
        engine = open_engine(path)
        return read_report(engine, _bundle_of(engine)).to_json()
    found = "a folder without either's manifest" if path.is_dir() else "nothing"
    raise EngineError(
        f"{path}: wanted a bundle, an engine's folder or a report of vdmrt inspect --kernels --json to compare with, "
        f"found {found}"
    )


def _bundle_of(engine: Engine) -> Bundle | None:
    folder = engine.path.parent
    is_inside = folder.name == ENGINES_FOLDER and (folder.parent / _BUNDLE_MANIFEST).is_file()
    return open_bundle(folder.parent) if is_inside else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EngineError(
            f"{path}: is no report in JSON ({error}); make one with vdmrt inspect --kernels --json"
        ) from error
    stages = document.get("stages") if isinstance(document, dict) else None
    if not isinstance(stages, dict) or not all(isinstance(stage, dict) for stage in stages.values()):
        raise EngineError(f"{path}: not a report: it has no stages; make one with vdmrt inspect --kernels --json")
    return {"engine": str(document.get("engine", path.name)), "stages": stages}
