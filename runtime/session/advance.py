"""One chunk of several sessions of a lane, made at once or in slices of denoising steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol

from ...bundle import Stage
from ..sampling.integers import whole
from ..sampling.noise import Noise
from .chunk import staged

if TYPE_CHECKING:
    from ..lane.lane import Lane
    from .chunk import Chunk
    from .generation import Begun, Generation

__all__ = ["Advance", "advance"]


class _Session(Protocol):
    """A session, as far as an advance uses it."""

    @property
    def generation(self) -> Generation: ...


class Advance:
    """One chunk of each of several sessions of one lane, from its first denoising step to its cache fill.

    ``begin``, then ``run`` until it returns True, then ``finish``; or ``close``, which cancels. Entering a ``with``
    block takes the sessions, leaving it closes. From then until ``finish`` or ``close`` nobody else can use them.

    The lane's lock is held within each call and free between them: other sessions of the lane may begin, run and finish
    there. Whoever runs the lane advances every row that has begun, each at its own denoising step, and a row whose
    steps are done rests; so rows join and leave at any step boundary, and each chunk is bit for bit what it is alone.

    A chunk that is cancelled leaves its session as it was before ``begin``: ``finish`` alone writes the cache.
    """

    __slots__ = ("_begun", "_generations", "_held", "_noise", "_running", "_state", "_telling", "_told")

    def __init__(self, sessions: Sequence[_Session], noise: Sequence[Noise | None] | None = None) -> None:
        """Take part of each session: nothing happens before ``begin``.

        Args:
            sessions: Different sessions of one lane; each may have its own sampler, steps and position.
            noise: Random numbers for each session; None draws.

        Raises:
            ValueError: No session, a session twice, or sessions of several lanes.
        """
        self._generations = [session.generation for session in sessions]
        self._noise = [one or Noise() for one in noise or [None] * len(sessions)]
        different = len({id(one) for one in self._generations})
        if not sessions or different < len(sessions) or len(self._noise) != len(sessions):
            raise ValueError("wanted one or more different sessions, and noise for each or for none")
        if any(one.lane is not self.lane for one in self._generations):
            raise ValueError("sessions that step together must share a lane; export with --requests for more of them")
        self._begun: list[Begun] = []
        self._held = ExitStack()
        self._telling = ExitStack()  # that the observers were told of
        self._state: Literal["new", "taken", "begun", "closed"] = "new"
        self._told = False
        self._running = False

    @property
    def lane(self) -> Lane:
        """The lane of all sessions."""
        return self._generations[0].lane

    @property
    def remaining(self) -> int:
        """Denoising steps that are left for the session with the most of them."""
        return max((one.progress.remaining for one in self._begun), default=0)

    def begin(self) -> None:
        """Take the sessions, and set the lane's tensors for their next chunks. A failure closes.

        Raises:
            SessionError: A session was not started, is in use elsewhere, or has its absolute positions at their end.
            TensorMismatchError: Given noise is not what the model takes.
            RuntimeError: A session is closed, or this was called before.
        """
        if self._state != "taken":
            self._take()
        try:
            with self.lane.lock.used():
                for generation, noise in zip(self._generations, self._noise, strict=True):
                    self._begun.append(generation.begin(noise))
            self._state = "begun"
        except BaseException:
            self.close()
            raise

    def run(self, steps: int | None = None, *, on_step: Callable[[int], None] | None = None) -> bool:
        """Run denoising steps.

        After an exception the chunk is where the last step left it: ``run`` goes on, with the same result, and
        ``close`` cancels.

        Args:
            steps: At most so many; None runs all that are left.
            on_step: Called after each denoising step with the number done; what it raises ends the call.

        Returns:
            Whether all denoising steps are done.

        Raises:
            ValueError: ``steps`` is not positive.
            DeviceError: A step failed.
            RuntimeError: Not begun, or closed.
        """
        if steps is not None and whole("steps", steps) < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        with self.lane.lock.used():
            self._check_begun()
            left = self.remaining
            if left > 0:
                self._run(left if steps is None else min(steps, left), on_step)
            done = self.remaining == 0
            if done:
                self._telling.close()
            return done

    def finish(self) -> list[Chunk]:
        """Fill the caches with the denoised latents, release the sessions and return the chunks.

        All latents are checked before the first session goes on: if some hold NaN or Inf, none has. A cache fill that
        fails closes its session; those before it have made their chunk, those after it have not.

        Raises:
            SessionError: Latents hold NaN or Inf.
            DeviceError: A cache fill failed.
            RuntimeError: Denoising steps are left, not begun, or closed.
        """
        with self.lane.lock.used():
            self._check_begun()
            if self.remaining > 0:
                raise RuntimeError(f"denoising steps are left: {self.remaining}; call run() until it returns True")
            try:
                self._telling.close()
                latents = [one.denoised() for one in self._generations]
                parts = zip(self._generations, self._begun, latents, strict=True)
                return [one.finish(begun, made) for one, begun, made in parts]
            finally:
                self.close()

    def close(self) -> None:
        """Release the sessions; a chunk that is not finished is cancelled. Waits for a running call. Twice is allowed.

        Raises:
            RuntimeError: This was called by a callback of ``run``; an exception in the callback ends ``run``.
        """
        with self.lane.lock.held():
            if self._running:
                raise RuntimeError("the chunk is being made: raise an exception in the callback to stop, then close")
            if self._state in ("taken", "begun"):
                for generation in self._generations:
                    self.lane.denoising.leave(generation.request)
            self._state = "closed"
            self._begun = []
            with self._held:
                self._telling.close()

    def __enter__(self) -> Advance:
        self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _take(self) -> None:
        """Keep everybody else out of the sessions."""
        if self._state != "new":
            raise RuntimeError("an Advance makes one chunk of each session; make another for the next")
        with ExitStack() as held:
            for generation in self._generations:
                held.enter_context(generation.exclusive.used())
                generation.check_started()
            self._held = held.pop_all()
        self._state = "taken"

    def _check_begun(self) -> None:
        if self._running:
            raise RuntimeError("the chunk is being made: this was called by a callback of run()")
        if self._state != "begun":
            raise RuntimeError("the chunk was finished or closed" if self._state == "closed" else "call begin() first")

    def _run(self, steps: int, on_step: Callable[[int], None] | None) -> None:
        self._tell_begin()
        observers = [one.observer for one in self._generations if one.observer is not None]
        before = max(one.progress.done for one in self._begun)

        def tell(done: int) -> None:
            for observer in observers:
                observer.step(before + done)
            if on_step is not None:
                on_step(before + done)

        self._running = True
        try:
            # Nobody to tell: on a GPU the steps then run without a look at Python between them.
            listens = on_step is not None or bool(observers)
            self.lane.denoising.run(steps, tell if listens else None)
        finally:
            self._running = False

    def _tell_begin(self) -> None:
        """Tell the observers that denoising begins, before the first step."""
        if not self._told:
            with ExitStack() as telling:
                for generation in self._generations:
                    telling.enter_context(staged(generation.observer, Stage.DENOISE))
                self._telling = telling.pop_all()
            self._told = True


def advance(
    sessions: Sequence[_Session],
    *,
    noise: Sequence[Noise | None] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> list[Chunk]:
    """Make one chunk of several sessions of one lane, all in the same runs of the denoise graph.

    Args:
        sessions: Different sessions of one lane; each may have its own sampler, steps and position.
        noise: Random numbers for each session; None draws.
        on_step: Called after each denoising step with the number done; what it raises cancels the chunk.

    Raises:
        ValueError: No session, a session twice, or sessions of several lanes.
        SessionError: As :meth:`Session.step`.
    """
    with Advance(sessions, noise) as chunk, chunk.lane.lock.used():
        chunk.begin()
        chunk.run(on_step=on_step)
        return chunk.finish()
