"""Steppers: run denoising steps by replaying a captured CUDA graph in C, or by calls from Python."""

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

# Enough that the device never waits for the host, few enough that canceling takes two steps at most.
_IN_FLIGHT = 2


@dataclass(frozen=True)
class StepTimes:
    """Timings of denoising steps.

    Attributes:
        denoise_ms: Device time of each step, in milliseconds.
        enqueue_us: Host time of each step, in microseconds; on the CPU the step itself.
    """

    denoise_ms: list[float]
    enqueue_us: list[float]


class EagerStepper:
    """Stepper that calls a Python function for each step."""

    def __init__(self, device: Device, events: Events, enqueue: Callable[[], None]) -> None:
        """Store the function that enqueues one step on ``device``; ``events`` has one more entry than steps."""
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
        """Release the function, which belongs to the owner of this object: it would form a reference cycle."""
        self._enqueue = _refuse

    def _await(self, passed: int, on_step: Callable[[int], None] | None) -> None:
        self._events.wait(passed)
        if on_step is not None:
            on_step(passed)


class ReplayStepper:
    """Stepper that replays a captured step."""

    def __init__(self, device: Device, events: Events, graph: Graph) -> None:
        """Take ownership of a graph captured on ``device``; ``events`` has one more entry than steps."""
        self._device = device
        self._events = events
        self._graph = graph

    def run(self, steps: int, on_step: Callable[[int], None] | None) -> StepTimes:
        """Run ``steps`` steps and wait for the last.

        Args:
            steps: Number of steps.
            on_step: Called after each step with the number done; an exception from it ends the loop within two steps.
                Without it the GIL is acquired only every 50 ms, to check for signals.

        Raises:
            DeviceError: A step failed. No step is in flight any more.
        """
        enqueue_us = self._device.replay(self._graph, self._events, steps, on_step)
        return StepTimes(_step_ms(self._events, steps), enqueue_us)

    def close(self) -> None:
        """Destroy the graph."""
        self._graph.close()


def capture(device: Device, enqueue: Callable[[], None]) -> Graph:
    """Capture the work that ``enqueue`` enqueues on ``device``, without running it.

    Raises:
        DeviceError: The work cannot be captured, or there is none.
    """
    try:
        device.begin_capture()
        enqueue()
        return device.end_capture()
    except BaseException:
        # The queue must not stay in capture mode after a failure.
        with suppress(DeviceError):
            device.abort_capture()
        raise


def _refuse() -> None:
    raise RuntimeError("the stepper is closed")


def _step_ms(events: Events, steps: int) -> list[float]:
    return [events.elapsed_ms(step, step + 1) for step in range(steps)]
