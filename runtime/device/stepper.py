"""Runs the denoise graph step after step: by replaying a captured CUDA graph in C, or call by call from Python."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import DeviceError

if TYPE_CHECKING:
    from .._core import Device, Events, Graph

__all__ = ["EagerStepper", "ReplayStepper", "StepTimes", "capture"]

# Enough for the device never to wait for the host, few enough that cancelling takes two steps at most.
_IN_FLIGHT = 2


@dataclass(frozen=True)
class StepTimes:
    """Where the time of some denoising steps went.

    Attributes:
        denoise_ms: Each step on the device's clock, in milliseconds.
        enqueue_us: What the host did for each, in microseconds; on the CPU that is the step itself.
    """

    denoise_ms: list[float]
    enqueue_us: list[float]


class EagerStepper:
    """Calls a function for each step."""

    def __init__(self, device: Device, events: Events, enqueue: Callable[[], None]) -> None:
        """Take what enqueues one step on ``device``; ``events`` are more than there will be steps."""
        self._device = device
        self._events = events
        self._enqueue = enqueue

    def run(self, steps: int, on_step: Callable[[int], None] | None) -> StepTimes:
        """Run ``steps`` steps and wait for the last; see :meth:`ReplayStepper.run`."""
        enqueue_us = []
        try:
            self._events.record(0)
            for step in range(steps):
                started = time.perf_counter()
                self._enqueue()
                self._events.record(step + 1)
                enqueue_us.append((time.perf_counter() - started) * 1e6)
                passed = step + 2 - _IN_FLIGHT if not self._device.is_host else step + 1
                if passed > 0:
                    self._await(passed, on_step)
            if not self._device.is_host:
                self._await(steps, on_step)
        except BaseException:
            self._device.synchronize()
            raise
        return StepTimes(_step_ms(self._events, steps), enqueue_us)

    def close(self) -> None:
        """Let go of what is called, which belongs to the lane that owns this: the two would keep each other alive."""
        self._enqueue = _refuse

    def _await(self, passed: int, on_step: Callable[[int], None] | None) -> None:
        self._events.wait(passed)
        if on_step is not None:
            on_step(passed)


class ReplayStepper:
    """Replays a captured step."""

    def __init__(self, device: Device, events: Events, graph: Graph) -> None:
        """Take a graph captured on ``device``, owned from now on; ``events`` are more than there will be steps."""
        self._device = device
        self._events = events
        self._graph = graph

    def run(self, steps: int, on_step: Callable[[int], None] | None) -> StepTimes:
        """Run ``steps`` steps and wait for the last.

        Args:
            steps: How many.
            on_step: Called after each with the number done; what it raises ends the loop within two steps. Without it
                the GIL is taken every 50 ms only, to look for signals.

        Raises:
            DeviceError: A step failed. Nothing is in flight any more.
        """
        enqueue_us = self._device.replay(self._graph, self._events, steps, on_step)
        return StepTimes(_step_ms(self._events, steps), enqueue_us)

    def close(self) -> None:
        """Destroy the graph."""
        self._graph.close()


def capture(device: Device, enqueue: Callable[[], None]) -> Graph:
    """Capture what ``enqueue`` puts on ``device``; nothing of it runs.

    Raises:
        DeviceError: Something in it cannot be captured, or it put nothing there.
    """
    try:
        device.begin_capture()
        enqueue()
        return device.end_capture()
    except BaseException:
        # Whatever failed, the queue must not be left capturing.
        with suppress(DeviceError):
            device.abort_capture()
        raise


def _refuse() -> None:
    raise RuntimeError("the stepper is closed")


def _step_ms(events: Events, steps: int) -> list[float]:
    return [events.elapsed_ms(step, step + 1) for step in range(steps)]
