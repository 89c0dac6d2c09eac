"""Guard of a session: exclusive use by one caller at a time, refused after closing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import SessionError

__all__ = ["Exclusive"]

_ELSEWHERE = "the session is in use in another thread; give each thread its own session"
_INSIDE = (
    "the session is busy: this was called from its own on_step callback or observer, or while an Advance has it; let "
    "that return or finish first, or cancel the chunk by an exception in it or Advance.close()"
)


class Exclusive:
    """Non-blocking guard of a session: a second caller gets an error instead of waiting."""

    __slots__ = ("_closed", "_holder")

    def __init__(self) -> None:
        self._holder: dict[int, tuple[int, object]] = {}  # at 0 the holder's token, which begins with its thread
        self._closed: str | None = None

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed is not None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Exclude all other callers in the block, also if the session is closed.

        Raises:
            SessionError: The session is in use in another thread, or by a caller of this call.
        """
        # With a lock, a signal between acquire() and try would leave it held forever. The token is set inside the try
        # by one atomic call. Python handles signals after calls, and removing the token needs none. That leaves
        # contextlib's own lines before and after the block: if they are interrupted, the token is removed when the
        # exception, and with it this generator, is freed.
        token = (threading.get_ident(), object())
        try:
            holder = self._holder.setdefault(0, token)
            if holder is not token:
                raise SessionError(_INSIDE if holder[0] == token[0] else _ELSEWHERE)
            yield
        finally:
            if self._holder == {0: token}:
                del self._holder[0]

    @contextmanager
    def used(self) -> Iterator[None]:
        """Exclude all other callers of an open session in the block.

        Raises:
            SessionError: As :meth:`held`.
            RuntimeError: The session is closed.
        """
        with self.held():
            if self._closed is not None:
                raise RuntimeError(self._closed)
            yield

    def close(self, sentence: str) -> bool:
        """Close the session; later uses raise RuntimeError with ``sentence``. Returns whether it was open."""
        was_open = self._closed is None
        self._closed = self._closed or sentence
        return was_open
