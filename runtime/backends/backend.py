"""The waist between what runs a graph and everything else: a backend, the programs that it loads, and their calls.

A backend has a device and loads programs; a program is a graph with named tensors; a call is a program whose tensors
have addresses. To watch or to alter runs, wrap these three: each method of a wrapper calls the one that it wraps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from .._core import Device
    from .layer_times import LayerTime
    from .stage_source import StageSource

__all__ = ["Backend", "Call", "Program", "TimedProgram", "TimesLayers"]


class Call(Protocol):
    """A program whose tensors have addresses, on one queue. The memory stays its owner's."""

    def enqueue(self) -> None:
        """Run once, in order after earlier work of the queue; on a GPU it returns before the work is done.

        Raises:
            DeviceError: The run failed.
            RuntimeError: The call is closed.
        """
        ...

    def close(self) -> None:
        """Free what the backend holds for it; the queue must be idle. Closing twice is allowed."""
        ...


class Program(Protocol):
    """A loaded graph. Any number of queues may run it, in any number of threads.

    Attributes:
        scratch_nbytes: Bytes of device memory that the calls of a queue must be given; 0 where it brings its own.
        capturable: Whether enqueueing may be captured into a CUDA graph.
    """

    @property
    def scratch_nbytes(self) -> int: ...  # noqa: D102

    @property
    def capturable(self) -> bool: ...  # noqa: D102

    def bind(self, device: Device, addresses: Mapping[str, int], scratch: int = 0) -> Call:
        """Set the address of every input and output.

        Args:
            device: The queue that the call runs on. Calls of one queue are enqueued one at a time.
            addresses: By tensor's name; names of other tensors are ignored.
            scratch: Address of ``scratch_nbytes`` bytes that the caller keeps alive, or 0 where none are needed. Calls
                of one queue may share them.

        Raises:
            TensorMismatchError: A tensor has no address, or one that is not aligned as the backend needs it.
            DeviceError: There is not enough memory for the call.
        """
        ...

    def close(self) -> None:
        """Unload the graph, whose calls have been closed. Closing twice is allowed."""
        ...


class Backend(Protocol):
    """What runs graphs on a device.

    Attributes:
        name: "onnxruntime" or "tensorrt".
        device_name: What it runs on: "host", or "cuda:0" and so on.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def device_name(self) -> str: ...  # noqa: D102

    def describe(self) -> str:
        """Return library, version and device in one line."""
        ...

    def open_device(self) -> Device:
        """Open a queue for a lane or the codec: its own, where the backend can run on several.

        Raises:
            DeviceError: The device cannot be opened.
        """
        ...

    def load(self, source: StageSource) -> Program:
        """Load a stage, whose files were checked.

        Raises:
            BundleError: The graph is not what model.json says.
            BackendError: The backend refuses it.
        """
        ...

    def close(self) -> None:
        """Free what is left, all programs being closed. Closing twice is allowed."""
        ...


class TimedProgram(Program, Protocol):
    """A program that runs with its backend's profiler on, and is not captured."""

    def layer_times(self) -> list[LayerTime]:
        """Return the layers that ran, in order of execution; after it nothing more is recorded."""
        ...


@runtime_checkable
class TimesLayers(Protocol):
    """A program whose layers can be timed; not every backend can do it."""

    def timed(self) -> TimedProgram:
        """Return a program of the same graph with the profiler on; close it before this one."""
        ...
