"""Engines inside a bundle: what was built, for which machine, and whether it fits the one at hand.

An engine is a folder ``engines/<key>`` with a ``manifest.json`` and one plan for each stage. This module reads engines
and refuses those that do not fit, before any byte of a plan reaches TensorRT; it builds none and knows no GPU.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..errors import BundleError, EngineError
from .decoding import InvalidDocument, decode
from .folder import Bundle
from .manifest import Artifact, Graph, Precision, TensorSpec
from .trust import is_trusted

__all__ = [
    "ENGINES_FOLDER",
    "ENGINE_MANIFEST",
    "ENGINE_SCHEMA",
    "Check",
    "Engine",
    "EngineManifest",
    "LayerCopy",
    "Machine",
    "Plan",
    "PlanAudit",
    "check_engine",
    "engine_mismatches",
    "find_engine",
    "list_engines",
    "open_engine",
    "read_plan",
    "rebuild_command",
    "record_checks",
    "stage_graphs",
]

ENGINE_SCHEMA = 1
ENGINES_FOLDER = "engines"
ENGINE_MANIFEST = "manifest.json"
# Which major release reads the version-compatible plans of which: the step from 8 to 11 is not promised.
_READERS = {8: (8, 10), 10: (10, 11), 11: (11,)}
_AMPERE = (8, 0)


@dataclass(frozen=True)
class Machine:
    """What a plan is bound to.

    Attributes:
        tensorrt: TensorRT's version, as "10.3.0".
        compute_capability: The GPU's, as "9.0".
        gpu: The GPU's name.
        cuda: The newest CUDA that the driver runs, as "13.0"; recorded, never compared.
        driver: The driver's version, as "580.65.06", or "" where it is not known; recorded, never compared.
    """

    tensorrt: str
    compute_capability: str
    gpu: str
    cuda: str = ""
    driver: str = ""


@dataclass(frozen=True)
class LayerCopy:
    """A layer of a built plan that only moves a cached tensor: so many bytes at each run."""

    layer: str
    kind: str
    tensor: str
    nbytes: int


@dataclass(frozen=True)
class PlanAudit:
    """What the engine inspector says of a plan.

    Attributes:
        layers: How many there are.
        precisions: Layers by the type of their first output.
        products: Layers that multiply matrices, by the type they run in.
        unknown_products: Layers that multiply matrices and whose type the inspector does not say.
        cache_copies: Layers that only move ``past_*``.
    """

    layers: int
    precisions: Mapping[str, int]
    products: Mapping[str, int]
    unknown_products: int = 0
    cache_copies: tuple[LayerCopy, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A built stage.

    Attributes:
        file: The plan, relative to the engine's folder.
        graph_sha256: Of the bundle's graph that it was built from.
        weights_sha256: Of the weights beside that graph, or None where it has none.
        inputs: Tensors that it reads.
        outputs: Tensors that it writes.
        scratch_nbytes: Device memory that each execution context needs.
        build_seconds: How long the builder took.
        audit: What its layers run in; None where nothing said it.
    """

    file: Artifact
    graph_sha256: str
    weights_sha256: str | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    scratch_nbytes: int
    build_seconds: float
    audit: PlanAudit | None = None


@dataclass(frozen=True)
class Check:
    """A check that ran after the build.

    Attributes:
        name: As "agrees".
        passed: Whether it held.
        detail: What was measured against what, for people.
        required: Whether an engine that fails it is never run; else it is only said.
    """

    name: str
    passed: bool
    detail: str
    required: bool = True


@dataclass(frozen=True)
class EngineManifest:
    """What an engine's ``manifest.json`` says.

    Attributes:
        key: The engine's name: everything that would make another plan stands in it, as text or as a hash.
        backend: What built it and runs it.
        precision: Of the graphs: "fp32" or "fp16".
        machine: What it was built on.
        plans: By stage: "fill", "denoise" and, with a codec, "vae_encode" and "vae_decode".
        options: Of the build, for people.
        hardware_compatibility: On which other GPUs it runs.
        version_compatible: Whether the next major TensorRT may run it.
        stripped: Whether the plans hold no weights and need a refit before they run.
        schema: Version of this format.
        created: When, in UTC.
        checks: What ran after the build.
    """

    key: str
    backend: Literal["tensorrt"]
    precision: Precision
    machine: Machine
    plans: Mapping[str, Plan]
    options: Mapping[str, str]
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = "none"
    version_compatible: bool = False
    stripped: bool = False
    schema: int = field(default=ENGINE_SCHEMA)
    created: str = ""
    checks: tuple[Check, ...] = ()


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


def stage_graphs(bundle: Bundle, precision: str | None) -> tuple[str, dict[str, Graph]]:
    """Return a precision and every graph that is run at it, by stage, the codec's included.

    Raises:
        BundleError: The bundle has not that precision.
    """
    chosen, graphs = bundle.graphs(precision)
    stages = dict(graphs)
    if bundle.manifest.codec is not None:
        stages["vae_encode"] = bundle.manifest.codec.encode
        stages["vae_decode"] = bundle.manifest.codec.decode
    return chosen, stages


def open_engine(path: str | os.PathLike[str]) -> Engine:
    """Read and validate an engine's ``manifest.json``; its plans are checked when they are read.

    Raises:
        EngineError: It is no engine, is of another schema, or something in it is missing or of the wrong kind.
    """
    folder = Path(path)
    file = folder / ENGINE_MANIFEST
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise EngineError(f"{folder}: no engine: it holds no {ENGINE_MANIFEST}; make one with vdmrt build") from error
    except OSError as error:
        raise EngineError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise EngineError(f"{file}: is no JSON or is cut short: {error}; build the engine again") from error
    try:
        _check_schema(document)
        manifest = decode(EngineManifest, document, "")
        _check_files(manifest)
    except InvalidDocument as error:
        where = f"{file}: {error.field}" if error.field else str(file)
        raise EngineError(f"{where}: {error}") from error
    return Engine(folder.resolve(), manifest)


def list_engines(bundle: Bundle) -> tuple[Engine, ...]:
    """Return every engine of a bundle, the newest first. Folders that are still being written are not engines.

    Raises:
        EngineError: A manifest is damaged.
    """
    folder = bundle.path / ENGINES_FOLDER
    found = [open_engine(path) for path in _engine_folders(folder)]
    return tuple(sorted(found, key=lambda engine: (engine.manifest.created, engine.manifest.key), reverse=True))


def find_engine(bundle: Bundle, precision: str | None, machine: Machine) -> Engine:
    """Return the newest engine of a bundle that fits its graphs and this machine.

    Raises:
        BundleError: The bundle has not that precision.
        EngineError: There is none; says what each engine of that precision was built for.
    """
    chosen, _ = bundle.graphs(precision)
    others = []
    for engine in list_engines(bundle):
        if engine.manifest.precision != chosen:
            continue
        found = engine_mismatches(engine, bundle, machine)
        if not found:
            return engine
        others.append(f"{engine.manifest.key}: {'; '.join(found)}")
    command = rebuild_command(bundle, chosen)
    if not others:
        raise EngineError(f"{bundle.path}: has no {chosen} engine; build one with {command}")
    raise EngineError(f"{bundle.path}: no {chosen} engine fits; build one with {command}. " + " | ".join(others))


def engine_mismatches(engine: Engine, bundle: Bundle, machine: Machine) -> tuple[str, ...]:
    """Say in what an engine differs from the bundle's graphs and from this machine; nothing where it fits.

    Each sentence names both sides: what the engine was built for, then what is here. An engine that failed a check
    after it was built fits nothing.
    """
    manifest = engine.manifest
    return tuple(
        [
            *_machine_mismatches(manifest, machine),
            *_graph_mismatches(manifest, bundle),
            *_failed_checks(manifest),
        ]
    )


def check_engine(engine: Engine, bundle: Bundle, machine: Machine) -> None:
    """Refuse an engine that does not fit.

    Raises:
        EngineError: Names each mismatch with both sides, and the command that rebuilds.
    """
    found = engine_mismatches(engine, bundle, machine)
    if found:
        command = rebuild_command(bundle, engine.manifest.precision)
        raise EngineError(f"{engine.path}: {'; '.join(found)}; build it again with {command}")


def read_plan(engine: Engine, stage: str, *, trust_plans: bool = False) -> bytes:
    """Read a plan whole, and return it only if it is the one that was recorded and this user built it.

    A plan is native code. The bytes that are returned are the bytes that were hashed.

    Args:
        engine: Where it lies.
        stage: Which one.
        trust_plans: Whether to take plans that this user's own cache has not recorded building.

    Raises:
        EngineError: It is missing, truncated, altered or foreign.
    """
    plan = engine.plan(stage)
    path = engine.path / plan.file.file
    if path.is_symlink():
        raise EngineError(f"{path}: is a link; an engine holds regular files only")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path}: cannot be read: {error.strerror}; build the engine again") from error
    if len(data) != plan.file.nbytes:
        raise EngineError(
            f"{path}: wanted {plan.file.nbytes} bytes, found {len(data)}; the plan is truncated or was altered: "
            "build the engine again"
        )
    digest = hashlib.sha256(data).hexdigest()
    if digest != plan.file.sha256:
        raise EngineError(
            f"{path}: wanted SHA-256 {plan.file.sha256[:16]}…, found {digest[:16]}…; the plan was altered: "
            "build the engine again"
        )
    if not trust_plans and not is_trusted(digest):
        raise EngineError(
            f"{path}: a plan is native code, and this user has no record of building this one; build it here with "
            "vdmrt build, or, if you trust where it comes from, pass trust_plans=True (--trust-plans)"
        )
    return data


def record_checks(engine: Engine, checks: tuple[Check, ...]) -> Engine:
    """Write what checks after the build found into the manifest, whole or not at all.

    Raises:
        EngineError: It cannot be written.
    """
    manifest = dataclasses.replace(engine.manifest, checks=checks)
    file = engine.path / ENGINE_MANIFEST
    try:
        handle, name = tempfile.mkstemp(prefix=f".{ENGINE_MANIFEST}.", dir=engine.path)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as out:
                out.write(json.dumps(dataclasses.asdict(manifest), indent=1) + "\n")
            os.chmod(name, 0o644)
            os.replace(name, file)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise EngineError(f"{file}: cannot be written: {error.strerror}") from error
    return Engine(engine.path, manifest)


def rebuild_command(bundle: Bundle, precision: str) -> str:
    """Return the command that builds an engine of a bundle for the machine it runs on."""
    return f"vdmrt build {bundle.path} --precision {precision}"


def _machine_mismatches(manifest: EngineManifest, machine: Machine) -> Iterator[str]:
    built = manifest.machine
    if built.tensorrt != machine.tensorrt and not _reads(manifest, machine.tensorrt):
        yield f"built with TensorRT {built.tensorrt}, here is {machine.tensorrt}"
    level = manifest.hardware_compatibility
    if level == "ampere_plus" and _capability(machine) >= _AMPERE:
        return
    if built.compute_capability != machine.compute_capability:
        yield f"built for compute capability {built.compute_capability}, here is {machine.compute_capability}"
    elif built.gpu != machine.gpu and level != "same_compute_capability":
        yield f"built on {built.gpu}, here is {machine.gpu}"


def _reads(manifest: EngineManifest, version: str) -> bool:
    """Whether TensorRT ``version`` takes the version-compatible plans of the one that built this."""
    if not manifest.version_compatible:
        return False
    built, here = _version(manifest.machine.tensorrt), _version(version)
    return here[:1] != () and here[0] in _READERS.get(built[0] if built else 0, ()) and here >= built


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def _capability(machine: Machine) -> tuple[int, ...]:
    return _version(machine.compute_capability)


def _graph_mismatches(manifest: EngineManifest, bundle: Bundle) -> Iterator[str]:
    try:
        _, graphs = stage_graphs(bundle, manifest.precision)
    except BundleError:
        yield f"built from {manifest.precision} graphs, the bundle has {', '.join(bundle.manifest.graphs)}"
        return
    for stage, graph in graphs.items():
        plan = manifest.plans.get(stage)
        if plan is None:
            yield f"has no plan for '{stage}', which the bundle has"
            continue
        weights = graph.weights.sha256 if graph.weights else None
        for what, built, here in (
            ("graph", plan.graph_sha256, graph.file.sha256),
            ("weights", plan.weights_sha256 or "none", weights or "none"),
        ):
            if built != here:
                yield f"'{stage}' was built from a {what} of SHA-256 {built[:16]}, the bundle's is {here[:16]}"


def _failed_checks(manifest: EngineManifest) -> Iterator[str]:
    for check in manifest.checks:
        if check.required and not check.passed:
            yield f"failed its check '{check.name}' after it was built: {check.detail}"


def _engine_folders(folder: Path) -> list[Path]:
    """Return the finished engines' folders: what is being written has a name that starts with a dot."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if not path.name.startswith(".") and (path / ENGINE_MANIFEST).is_file()
    )


def _check_schema(document: object) -> None:
    found = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(found, int) or isinstance(found, bool):
        raise InvalidDocument("schema", f"wanted a number, found {found!r}; this is no manifest of an engine")
    if found != ENGINE_SCHEMA:
        raise InvalidDocument(
            "schema", f"this vdmrt reads schema {ENGINE_SCHEMA}, found {found}; build the engine again"
        )


def _check_files(manifest: EngineManifest) -> None:
    if not manifest.plans:
        raise InvalidDocument("plans", "wanted at least one plan, found none")
    for stage, plan in manifest.plans.items():
        name = plan.file.file
        if name != os.path.basename(name) or name in ("", ".", "..") or {"\\", "\0"} & set(name):
            raise InvalidDocument(f"plans.{stage}.file.file", f"wanted a plain file name, found {name!r}")
