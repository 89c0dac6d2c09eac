"""Progress of the phases of long work, as whoever asks for the work has it shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

__all__ = ["OnProgress", "Show", "hide_progress"]

# Called with what is done and the total.
OnProgress = Callable[[int, int], None]
# Called with the title of a phase; what it returns yields the function to call during the phase.
Show = Callable[[str], AbstractContextManager[OnProgress]]


@contextmanager
def hide_progress(title: str) -> Iterator[OnProgress]:
    """Show nothing."""
    yield lambda done, total: None
