"""Generation of one chunk for several sessions of a lane, in one call or in slices of denoising steps."""

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
    """The part of a session that an advance uses."""

    @property
    def generation(self) -> Generation: ...


class Advance:
    """One chunk of each of several sessions of one lane, from its first denoising step to its cache fill.

    Call ``begin``, then ``run`` until it returns True, then ``finish``; or ``close``, which cancels. Entering a
    ``with`` block acquires the sessions and leaving it closes the advance. Until ``finish`` or ``close`` no other
    caller can use the sessions.

    The lane's lock is held during each call and released between calls, so that other sessions of the lane may begin,
    run and finish in between. Each run advances every row that has begun, at its own denoising step; a row that has
    completed its steps is idle. Rows therefore join and leave at any step boundary, and each chunk is bitwise equal to
    the one that its session generates alone.

    A canceled chunk leaves its session as it was before ``begin``: only ``finish`` writes the cache.
    """

    __slots__ = ("_begun", "_generations", "_held", "_noise", "_running", "_state", "_stages", "_stages_begun")

    def __init__(self, sessions: Sequence[_Session], noise: Sequence[Noise | None] | None = None) -> None:
        """Store the sessions and their noise; nothing runs before ``begin``.

        Args:
            sessions: Different sessions of one lane; each may have its own sampler, steps and position.
            noise: Random numbers for each session; None draws them from the seed.

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
        self._stages = ExitStack()  # stages that the observers were notified of
        self._state: Literal["new", "taken", "begun", "closed"] = "new"
        self._stages_begun = False
        self._running = False

    @property
    def lane(self) -> Lane:
        """The lane of all sessions."""
        return self._generations[0].lane

    @property
    def remaining(self) -> int:
        """Largest number of remaining denoising steps of a session."""
        return max((one.progress.remaining for one in self._begun), default=0)

    def begin(self) -> None:
        """Acquire the sessions and set the lane's tensors for their next chunks. A failure closes the advance.

        Raises:
            SessionError: A session was not started, is in use elsewhere, or has no absolute positions left; or this was
                called by a callback of another ``run`` on the lane.
            TensorMismatchError: The given noise does not match the model's.
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

        After an exception the chunk keeps the steps that are done: another ``run`` continues with the same result, and
        ``close`` cancels.

        Args:
            steps: Maximum number of steps; None runs all remaining ones.
            on_step: Called after each denoising step with the number done; an exception from it ends the call.

        Returns:
            Whether all denoising steps are done.

        Raises:
            ValueError: ``steps`` is not positive.
            SessionError: This was called by a callback of another ``run`` on the lane.
            DeviceError: A step failed.
            RuntimeError: The chunk was not begun, or the advance is closed.
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
                self._stages.close()
            return done

    def finish(self) -> list[Chunk]:
        """Fill the caches with the denoised latents, release the sessions and return the chunks.

        All latents are checked before the first cache is filled: if any contain NaN or Inf, no session advances. A
        failed cache fill closes its session; the sessions before it have advanced by their chunk, those after it have
        not.

        Raises:
            SessionError: Latents contain NaN or Inf.
            TensorMismatchError: The given prefix noise does not match the model's; no session has advanced.
            DeviceError: A cache fill failed.
            RuntimeError: Denoising steps remain, the chunk was not begun, or the advance is closed.
        """
        with self.lane.lock.used():
            self._check_begun()
            if self.remaining > 0:
                raise RuntimeError(f"denoising steps remain: {self.remaining}; call run() until it returns True")
            try:
                self._stages.close()
                latents = [one.denoised() for one in self._generations]
                given = zip(self._generations, self._begun, latents, strict=True)
                cached = [one.perturbed(begun, made) for one, begun, made in given]  # all, before the first fill
                parts = zip(self._generations, self._begun, latents, cached, strict=True)
                return [one.finish(begun, made, frames) for one, begun, made, frames in parts]
            finally:
                self.close()

    def close(self) -> None:
        """Release the sessions and cancel an unfinished chunk. Waits for a running call. Closing twice is allowed.

        Raises:
            RuntimeError: Called from a callback of ``run``; raise an exception there to end ``run``.
        """
        with self.lane.lock.held():
            if self._running:
                raise RuntimeError("the chunk is being generated: raise in the callback to stop, then close")
            if self._state in ("taken", "begun"):
                for generation in self._generations:
                    self.lane.denoising.leave(generation.request)
            self._state = "closed"
            self._begun = []
            with self._held:
                self._stages.close()

    def __enter__(self) -> Advance:
        self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _take(self) -> None:
        """Acquire exclusive use of the sessions."""
        if self._state != "new":
            raise RuntimeError("an Advance generates one chunk of each session; create another for the next")
        with ExitStack() as held:
            for generation in self._generations:
                held.enter_context(generation.exclusive.used())
                generation.check_started()
            self._held = held.pop_all()
        self._state = "taken"

    def _check_begun(self) -> None:
        if self._running:
            raise RuntimeError("the chunk is being generated: this was called by a callback of run()")
        if self._state != "begun":
            raise RuntimeError("the chunk was finished or closed" if self._state == "closed" else "call begin() first")

    def _run(self, steps: int, on_step: Callable[[int], None] | None) -> None:
        self.lane.denoising.check_idle()
        self._begin_stages()
        observers = [one.observer for one in self._generations if one.observer is not None]
        before = max(one.progress.done for one in self._begun)

        def notify(done: int) -> None:
            for observer in observers:
                observer.step(before + done)
            if on_step is not None:
                on_step(before + done)

        self._running = True
        try:
            # Without listeners the steps run on a GPU without returning to Python in between.
            has_listeners = on_step is not None or bool(observers)
            self.lane.denoising.run(steps, notify if has_listeners else None)
        finally:
            self._running = False

    def _begin_stages(self) -> None:
        """Notify the observers of the start of denoising, before the first step."""
        if not self._stages_begun:
            with ExitStack() as stages:
                for generation in self._generations:
                    stages.enter_context(staged(generation.observer, Stage.DENOISE))
                self._stages = stages.pop_all()
            self._stages_begun = True


def advance(
    sessions: Sequence[_Session],
    *,
    noise: Sequence[Noise | None] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> list[Chunk]:
    """Generate one chunk of several sessions of one lane, in the same runs of the denoise graph.

    Args:
        sessions: Different sessions of one lane; each may have its own sampler, steps and position.
        noise: Random numbers for each session; None draws them from the seed.
        on_step: Called after each denoising step with the number done; an exception from it cancels the chunk.

    Raises:
        ValueError: No session, a session twice, or sessions of several lanes.
        SessionError: As :meth:`Session.step`.
    """
    with Advance(sessions, noise) as chunk, chunk.lane.lock.used():
        chunk.begin()
        chunk.run(on_step=on_step)
        return chunk.finish()
