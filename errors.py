"""The exceptions of vdmrt.

    VdmrtError                     base class; the command line prints these without a traceback
    ├── BundleError                a bundle is malformed, altered, not trusted or cannot be written
    ├── ExportError                a graph cannot be traced, split or checked
    │   └── CheckpointError        missing, unexpected, misshapen or damaged weights
    ├── CalibrationError           a model cannot be quantized with these options or data
    │   └── NotFasterError         8 bit graphs were not measurably faster, and were not added
    ├── MediaError                 a picture, clip or array of latents cannot be read or written
    ├── ReportError                a profiler report cannot be written to a file
    ├── EngineError
    │   ├── BackendError           a backend is not installed, or rejected the graph
    │   └── BuildError             a function of the graph cannot be replaced by the engine's builder
    └── SessionError               an operation is not possible in the session's state
        ├── TensorMismatchError    name, dtype, shape or values of a tensor differ from the graph's
        └── DeviceError            device memory or a device call failed

Misuse raises Python's built-in exceptions: ``ValueError``, ``TypeError``, and ``RuntimeError`` for closed objects.
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
    """Base class of the errors that vdmrt raises."""


class BundleError(VdmrtError):
    """A bundle is malformed, altered, not trusted or cannot be written.

    Attributes:
        path: The file or folder, or None.
        field: The field inside the file, as ``geometry.slots``, or None.
    """

    def __init__(self, message: str, *, path: Path | None = None, field: str | None = None) -> None:
        where = ": ".join(str(part) for part in (path, field) if part is not None)
        super().__init__(f"{where}: {message}" if where else message)
        self.path = path
        self.field = field


class ExportError(VdmrtError):
    """A graph cannot be traced, split or checked."""


class CheckpointError(ExportError):
    """A checkpoint does not contain the weights of the model, or is damaged.

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
    """A model cannot be quantized with the options or the calibration data given."""


class NotFasterError(CalibrationError):
    """8 bit graphs were not measurably faster than floating point ones; the bundle is unchanged.

    Attributes:
        speeds: The measured speeds.
    """

    def __init__(self, message: str, *, speeds: Sequence[Any]) -> None:
        super().__init__(message)
        self.speeds = tuple(speeds)


class MediaError(VdmrtError):
    """A picture, a clip or an array of latents cannot be read or written."""


class ReportError(VdmrtError):
    """A profiler report cannot be written to a file."""


class EngineError(VdmrtError):
    """A graph cannot be built or run."""


class BackendError(EngineError):
    """A backend is not installed, is installed twice, or rejected a graph."""


class BuildError(EngineError):
    """A function of a graph cannot be replaced by the engine's builder."""


class SessionError(VdmrtError):
    """An operation is not possible in the session's state."""


class TensorMismatchError(SessionError):
    """The name, dtype, shape or values of a tensor differ from the graph's.

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


# Creates an error from a message, for functions whose callers choose its class; an exception class will do.
Fail = Callable[[str], Exception]
