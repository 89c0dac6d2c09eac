"""Pool of a model's lanes and sessions: leasing of request slots, and closing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from ...errors import SessionError

if TYPE_CHECKING:
    from ..lane.lane import Lane
    from .generation import Generation
    from .session import Session

__all__ = ["SessionPool"]


class SessionPool:
    """The open sessions of a model, and their lanes.

    Attributes:
        sessions: All open sessions.
    """

    __slots__ = ("_closed", "_lanes", "_lock", "_make_lane", "_opening", "sessions")

    def __init__(self, make_lane: Callable[[], Lane]) -> None:
        self._make_lane = make_lane
        self._lanes: list[Lane] = []
        self.sessions: list[Session] = []
        self._closed = False
        # Guards the lists above and the set below. Never held while waiting for a lane, because a callback of a
        # running lane may acquire it.
        self._lock = threading.Lock()
        self._opening: set[object] = set()  # a token for each session that is being created

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` closed everything."""
        return self._closed

    @property
    def allocated_nbytes(self) -> int:
        """Bytes of device memory that the lanes have allocated."""
        devices = {id(lane.device): lane.device for lane in self._lanes}
        return sum(device.allocated_nbytes for device in devices.values())

    def check_open(self) -> None:
        """Raise if the model is closed.

        Raises:
            RuntimeError: The model is closed.
        """
        if self._closed:
            raise RuntimeError("the model is closed; load it again")

    @contextmanager
    def leased(self) -> Iterator[tuple[Lane, int]]:
        """Lease a request slot for a session created in the block; the model cannot be closed meanwhile.

        The slot is released if the block fails, or is interrupted by a signal anywhere.

        Raises:
            DeviceError: A new lane does not fit into memory.
            RuntimeError: The model is closed.
        """
        token = object()
        leased: tuple[Lane, int] | None = None
        try:
            with self._lock:
                self.check_open()
                self._opening.add(token)
                leased = self._lease()
            yield leased
        except BaseException:
            if leased is not None:
                self._release(*leased)
            raise
        finally:
            self._opening.discard(token)  # atomic; waiting for the lock could be interrupted

    def remove(self, generation: Generation) -> None:
        """Remove the session of a closed generation."""
        for session in list(self.sessions):
            if session.generation is generation:
                self.sessions.remove(session)  # atomic: other threads open and close sessions at the same time

    def close(self, then: Callable[[], None]) -> None:
        """Close all sessions and lanes, then call ``then``, unless a session is in use.

        Raises:
            SessionError: A session is in use or is being created. Everything stays open.
            DeviceError: A call failed; everything was released nevertheless.
        """
        with self._lock:
            if self._opening:
                raise SessionError("the model stays open: a session is being created in another thread; close it later")
            _close_together(list(self.sessions), partial(self._close_lanes, then))

    def _close_lanes(self, then: Callable[[], None]) -> None:
        self._closed = True
        with ExitStack() as undo:
            undo.callback(then)
            while self._lanes:
                undo.callback(self._lanes.pop().close)

    def _lease(self) -> tuple[Lane, int]:
        for lane in self._lanes:
            request = lane.leases.lease()
            if request is not None:
                return lane, request
        lane = self._make_lane()
        self._lanes.append(lane)
        request = lane.leases.lease()
        assert request is not None, "a new lane has free requests"
        return lane, request

    def _release(self, lane: Lane, request: int) -> None:
        """Release a lease, by closing its session if that was created already."""
        for session in list(self.sessions):
            if session.lane is lane and session.request == request:
                return session.close()
        lane.leases.release(request)


def _close_together(sessions: Sequence[Session], then: Callable[[], None]) -> None:
    """Close all sessions and call ``then``, despite failures; change nothing if a session is in use.

    Raises:
        SessionError: A session is in use; everything stays open.
        DeviceError: A call failed; everything was closed nevertheless.
    """
    with ExitStack() as held:
        try:
            for session in sessions:
                held.enter_context(session.generation.exclusive.held())
        except SessionError as error:
            raise SessionError(f"the model stays open: {error}") from error
        with ExitStack() as undo:
            undo.callback(then)
            for session in sessions:
                undo.callback(session.generation.close, "the session was closed with its model", "load the model again")
