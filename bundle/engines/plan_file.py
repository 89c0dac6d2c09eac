"""Reading of plans: checks the recorded length and SHA-256, and for native code that this user built it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import EngineError
from ..storage.files import sha256_of
from .backends import BACKENDS
from .trust import is_trusted

if TYPE_CHECKING:
    from ..artifact import Artifact
    from .engine import Engine

__all__ = ["read_layers_file", "read_plan", "verify_engine", "verify_engine_weights"]


def read_plan(engine: Engine, stage: str, *, trust_plans: bool = False) -> bytes:
    """Read a plan, and return it only if it has the recorded hash and this user built it.

    The bytes that are returned are the bytes that were hashed. A plan of TensorRT is native code; an optimized graph of
    ONNX Runtime is not, and is trusted like the rest of the bundle.

    Args:
        engine: The engine that contains it.
        stage: Its stage.
        trust_plans: Whether to return plans that are not recorded in this user's cache as built by this user.

    Raises:
        EngineError: The plan is missing, truncated, altered or not trusted.
    """
    plan = engine.plan(stage)
    path = _regular(engine, plan.file)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path}: cannot be read: {error.strerror}; build the engine again with --force") from error
    digest = hashlib.sha256(data).hexdigest()
    _check(path, "the plan", plan.file, len(data), digest)
    if BACKENDS[engine.manifest.backend].is_native and not trust_plans and not is_trusted(digest):
        raise EngineError(
            f"{path}: a plan is native code, and this user has not built this one; build it here with "
            "vdmrt build, or, if you trust its source, pass trust_plans=True (--trust-plans)"
        )
    return data


def verify_engine(engine: Engine) -> None:
    """Check length and SHA-256 of every file of an engine; trust is checked when a plan is loaded.

    Raises:
        EngineError: A file is missing, truncated or altered.
    """
    for stage in engine.manifest.plans:
        read_plan(engine, stage, trust_plans=True)
    if engine.manifest.layers is not None:
        read_layers_file(engine)
    stages = {plan.weights.file: stage for stage, plan in engine.manifest.plans.items() if plan.weights}
    for stage in stages.values():
        verify_engine_weights(engine, stage)


def read_layers_file(engine: Engine) -> str:
    """Read the list of an engine's layers, and return it only if it has the recorded hash.

    Raises:
        EngineError: The engine has none, or it is missing, truncated or altered.
    """
    wanted = engine.manifest.layers
    if wanted is None:
        raise EngineError(f"{engine.path}: lists no layers; build the engine again with --force")
    path = _regular(engine, wanted)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path}: cannot be read: {error.strerror}; build the engine again with --force") from error
    _check(path, "the file", wanted, len(data), hashlib.sha256(data).hexdigest())
    return data.decode()


def verify_engine_weights(engine: Engine, stage: str, *, hashed: bool = True) -> Path | None:
    """Return the engine's own weights file after checking it; None where a stage has none.

    Args:
        engine: The engine that contains it.
        stage: The stage that uses the weights.
        hashed: Whether its SHA-256 is checked in addition to its length.

    Raises:
        EngineError: The file is missing, truncated or altered.
    """
    wanted = engine.plan(stage).weights
    if wanted is None:
        return None
    path = _regular(engine, wanted)
    try:
        nbytes, digest = path.stat().st_size, sha256_of(path) if hashed else wanted.sha256
    except OSError as error:
        raise EngineError(f"{path}: cannot be read: {error.strerror}; build the engine again with --force") from error
    _check(path, "the file", wanted, nbytes, digest)
    return path


def _regular(engine: Engine, artifact: Artifact) -> Path:
    path = engine.path / artifact.file
    if path.is_symlink():
        raise EngineError(f"{path}: is a link; an engine contains regular files only")
    return path


def _check(path: Path, what: str, wanted: Artifact, nbytes: int, digest: str) -> None:
    if nbytes != wanted.nbytes:
        raise EngineError(
            f"{path}: wanted {wanted.nbytes} bytes, found {nbytes}; {what} is truncated or was altered: "
            "build the engine again with --force"
        )
    if digest != wanted.sha256:
        raise EngineError(
            f"{path}: wanted SHA-256 {wanted.sha256[:16]}…, found {digest[:16]}…; {what} was altered: "
            "build the engine again with --force"
        )
