"""Log of the stages of long work: the start of each, and its running time every few seconds."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["show_stages"]

_log = logging.getLogger("vdmrt")


@contextmanager
def show_stages(*, interval_s: float = 5.0) -> Iterator[Callable[[str], None]]:
    """Log the stages of a block of work.

    Args:
        interval_s: Seconds between two lines about one stage.

    Yields:
        A function to call with the name of each stage before it begins, as "tracing fill.fp32".
    """
    stages = _Stages(interval_s)
    stages.start()
    try:
        yield stages.begin
    finally:
        stages.end()


class _Stages(threading.Thread):
    """A thread that logs the current stage whenever it has run for another interval."""

    def __init__(self, interval_s: float) -> None:
        super().__init__(name="vdmrt-stages", daemon=True)
        self._interval_s = interval_s
        self._changed = threading.Event()
        self._stage: str | None = None
        self._is_over = False

    def begin(self, stage: str) -> None:
        _log.info("%s", stage)
        self._stage = stage
        self._changed.set()

    def end(self) -> None:
        self._is_over = True
        self._changed.set()
        self.join()

    def run(self) -> None:
        begun = time.monotonic()
        while not self._is_over:
            if self._changed.wait(self._interval_s):
                self._changed.clear()
                begun = time.monotonic()
            elif self._stage is not None:
                _log.info("%s, %.0f s", self._stage, time.monotonic() - begun)
