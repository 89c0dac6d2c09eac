"""TensorRT's log: forwarded to the logger "vdmrt", with errors kept for the exception that follows."""

from __future__ import annotations

import collections
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["TensorRtLog"]

_log = logging.getLogger("vdmrt")
# By TensorRT's severity. Errors become part of an exception; logging them as errors would report them twice.
_RUNNING = {
    "INTERNAL_ERROR": logging.DEBUG,
    "ERROR": logging.DEBUG,
    "WARNING": logging.WARNING,
    "INFO": logging.DEBUG,
    "VERBOSE": logging.DEBUG,
}
# A build logs hundreds of warnings and tens of thousands of other messages.
_BUILDING = {"INTERNAL_ERROR": logging.DEBUG, "ERROR": logging.DEBUG, "WARNING": logging.DEBUG}
_KEPT = 8
_LISTED = re.compile(r"LayerType: |Total Activation Memory")
# "Some tactics do not have sufficient memory to run", "Skipping tactic ... due to insufficient memory".
_SKIPPED = re.compile(r"(in)?sufficient memory", re.IGNORECASE)


class TensorRtLog:
    """The log of one TensorRT runtime or builder.

    Attributes:
        logger: TensorRT's ILogger. It must outlive every object that was created with it.
    """

    def __init__(self, tensorrt: Any, *, building: bool = False) -> None:
        """Create the logger.

        Args:
            tensorrt: The module.
            building: Whether it is for a builder.
        """
        self._levels = _BUILDING if building else _RUNNING
        self._layers: list[str] | None = None
        # TensorRT usually logs on the calling thread; lanes in different threads must not mix.
        self._own = threading.local()
        self._elsewhere = _Errors(maxlen=_KEPT)
        self._skipped = 0
        self._lock = threading.Lock()
        self.logger = _make_logger(tensorrt, self._add)

    def take_errors(self) -> str:
        """Return and clear the last errors logged by this thread's calls, or else by any thread's."""
        own = self._errors()
        text = "; ".join(dict.fromkeys(own or list(self._elsewhere)))
        own.clear()
        self._elsewhere.clear()
        return text or "TensorRT gave no reason"

    def take_skipped(self) -> int:
        """Return and clear the number of warnings about kernels skipped for lack of memory."""
        with self._lock:
            count, self._skipped = self._skipped, 0
        return count

    @contextmanager
    def collect_layers(self) -> Iterator[list[str]]:
        """Collect the messages of a builder that list its plan's layers and memory, and log like a builder.

        Only TensorRT for RTX writes them, and only with detailed profiling. The process must not build anything else
        meanwhile: the messages do not tell which build they belong to.
        """
        levels, self._levels = self._levels, _BUILDING
        layers: list[str] = []
        self._layers = layers
        try:
            yield layers
        finally:
            self._layers, self._levels = None, levels

    def _errors(self) -> _Errors:
        if not hasattr(self._own, "errors"):
            self._own.errors = _Errors(maxlen=_KEPT)
        errors: _Errors = self._own.errors
        return errors

    def _add(self, severity: str, message: str) -> None:
        if self._layers is not None and _LISTED.search(message):
            self._layers.append(message)
        if severity not in self._levels:
            return
        _log.log(self._levels[severity], "TensorRT: %s", message)
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self._errors().append(message)
            self._elsewhere.append(message)
        elif severity == "WARNING" and _SKIPPED.search(message):
            with self._lock:
                self._skipped += 1


_Errors = collections.deque[str]


def _make_logger(tensorrt: Any, add: Callable[[str, str], None]) -> Any:
    class Logger(tensorrt.ILogger):  # type: ignore[misc]
        """Forwards TensorRT's messages."""

        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)  # pybind11 requires the call by name

        def log(self, severity: Any, msg: str) -> None:
            """Receive one message, on any thread."""
            try:
                add(severity.name, msg)
            except Exception:  # TensorRT aborts the process if this raises
                return

    return Logger()
