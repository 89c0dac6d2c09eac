"""A plan's bytes, given out only if they are the ones that were recorded and this user built them."""

from __future__ import annotations

import hashlib

from ..errors import EngineError
from .engine import Engine
from .trust import is_trusted

__all__ = ["read_plan"]


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
