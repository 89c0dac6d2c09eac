"""Engine folders of a bundle: ``engines/<key>`` with a ``manifest.json`` and one plan for each stage."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import EngineError
from ..precision import Precision
from ..storage.decoding import InvalidDocument, decode, encode
from ..storage.files import write_file
from .manifest import (
    ENGINE_SCHEMA,
    Check,
    EngineManifest,
    Plan,
)

if TYPE_CHECKING:
    from ..folder import Bundle
    from ..graph import Graph

__all__ = [
    "ENGINES_FOLDER",
    "ENGINE_MANIFEST",
    "LAYERS_FILE",
    "Engine",
    "list_engines",
    "open_engine",
    "record_checks",
    "stage_graphs",
]

ENGINES_FOLDER = "engines"
ENGINE_MANIFEST = "manifest.json"
LAYERS_FILE = "layers.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Engine:
    """An engine on disk.

    Attributes:
        path: Its folder.
        manifest: Its ``manifest.json``.
    """

    path: Path
    manifest: EngineManifest

    def plan(self, stage: str) -> Plan:
        """Return the plan of a stage.

        Raises:
            EngineError: The engine has none.
        """
        try:
            return self.manifest.plans[stage]
        except KeyError:
            found = ", ".join(self.manifest.plans)
            raise EngineError(f"{self.path}: has plans for {found}, none for '{stage}'; build it again") from None


def stage_graphs(bundle: Bundle, precision: Precision) -> dict[str, Graph]:
    """Return every graph that runs at a precision, by stage, including the components.

    Raises:
        BundleError: The bundle does not have that precision.
    """
    stages = dict(bundle.graphs(precision))
    return stages | {str(stage): graph for stage, graph in bundle.manifest.components.items()}


def open_engine(path: str | os.PathLike[str]) -> Engine:
    """Read and validate an engine's ``manifest.json``; its plans are checked when they are read.

    Raises:
        EngineError: The folder is not an engine, has another schema, or a field is missing or has the wrong type.
    """
    folder = Path(path)
    file = folder / ENGINE_MANIFEST
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise EngineError(f"{folder}: not an engine: it has no {ENGINE_MANIFEST}; make one with vdmrt build") from error
    except OSError as error:
        raise EngineError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise EngineError(f"{file}: is not valid JSON or is truncated: {error}; build the engine again") from error
    try:
        _check_schema(document)
        manifest = decode(EngineManifest, document, "")
        _check_files(manifest)
    except InvalidDocument as error:
        where = f"{file}: {error.field}" if error.field else str(file)
        raise EngineError(f"{where}: {error}") from error
    return Engine(folder.resolve(), manifest)


def list_engines(bundle: Bundle, backend: str | None = None) -> tuple[Engine, ...]:
    """Return the engines of a bundle, newest first. Folders that are still being written are left out.

    Args:
        bundle: The bundle that contains them.
        backend: Only engines of this backend; None for all.

    Raises:
        EngineError: A manifest is damaged.
    """
    folder = bundle.path / ENGINES_FOLDER
    opened = [open_engine(path) for path in _engine_folders(folder)]
    found = [engine for engine in opened if backend in (None, engine.manifest.backend)]
    return tuple(sorted(found, key=lambda engine: (engine.manifest.created, engine.manifest.key), reverse=True))


def record_checks(engine: Engine, checks: tuple[Check, ...], *, full: bool = False) -> Engine:
    """Write the results of checks after the build, and whether they left nothing out, into the manifest, atomically.

    Raises:
        EngineError: It cannot be written.
    """
    manifest = dataclasses.replace(engine.manifest, checks=checks, fully_checked=full)
    text = json.dumps(encode(manifest), indent=1) + "\n"
    write_file(engine.path / ENGINE_MANIFEST, text, fail=EngineError)
    return Engine(engine.path, manifest)


def _engine_folders(folder: Path) -> list[Path]:
    """Return the folders of finished engines; a folder that is being written has a name that starts with a dot."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if not path.name.startswith(".") and (path / ENGINE_MANIFEST).is_file()
    )


def _check_schema(document: object) -> None:
    found = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(found, int) or isinstance(found, bool):
        raise InvalidDocument("schema", f"wanted a number, found {found!r}; this is not an engine's manifest")
    if found != ENGINE_SCHEMA:
        raise InvalidDocument(
            "schema", f"this vdmrt reads schema {ENGINE_SCHEMA}, found {found}; build the engine again"
        )


def _check_files(manifest: EngineManifest) -> None:
    if not manifest.plans:
        raise InvalidDocument("plans", "wanted at least one plan, found none")
    if manifest.layers is not None and manifest.layers.file != LAYERS_FILE:
        raise InvalidDocument("layers.file", f"wanted {LAYERS_FILE!r}, found {manifest.layers.file!r}")
    for stage, plan in manifest.plans.items():
        for part in (plan.file, plan.weights):
            name = part.file if part else "none"
            if name != os.path.basename(name) or name in ("", ".", "..") or {"\\", "\0"} & set(name):
                where = "file" if part is plan.file else "weights"
                raise InvalidDocument(f"plans.{stage}.{where}.file", f"wanted a plain file name, found {name!r}")
        digest = plan.file.sha256
        if not _SHA256.fullmatch(digest):  # it is the name of the trust record
            raise InvalidDocument(f"plans.{stage}.file.sha256", f"wanted 64 hexadecimal digits, found {digest!r}")
