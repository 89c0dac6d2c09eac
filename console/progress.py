"""Progress of long work: a bar on a terminal, otherwise a log line every few seconds."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Advance", "show_progress"]


class Advance(Protocol):
    """Callback with the count done and the total, in the title's unit, and the current place in the work."""

    def __call__(self, done: int, total: int, place: str = "") -> None:
        """Show the progress."""


_log = logging.getLogger("vdmrt")


@contextmanager
def show_progress(
    title: str, *, interval_s: float = 5.0, clock: Callable[[], float] = time.monotonic
) -> Iterator[Advance]:
    """Show the progress of a block of work on stderr; nothing with ``--quiet``.

    Args:
        title: The work and the unit that is counted, as "observing, denoising steps".
        interval_s: Seconds between two lines where stderr is not a terminal.
        clock: Returns seconds.

    Yields:
        A function to call with the count done, the total, and the place in the work, as "chunk 3 of 10".
    """
    if not _log.isEnabledFor(logging.INFO):
        yield _ignore
    elif sys.stderr.isatty():
        with _bar(title) as advance:
            yield advance
    else:
        yield _Lines(title, interval_s, clock)


def _ignore(done: int, total: int, place: str = "") -> None:
    pass


@contextmanager
def _bar(title: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=None)

        def advance(done: int, total: int, place: str = "") -> None:
            progress.update(task, completed=done, total=total, description=_join(title, place))

        yield advance


def _join(title: str, place: str) -> str:
    return f"{title}, {place}" if place else title


class _Lines:
    """Logs a line whenever the interval has passed since the last one; nothing for shorter work."""

    def __init__(self, title: str, interval_s: float, clock: Callable[[], float]) -> None:
        self._title, self._interval_s, self._clock = title, interval_s, clock
        self._begun = self._logged = clock()

    def __call__(self, done: int, total: int, place: str = "") -> None:
        now = self._clock()
        if now - self._logged >= self._interval_s:
            self._logged = now
            _log.info("%s: %d of %d, %.0f s", _join(self._title, place), done, total, now - self._begun)
