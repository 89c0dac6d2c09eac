"""Denoising of a lane: one launch advances all requests, each at its own step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...bundle import Role
from ...errors import SessionError
from ..device.owned import Owned
from ..device.step_trial import StepTrial
from ..device.stepper import EagerStepper, ReplayStepper, StepTimes, capture

if TYPE_CHECKING:
    from ...bundle import Geometry
    from .._core import Device, Events
    from ..backends.backend import Call
    from ..cache.lane_cache import LaneCache
    from ..cache.window import Window
    from ..device.arrays import Array, DeviceArray
    from .lane_lock import LaneLock
    from .lane_tensors import LaneTensors

__all__ = ["Denoising", "Progress"]


@dataclass
class Progress:
    """Progress of a request's chunk.

    Attributes:
        steps: Denoising steps of the chunk.
        done: Steps known to have run; more may have run after a failure, which is harmless: the request is idle then.
        times: Timings of the steps.
    """

    steps: int
    done: int = 0
    times: StepTimes = field(default_factory=lambda: StepTimes([], []))

    @property
    def remaining(self) -> int:
        """Remaining denoising steps."""
        return self.steps - self.done

    def count(self, times: StepTimes) -> None:
        """Add completed steps; in steps beyond the chunk's last the request was idle."""
        own = min(len(times.denoise_ms), self.remaining)
        self.done += own
        self.times.denoise_ms.extend(times.denoise_ms[:own])
        self.times.enqueue_us.extend(times.enqueue_us[:own])


class Denoising:
    """The denoise graph of a lane, captured if the backend supports it, and the progress of each request.

    A request may begin a chunk at any time between two runs. Every run advances all requests that have begun,
    regardless of the caller; after its last step, a request is idle.
    """

    __slots__ = ("_begun", "_call", "_device", "_lock", "_owned", "_running", "_stepper", "_tensors")

    def __init__(
        self,
        device: Device,
        geometry: Geometry,
        tensors: LaneTensors,
        cache: LaneCache,
        bind: Callable[[Mapping[str, int]], Call],
        lock: LaneLock,
        *,
        replays: bool,
    ) -> None:
        """Bind the graph and, if ``replays``, capture a step.

        Raises:
            DeviceError: A call failed. Nothing remains allocated.
            BackendError: The results of a replayed step and an eager one differ.
        """
        self._device = device
        self._tensors = tensors
        self._lock = lock
        self._begun: dict[int, Progress] = {}
        self._running = False
        self._owned = Owned()
        with self._owned.closed_on_error():
            events = self._owned.add(device.events(geometry.max_steps + 1))
            self._call = self._owned.add(bind({**tensors.denoise_addresses(), **cache.denoise_addresses()}))
            # Owned also if it is replaced: closing it breaks its reference cycle with this object.
            eager = self._owned.add(EagerStepper(device, events, self._enqueue_step))
            self._stepper: EagerStepper | ReplayStepper = self._capture(eager, events) if replays else eager

    @property
    def replays(self) -> bool:
        """Whether denoising steps are replays of a captured CUDA graph."""
        return isinstance(self._stepper, ReplayStepper)

    def noise(self, request: int) -> Array:
        """Return the buffer of a request's step noise, float32 [N, T, c, h, w]; write it while the request is idle."""
        place: Array = self._tensors.inputs[Role.NOISE][request]
        return place

    def clear(self, request: int) -> None:
        """Zero a request's state: an idle request is still computed, and 0 × NaN is NaN."""
        with self._lock.used():
            self._tensors.set_state(request, 0)

    def begin(self, request: int, window: Window, *, initial: Array, steps: int, noise_steps: int = 0) -> Progress:
        """Set a request to the first denoising step of a chunk.

        Args:
            request: Number of the request slot.
            window: Visible slots and positions of the chunk.
            initial: Initial latent, float32 [T, c, h, w]; copied.
            steps: Denoising steps of the chunk.
            noise_steps: Number of steps of :meth:`noise` that were rewritten.

        Returns:
            The chunk's progress, updated until the request begins another chunk or leaves.

        Raises:
            SessionError: As :meth:`check_idle`.
        """
        with self._lock.used():
            self.check_idle()
            self._tensors.set_window(self._tensors.inputs, request, window)
            self._tensors.set_state(request, initial)
            if noise_steps:
                self._upload_noise(request, noise_steps)
            self._begun[request] = Progress(steps)
            return self._begun[request]

    def run(self, steps: int, on_step: Callable[[int], None] | None = None) -> StepTimes:
        """Run the denoise graph ``steps`` times: every request that has begun advances, the others are idle.

        Args:
            steps: Denoising steps, at most the graph's maximum.
            on_step: Called after each step with the number done; an exception from it ends the loop.

        Raises:
            SessionError: As :meth:`check_idle`.
            DeviceError: A run failed.
        """
        with self._lock.used():
            self.check_idle()
            self._running = True
            try:
                times = self._stepper.run(steps, on_step)
            finally:
                self._running = False
            for progress in self._begun.values():
                progress.count(times)
            return times

    def check_idle(self) -> None:
        """Refuse a call from inside :meth:`run`, which the lane's reentrant lock lets through. Hold the lock.

        Raises:
            SessionError: This was called by a callback of :meth:`run`.
        """
        if self._running:
            raise SessionError(
                "the lane is denoising: this was called from an on_step callback or observer of a session on the same "
                "lane; let that call return first"
            )

    def leave(self, request: int) -> None:
        """Stop counting steps of a request whose chunk is finished or canceled."""
        self._begun.pop(request, None)

    def latent(self, request: int) -> Array:
        """Return a copy of a request's latent, float32 [T, c, h, w]."""
        with self._lock.used():
            return self._tensors.read_state(Role.LATENT, request)

    def history(self, request: int) -> Array:
        """Return a copy of a request's last estimate of the clean latent, float32 [T, c, h, w]."""
        with self._lock.used():
            return self._tensors.read_state(Role.HISTORY, request)

    def device_latent(self, request: int) -> DeviceArray:
        """Return a request's latent in device memory, [T, c, h, w]; overwritten by the next chunk."""
        return self._tensors.state.device_array(Role.LATENT, request)

    def close(self) -> None:
        """Release the captured graph and the events. Closing twice is allowed."""
        self._owned.close()

    def _capture(self, eager: EagerStepper, events: Events) -> ReplayStepper:
        """Capture a step, and compare a replay of it with an eager run."""
        trial = StepTrial(self._tensors.inputs, self._tensors.state)
        # The first run is outside the capture: a context may allocate and initialize in it.
        wanted = trial.run(eager)
        stepper = self._owned.add(ReplayStepper(self._device, events, capture(self._device, self._enqueue_step)))
        trial.check(wanted, trial.run(stepper))
        trial.clear()
        self._device.synchronize()
        return stepper

    def _enqueue_step(self) -> None:
        """Enqueue one denoising step, and the copy of its results to the inputs of the next."""
        self._call.enqueue()
        self._tensors.enqueue_handing_on()

    def _upload_noise(self, request: int, steps: int) -> None:
        if not self._device.is_host:
            place = self.noise(request)
            there = self._tensors.inputs.device_array(Role.NOISE, request).address
            self._device.upload(there, place.ctypes.data, steps * place[0].nbytes)
