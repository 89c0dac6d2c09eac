"""What TensorRT says: passed on to the logger "vdmrt", and kept for the error that follows."""

from __future__ import annotations

import collections
import logging
import threading
from typing import Any

__all__ = ["TensorRtLog"]

_log = logging.getLogger("vdmrt")
# By TensorRT's severity. What it calls information is of interest to nobody but who looks for a fault.
_LEVELS = {
    "INTERNAL_ERROR": logging.ERROR,
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "INFO": logging.DEBUG,
    "VERBOSE": logging.DEBUG,
}
_KEPT = 4


class TensorRtLog:
    """The log of one TensorRT runtime.

    Attributes:
        logger: TensorRT's ILogger. It must live as long as anything that was made with it.
    """

    def __init__(self, tensorrt: Any) -> None:
        """Make the logger.

        Args:
            tensorrt: The module.
        """
        # Mostly TensorRT logs on the thread that called it, and lanes in other threads must not mix.
        self._said = threading.local()
        self._elsewhere: collections.deque[str] = collections.deque(maxlen=_KEPT)
        self.logger = _make_logger(tensorrt, self._hear)

    def take_errors(self) -> str:
        """Return the last errors that this thread's calls logged, else any thread's, and forget them."""
        own = self._own()
        text = "; ".join(own or self._elsewhere)
        own.clear()
        self._elsewhere.clear()
        return text or "TensorRT gave no reason"

    def _own(self) -> collections.deque[str]:
        if not hasattr(self._said, "errors"):
            self._said.errors = collections.deque(maxlen=_KEPT)
        errors: collections.deque[str] = self._said.errors
        return errors

    def _hear(self, severity: str, message: str) -> None:
        level = _LEVELS.get(severity, logging.ERROR)
        if level < logging.ERROR:
            _log.log(level, "TensorRT: %s", message)
            return
        # An error becomes part of an exception; logged as well it would be told twice.
        _log.debug("TensorRT: %s", message)
        self._own().append(message)
        self._elsewhere.append(message)


def _make_logger(tensorrt: Any, hear: Any) -> Any:
    class Logger(tensorrt.ILogger):  # type: ignore[misc]
        """Passes on what TensorRT says."""

        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)  # pybind11 wants it called by name

        def log(self, severity: Any, msg: str) -> None:
            """Hear one message."""
            try:
                hear(severity.name, msg)
            except Exception:  # TensorRT ends the process where this raises
                return

    return Logger()
