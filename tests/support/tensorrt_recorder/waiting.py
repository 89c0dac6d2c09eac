"""Simulated build time: calls of a progress monitor, without handling of signals."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .recorder import Recorder

__all__ = ["wait_for_build"]

_PHASE = "Building engine"


def wait_for_build(recorder: Recorder, config: Any) -> bool:
    """Wait for the build's time and report to a progress monitor; return False if the monitor cancels.

    TensorRT's own code handles no signals: Ctrl-C reaches a monitor, where any exception is printed and cancels, or
    the caller of the build, after it has ended.
    """
    monitor = vars(config).get("_p_progress_monitor")
    steps = recorder.build_steps if monitor is not None else 1
    interrupted = False
    _tell(monitor, "phase_start", _PHASE, None, steps)
    for step in range(steps):
        try:
            with _deaf():
                time.sleep(recorder.build_seconds / steps)
        except KeyboardInterrupt:
            interrupted = True
        if monitor is not None and (interrupted or _tell(monitor, "step_complete", _PHASE, step) is not True):
            _tell(monitor, "phase_finish", _PHASE)
            return False
    _tell(monitor, "phase_finish", _PHASE)
    if interrupted:
        raise KeyboardInterrupt
    return True


def _tell(monitor: Any, name: str, *arguments: Any) -> Any:
    if monitor is None:
        return None
    try:
        return getattr(monitor, name)(*arguments)
    except BaseException as error:  # as pybind11's trampoline does
        print(f"[ERROR] Exception caught in {name}(): {error!r}", file=sys.stderr)
        return False


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
