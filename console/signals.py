"""Signals that end a command: SIGTERM and SIGHUP behave as Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Terminated", "exit_status", "terminable"]

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Terminated(KeyboardInterrupt):
    """A signal asked the process to end. Code that keeps its work on Ctrl-C keeps it on this signal too.

    Attributes:
        signal: The signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


@contextmanager
def terminable() -> Iterator[None]:
    """Raise :class:`Terminated` in the main thread when a signal asks the process to end during the block."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python accepts handlers from the main thread only
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        for number in _SIGNALS:
            # nohup ignores SIGHUP, so that a process continues without a terminal.
            if before[number] is not signal.SIG_IGN:
                signal.signal(number, _raise)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def exit_status(error: BaseException | None) -> int:
    """Return the exit status of a process that a signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (error.signal if isinstance(error, Terminated) else signal.SIGINT)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Terminated(number)
