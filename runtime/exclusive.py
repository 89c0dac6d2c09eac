"""Who may use a session: one caller at a time, and nobody once it is closed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import SessionError

__all__ = ["Exclusive"]

_ELSEWHERE = "the session is in use in another thread; give each thread a session of its own"
_INSIDE = (
    "the session is busy: this was called from its own on_step callback or observer; let that return first, "
    "or raise an exception in it to cancel the chunk"
)


class Exclusive:
    """Held by whoever uses a session; nobody waits for it."""

    __slots__ = ("_closed", "_lock", "_user")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._user: int | None = None  # the thread that holds the lock
        self._closed: str | None = None

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed is not None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep everybody else out, also of a session that is closed.

        Raises:
            SessionError: The session is in use, in another thread or by the call that this one comes from.
        """
        if not self._lock.acquire(blocking=False):
            raise SessionError(_INSIDE if self._user == threading.get_ident() else _ELSEWHERE)
        try:
            self._user = threading.get_ident()
            yield
        finally:
            self._user = None
            self._lock.release()

    @contextmanager
    def used(self) -> Iterator[None]:
        """Keep everybody else out of an open session.

        Raises:
            SessionError: As :meth:`held`.
            RuntimeError: The session is closed.
        """
        with self.held():
            if self._closed is not None:
                raise RuntimeError(self._closed)
            yield

    def close(self, sentence: str) -> bool:
        """Let nobody use the session again; ``sentence`` is what they are told. Returns whether it was open."""
        was_open = self._closed is None
        self._closed = self._closed or sentence
        return was_open
