"""The tree of errors that a caller may want to catch.

    VdmrtError                     what the command line prints without a traceback
    ├── BundleError                a bundle is malformed, altered, foreign or cannot be written
    ├── ExportError                a graph cannot be traced, split or checked
    │   └── CheckpointError        missing, unexpected, misshapen or damaged weights
    ├── CalibrationError           a model cannot be quantized as asked, or the data does not fit
    │   └── NotFasterError         8 bit graphs were not shown to be faster, and were not added
    ├── MediaError                 a picture, clip or array of latents cannot be read or written
    ├── ReportError                what the profiler measured cannot be written to a file
    ├── EngineError
    │   ├── BackendError           a backend is not installed, or refused the graph
    │   └── BuildError             a graph is not what an engine's builder replaces the functions of
    └── SessionError               a session cannot do what was asked in its present state
        ├── TensorMismatchError    name, dtype, shape or values are not what the graph has
        └── DeviceError            device memory or a device call failed

Misuse stays Python's own: ``ValueError``, ``TypeError``, and ``RuntimeError`` for what is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "BackendError",
    "BuildError",
    "BundleError",
    "CalibrationError",
    "CheckpointError",
    "DeviceError",
    "EngineError",
    "ExportError",
    "Fail",
    "MediaError",
    "NotFasterError",
    "ReportError",
    "SessionError",
    "TensorMismatchError",
    "VdmrtError",
]


class VdmrtError(Exception):
    """Base of every error that vdmrt raises on purpose."""


class BundleError(VdmrtError):
    """A bundle is malformed, altered, foreign or cannot be written.

    Attributes:
        path: The file or folder, or None.
        field: Where inside the file, as ``geometry.slots``, or None.
    """

    def __init__(self, message: str, *, path: Path | None = None, field: str | None = None) -> None:
        where = ": ".join(str(part) for part in (path, field) if part is not None)
        super().__init__(f"{where}: {message}" if where else message)
        self.path = path
        self.field = field


class ExportError(VdmrtError):
    """A graph cannot be traced, split or checked."""


class CheckpointError(ExportError):
    """A checkpoint does not hold the weights of the model, or is damaged.

    Attributes:
        missing: Keys that the model needs and the checkpoint lacks.
        unexpected: Keys that the checkpoint has and the model does not know.
        misshapen: Keys whose shape differs: (key, wanted, found).
    """

    def __init__(
        self,
        message: str,
        *,
        missing: tuple[str, ...] = (),
        unexpected: tuple[str, ...] = (),
        misshapen: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = (),
    ) -> None:
        super().__init__(message)
        self.missing = missing
        self.unexpected = unexpected
        self.misshapen = misshapen


class CalibrationError(VdmrtError):
    """A model cannot be quantized as asked, or the calibration data does not fit it."""


class NotFasterError(CalibrationError):
    """8 bit graphs were not shown to be faster than floating point ones; the bundle is what it was.

    Attributes:
        speeds: What was measured.
    """

    def __init__(self, message: str, *, speeds: Sequence[Any]) -> None:
        super().__init__(message)
        self.speeds = tuple(speeds)


class MediaError(VdmrtError):
    """A picture, a clip or an array of latents cannot be read or written."""


class ReportError(VdmrtError):
    """What the profiler measured cannot be written to a file."""


class EngineError(VdmrtError):
    """A graph cannot be made to run."""


class BackendError(EngineError):
    """A backend is not installed, is installed twice, or refused a graph."""


class BuildError(EngineError):
    """A graph is not what an engine's builder replaces the functions of."""


class SessionError(VdmrtError):
    """A session cannot do what was asked in its present state."""


class TensorMismatchError(SessionError):
    """The name, dtype, shape or values of a tensor are not what the graph has.

    Attributes:
        name: The tensor's name.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"'{name}': {message}")
        self.name = name


class DeviceError(SessionError):
    """Device memory or a device call failed.

    Attributes:
        call: The call that failed, as ``allocate``.
    """

    def __init__(self, message: str, *, call: str) -> None:
        super().__init__(f"{call}: {message}")
        self.call = call


# Makes an error from a sentence, for functions whose callers choose its class; an exception class will do.
Fail = Callable[[str], Exception]
