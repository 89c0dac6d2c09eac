"""TensorRT as it is installed: the module, its version, and what it has; nothing else imports it here."""

from __future__ import annotations

import collections
import importlib
import logging
import re
import threading
from dataclasses import dataclass, field
from typing import Any

from ..errors import BackendError
from .gpu import Gpu

__all__ = ["Messages", "TensorRT", "load_tensorrt"]

_log = logging.getLogger("vdmrt")
_KEPT = 50
# "Some tactics do not have sufficient memory to run", "Skipping tactic ... due to insufficient memory".
_SKIPPED = re.compile(r"(in)?sufficient memory", re.IGNORECASE)


class Messages:
    """What TensorRT's logger said: its errors end up in ours.

    Attributes:
        errors: The last errors, in order.
        skipped: How many warnings there were that kernels were not tried for want of memory.
    """

    def __init__(self) -> None:
        self.errors: collections.deque[str] = collections.deque(maxlen=_KEPT)
        self.skipped = 0

    def add(self, severity: str, message: str) -> None:
        """Keep what a caller may want to know: errors, and kernels that were not tried."""
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(message)
        elif severity == "WARNING" and _SKIPPED.search(message):
            self.skipped += 1

    def take(self) -> str:
        """Return the errors as one text, and forget them."""
        text = " | ".join(dict.fromkeys(self.errors))
        self.errors.clear()
        return text or "it logged no reason"


@dataclass
class TensorRT:
    """An installed release.

    Attributes:
        module: The imported package.
        version: As "10.3.0".
        messages: What it logs.
        logger: For its factories; lives as long as they do.
        gpu_index: Which GPU it builds for.
    """

    module: Any
    version: str
    messages: Messages = field(default_factory=Messages)
    logger: Any = None
    gpu_index: int = 0

    @property
    def strongly_typed(self) -> bool:
        """Whether types come from the graph: from 10 on."""
        return self.has("NetworkDefinitionCreationFlag", "STRONGLY_TYPED")

    @property
    def has_levels(self) -> bool:
        """Whether the builder has optimization levels: from 8.6 on."""
        return hasattr(self.module.IBuilderConfig, "builder_optimization_level")

    @property
    def has_monitor(self) -> bool:
        """Whether a build says how far it is, and can be stopped: from 10 on."""
        return hasattr(self.module, "IProgressMonitor")

    def has(self, enum: str, member: str) -> bool:
        """Whether the release has a member of an enumeration."""
        return hasattr(getattr(self.module, enum, None), member)


def load_tensorrt(gpu: Gpu) -> TensorRT:
    """Import TensorRT.

    Args:
        gpu: Proof that the driver was asked first: some releases crash without one.

    Raises:
        BackendError: It is not installed, or does not load; says what to install.
    """
    try:
        tensorrt = importlib.import_module("tensorrt")  # heavy, and not there for a type checker
    except ModuleNotFoundError as error:
        if error.name != "tensorrt":
            raise BackendError(f"tensorrt does not load: {error}; {_advice(gpu)}") from error
        raise BackendError(f"TensorRT is not installed; {_advice(gpu)}") from error
    except (ImportError, OSError) as error:
        raise BackendError(f"tensorrt does not load: {error}; {_advice(gpu)}") from error
    if not hasattr(tensorrt, "OnnxParser"):
        raise BackendError(f"the tensorrt that is installed has no ONNX parser (a lean runtime?); {_advice(gpu)}")
    found = TensorRT(tensorrt, str(tensorrt.__version__), gpu_index=gpu.index)
    found.logger = _make_logger(tensorrt, found.messages)
    return found


def _advice(gpu: Gpu) -> str:
    """Return what to install for the driver's CUDA."""
    major = gpu.cuda.partition(".")[0]
    package = "tensorrt-cu13" if major.isdigit() and int(major) >= 13 else "tensorrt-cu12"
    return f"the driver runs CUDA {gpu.cuda}: pip install {package}"


def _make_logger(module: Any, messages: Messages) -> Any:
    severity = module.ILogger.Severity
    named = ("ERROR", "INTERNAL_ERROR", "WARNING")
    lock = threading.Lock()

    class Logger(module.ILogger):  # type: ignore[misc]
        """Keeps errors; hands errors and warnings to Python's logging at its lowest level."""

        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, level: Any, message: str) -> None:
            """Called from any thread, and must not raise: TensorRT would end the process."""
            name = next((name for name in named if level == getattr(severity, name)), None)
            if name is None:
                return
            with lock:
                messages.add(name, message)
            _log.debug("TensorRT: %s", message)

    return Logger()
