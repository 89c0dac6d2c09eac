"""Hears from TensorRT how long each layer of a run took, and tells of a run as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["LayerTimes", "TensorRtProfiler"]

# Names of layers, in order of execution, and their milliseconds; a name may stand there twice.
LayerTimes = Sequence[tuple[str, float]]


class TensorRtProfiler:
    """The profiler of one execution context; it must live as long as the context does."""

    def __init__(self, tensorrt: Any, execution_context: Any, on_run: Callable[[LayerTimes], None]) -> None:
        """Attach to a context.

        Args:
            tensorrt: The module.
            execution_context: IExecutionContext. Its runs are not to be captured from now on.
            on_run: Told of each run once the device has finished it.
        """
        self._on_run = on_run
        self._layers: list[tuple[str, float]] = []
        self._profiler = _make_profiler(tensorrt, self._layers)
        execution_context.profiler = self._profiler
        # Asked for after each run instead: the answer says whether TensorRT could tell.
        execution_context.enqueue_emits_profile = False

    def finish_run(self, execution_context: Any) -> bool:
        """Wait for the run that was enqueued last and tell of it; False where TensorRT cannot say its times."""
        self._layers.clear()
        if not execution_context.report_to_profiler():
            return False
        self._on_run(tuple(self._layers))
        return True


def _make_profiler(tensorrt: Any, layers: list[tuple[str, float]]) -> Any:
    class Profiler(tensorrt.IProfiler):  # type: ignore[misc]
        """Notes what TensorRT says."""

        def __init__(self) -> None:
            tensorrt.IProfiler.__init__(self)  # pybind11 wants it called by name

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """Hear of one layer."""
            # TensorRT ends the process where this raises, so nothing is made of it here.
            layers.append((layer_name, ms))

    return Profiler()
