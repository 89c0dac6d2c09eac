"""Progress callbacks for the phases of long work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

__all__ = ["OnProgress", "Show", "hide_progress"]

# Called with the amount done and the total.
OnProgress = Callable[[int, int], None]
# Called with the title of a phase; returns a context manager that yields the function to call during the phase.
Show = Callable[[str], AbstractContextManager[OnProgress]]


@contextmanager
def hide_progress(title: str) -> Iterator[OnProgress]:
    """Ignore progress; the default."""
    yield lambda done, total: None
