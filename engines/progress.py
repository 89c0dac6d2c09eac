"""Progress reports and cancellation of builds, which take minutes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from ..hosts.tensorrt.library import TensorRtLibrary

__all__ = ["Cancelled", "Progress", "heartbeat", "make_monitor", "run_beside"]

Progress = Callable[[str], None]
_T = TypeVar("_T")
HEARTBEAT_S, _POLL_S = 10.0, 0.1


class Cancelled(threading.Event):
    """Event that requests the build to stop."""


def make_monitor(tensorrt: TensorRtLibrary, stage: str, progress: Progress, cancelled: Cancelled) -> Any:
    """Return a monitor that reports the builder's progress and stops it on request; None before TensorRT 10.

    The config holds no Python reference to it: keep it alive until the build ends.
    """
    if not tensorrt.has_monitor:
        return None

    class Monitor(tensorrt.module.IProgressMonitor):  # type: ignore[misc, name-defined]
        """Monitor called from several of the builder's threads; exceptions here would end the build silently."""

        def __init__(self) -> None:
            tensorrt.module.IProgressMonitor.__init__(self)
            self._lock = threading.Lock()
            self._steps: dict[str, int] = {}
            self._said = time.monotonic()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            """Record the number of steps of a phase."""
            with self._lock:
                self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            """Report progress every few seconds; return whether to continue."""
            with self._lock:
                now = time.monotonic()
                steps = self._steps.get(phase_name, 0)
                if now - self._said >= HEARTBEAT_S:
                    self._said = now
                    progress(f"{stage}: {phase_name}, step {step + 1} of {steps}")
            return not cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            """Remove a phase."""
            with self._lock:
                self._steps.pop(phase_name, None)

    return Monitor()


def run_beside(
    work: Callable[[], _T], stage: str, progress: Progress, cancelled: Cancelled, every: float = HEARTBEAT_S
) -> _T:
    """Run work that ignores signals in a thread, so that Ctrl-C takes effect; return its result.

    Ctrl-C requests the work to stop and waits for it, because it uses memory that is about to be freed. A second Ctrl-C
    does not wait.

    Raises:
        KeyboardInterrupt: The work was interrupted.
        Exception: The exception that the work raised.
    """
    results: list[_T] = []
    errors: list[BaseException] = []

    # Not by joining the thread: an interrupted join marks it as ended (CPython issue 90882).
    done = threading.Event()

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=run, name=f"vdmrt-build-{stage}", daemon=True)
    with heartbeat(stage, progress, every):
        thread.start()
        try:
            while not done.wait(_POLL_S):
                pass
        except KeyboardInterrupt:
            cancelled.set()
            progress(f"{stage}: stopping; the builder ends its step first (Ctrl-C again does not wait for it)")
            while not done.wait(_POLL_S):
                pass
            errors.clear()  # its traceback would keep the builder alive
            raise
    if errors:
        raise errors[0]
    return results[0]


@contextmanager
def heartbeat(stage: str, progress: Progress, every: float = HEARTBEAT_S) -> Iterator[None]:
    """Report the elapsed time of a stage every ``every`` seconds."""
    done = threading.Event()
    started = time.monotonic()

    def beat() -> None:
        while not done.wait(every):
            progress(f"{stage}: {time.monotonic() - started:.0f} s")

    thread = threading.Thread(target=beat, name="vdmrt-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
