"""Deferral of signals that end a process, while an interruption would damage what is written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

__all__ = ["uninterrupted"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Defer Ctrl-C, SIGTERM and SIGHUP until the block has ended; keep the block short.

    Ignored signals stay ignored. Does nothing in threads other than the main one, where Python handles no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    with ExitStack() as stack:
        stack.callback(_raise_first, caught)
        for number in _SIGNALS:
            before = signal.getsignal(number)
            # None: a handler that is not Python's, which could not be restored.
            if before not in (signal.SIG_IGN, None):
                stack.callback(signal.signal, number, before)
                signal.signal(number, lambda number, frame: caught.append(number))
        yield


def _raise_first(caught: list[int]) -> None:
    if caught:
        signal.raise_signal(caught[0])
