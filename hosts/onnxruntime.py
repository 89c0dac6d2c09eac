"""The installed ONNX Runtime; only this module imports it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..bundle import PROVIDERS, Machine
from ..errors import BackendError
from .cpu import describe_cpu
from .extras import describe_missing, install_command, installed_versions, needs_extra

if TYPE_CHECKING:
    from ..bundle import ProviderName

__all__ = [
    "ONNXRUNTIMES",
    "check_distributions",
    "describe_machine",
    "find_providers",
    "has_provider",
    "onnxruntime_distributions",
    "open_onnxruntime",
]

# Each of them installs the folder site-packages/onnxruntime.
ONNXRUNTIMES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-rocm",
    "onnxruntime-training",
)


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


def onnxruntime_distributions(installed: Mapping[str, str] | None = None) -> list[str]:
    """Return the installed distributions that own the module ``onnxruntime``: two overwrite each other.

    Args:
        installed: Versions by name; None asks the environment.
    """
    found = installed_versions(ONNXRUNTIMES) if installed is None else installed
    return [name for name in ONNXRUNTIMES if name in found]


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


def has_provider(provider: ProviderName) -> bool:
    """Whether ONNX Runtime is installed with an execution provider."""
    try:
        return PROVIDERS[provider] in find_providers()
    except ImportError:
        return False


def describe_machine(module: Any, provider: ProviderName = "cpu") -> Machine:
    """Return the release and provider that an engine is bound to, and for the CPU's provider the CPU."""
    cpu = describe_cpu() if provider == "cpu" else ""
    return Machine(onnxruntime=str(module.__version__), provider=PROVIDERS[provider], cpu=cpu)
