"""The installed ONNX Runtime; only this module imports it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from ..bundle import Machine
from ..errors import BackendError
from .cpu import describe_cpu
from .distributions import onnxruntime_distributions
from .extras import describe_missing, install_command, needs_extra

__all__ = ["check_distributions", "describe_machine", "find_providers", "open_onnxruntime"]


def open_onnxruntime(task: str, extra: str = "cpu") -> Any:
    """Import ONNX Runtime.

    Args:
        task: What needs it, as it reads before "needs".
        extra: The extra of vdmrt that contains it.

    Raises:
        BackendError: ONNX Runtime is not installed, is installed twice, or does not load.
    """
    check_distributions(onnxruntime_distributions(), task, extra)
    try:
        with needs_extra(extra, task, fail=BackendError):
            module = importlib.import_module("onnxruntime")  # heavy, so imported on first use
        _ = module.__version__  # missing where it is partly removed
    except (ImportError, OSError, AttributeError) as error:
        raise BackendError(f"{task} needs ONNX Runtime, which does not load: {error}; see vdmrt doctor") from error
    return module


def check_distributions(found: Sequence[str], task: str, extra: str = "cpu") -> None:
    """Check that exactly one distribution provides the module ``onnxruntime``.

    Raises:
        BackendError: None provides it, or several, which overwrite each other's files.
    """
    if not found:
        raise BackendError(describe_missing(extra, task, "onnxruntime"))
    if len(found) > 1:
        raise BackendError(
            f"{' and '.join(found)} are both installed and overwrite each other's files; "
            f"run {install_command(extra, remove=found)}"
        )


def find_providers() -> tuple[str, ...]:
    """Import ONNX Runtime and return its execution providers.

    Raises:
        ImportError: It does not load.
    """
    try:
        return tuple(importlib.import_module("onnxruntime").get_available_providers())
    except Exception as error:  # partly removed, it fails in many ways
        raise ImportError(f"{type(error).__name__}: {error}") from error


def describe_machine(module: Any, provider: str = "CPUExecutionProvider") -> Machine:
    """Return the release, provider and CPU that an optimized graph is bound to."""
    return Machine(onnxruntime=str(module.__version__), provider=provider, cpu=describe_cpu())
