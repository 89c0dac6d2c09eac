"""What TensorRT logs: passed on to the logger "vdmrt", and kept for the error that follows."""

from __future__ import annotations

import collections
import logging
import re
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["TensorRtLog"]

_log = logging.getLogger("vdmrt")
# By TensorRT's severity. An error becomes part of an exception; logged as an error too, it would be reported twice.
_RUNNING = {
    "INTERNAL_ERROR": logging.DEBUG,
    "ERROR": logging.DEBUG,
    "WARNING": logging.WARNING,
    "INFO": logging.DEBUG,
    "VERBOSE": logging.DEBUG,
}
# A build logs hundreds of warnings, and the rest by the ten thousand.
_BUILDING = {"INTERNAL_ERROR": logging.DEBUG, "ERROR": logging.DEBUG, "WARNING": logging.DEBUG}
_KEPT = 8
# "Some tactics do not have sufficient memory to run", "Skipping tactic ... due to insufficient memory".
_SKIPPED = re.compile(r"(in)?sufficient memory", re.IGNORECASE)


class TensorRtLog:
    """The log of one TensorRT runtime or builder.

    Attributes:
        logger: TensorRT's ILogger. It must live as long as anything that was made with it.
    """

    def __init__(self, tensorrt: Any, *, building: bool = False) -> None:
        """Make the logger.

        Args:
            tensorrt: The module.
            building: Whether it is a builder's.
        """
        self._levels = _BUILDING if building else _RUNNING
        # Mostly TensorRT logs on the thread that called it, and lanes in other threads must not mix.
        self._own = threading.local()
        self._elsewhere = _Errors(maxlen=_KEPT)
        self._skipped = 0
        self._lock = threading.Lock()
        self.logger = _make_logger(tensorrt, self._add)

    def take_errors(self) -> str:
        """Return the last errors that this thread's calls logged, else any thread's, and forget them."""
        own = self._errors()
        text = "; ".join(dict.fromkeys(own or list(self._elsewhere)))
        own.clear()
        self._elsewhere.clear()
        return text or "TensorRT gave no reason"

    def take_skipped(self) -> int:
        """Return how many warnings there were of kernels that were not tried for want of memory, and forget them."""
        with self._lock:
            count, self._skipped = self._skipped, 0
        return count

    def _errors(self) -> _Errors:
        if not hasattr(self._own, "errors"):
            self._own.errors = _Errors(maxlen=_KEPT)
        errors: _Errors = self._own.errors
        return errors

    def _add(self, severity: str, message: str) -> None:
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
        """Passes on what TensorRT logs."""

        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)  # pybind11 requires the call by name

        def log(self, severity: Any, msg: str) -> None:
            """Take one message, on any thread."""
            try:
                add(severity.name, msg)
            except Exception:  # TensorRT ends the process where this raises
                return

    return Logger()
